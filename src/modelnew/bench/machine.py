"""The machine: what it is called, and what it can do at best, measured."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modelnew.bench.clock import clock_for
from modelnew.memory import free_memory

# bytes; far beyond every cache, small enough to measure quickly; a GPU needs some GB to come to its best rate
_LARGEST_BUFFER = {"cpu": 1 << 28, "cuda": 1 << 32}
_MEMORY_SHARE = 4  # of the free memory that the buffers, which are twice the working set, may take: one part in so many
_SMALLEST_BUFFER = 1 << 16
_REPEATS = 7


@dataclass(frozen=True)
class Rates:
    """bytes_per_s: bytes read and written per second by the fastest copy or read. flops_per_s: fastest matrix
    product, by dtype name.
    working_set: bytes that the copy moved: a set that fits in a cache moves faster."""

    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    working_set: int

    def as_dict(self) -> dict[str, object]:
        return {"bytes_per_s": self.bytes_per_s, "flops_per_s": dict(self.flops_per_s), "working_set": self.working_set}


def name(device: str = "cpu") -> str:
    """Such as "AMD EPYC, 2 cores" or "NVIDIA H200"; never a host name."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    return f"{_cpu_model()}, {cores} core{'s' if cores != 1 else ''}"


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if not found:
        return platform.machine()
    model = re.sub(r"\((R|TM|tm)\)|\bCPU\b|\bProcessor\b|@.*|\d+-Core", "", found[1])
    return " ".join(model.split())


def describe(device: str) -> dict[str, object]:
    """The machine and the versions that decide its speed, for reports: name, instruction_set, torch, python, system,
    cuda, threads."""
    return {
        "name": name(device),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cuda": torch.version.cuda if torch.device(device).type == "cuda" else None,
        "threads": torch.get_num_threads(),
    }


def measure(device: str, dtypes: Sequence[str] = (), working_set: int = 1 << 28) -> Rates:
    """Measures the machine's best memory rate at about `working_set` bytes in all, and its matrix rate in each of
    `dtypes`.

    Takes about a second on the CPU. Raises RuntimeError where `device` is not there.
    """
    place = torch.device(device)
    largest = min(_LARGEST_BUFFER[place.type], free_memory(place)[0] // (2 * _MEMORY_SHARE))
    working_set = max(_SMALLEST_BUFFER, min(largest, working_set))
    with torch.no_grad():
        return Rates(_memory_rate(device, working_set), {d: _product_rate(device, d) for d in dtypes}, working_set)


def _best(device: str, call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    clock = clock_for(device)
    one = clock.sample(call, 1).seconds
    calls = 1 if torch.device(device).type == "cuda" else max(1, round(2e-4 / max(one, 1e-7)))
    return min(clock.sample(call, calls).seconds for _ in range(_REPEATS))


def _memory_rate(device: str, working_set: int) -> float:
    """The faster of a copy (half the set read, half written) and a read of the whole set."""
    half = working_set // 8  # float32 elements in half of the set
    source, target = torch.ones(half, device=device), torch.ones(half, device=device)
    whole = torch.ones(2 * half, device=device)
    rates = [
        8 * half / _best(device, lambda: target.copy_(source)),
        8 * half / _best(device, lambda: torch.sum(whole)),
        8 * half / _best(device, lambda: torch.amax(whole)),
    ]
    if torch.device(device).type == "cpu":
        rates.append(_memcpy_rate(source, target))
    return max(rates)


def _memcpy_rate(source: torch.Tensor, target: torch.Tensor) -> float:
    """The C library's copy, one part per thread: it streams past the caches where that is faster, which tensor
    copies do not."""
    threads = torch.get_num_threads()
    part = source.nbytes // threads
    parts = [(target.data_ptr() + i * part, source.data_ptr() + i * part, part) for i in range(threads)]
    if threads == 1:
        return 2 * part / _best("cpu", partial(ctypes.memmove, *parts[0]))
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter lock during the copy
        seconds = _best("cpu", lambda: list(pool.map(lambda p: ctypes.memmove(*p), parts)))
    return 2 * part * threads / seconds


def _product_rate(device: str, dtype: str) -> float:
    """As `_matrix_rate`; of fp32 on a GPU at least a third of the fp16 rate: split into halves, three products of which are
    added up, an fp32 product on tensor cores is as accurate as the library's own, and faster."""
    rate = _matrix_rate(device, dtype)
    if dtype == "float32" and torch.device(device).type == "cuda":
        rate = max(rate, _matrix_rate(device, "float16") / 3)
    return rate


def _matrix_rate(device: str, dtype: str) -> float:
    """Floating-point operations per second of the fastest square product that PyTorch's libraries offer."""
    size = 8192 if torch.device(device).type == "cuda" else (512 if dtype in ("float16", "float64") else 1024)
    a = torch.rand(size, size, device=device).to(getattr(torch, dtype))
    calls: list[Callable[[], object]] = [lambda: torch.mm(a, a), lambda: torch.nn.functional.linear(a, a)]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        packed: Any = torch.ops.mkldnn
        calls.append(lambda: packed._linear_pointwise(a, a, None, "none", [], ""))
    rates = []
    for call in calls:
        try:
            rates.append(2 * size**3 / _best(device, call))
        except RuntimeError:  # oneDNN does not take every dtype on every CPU
            continue
    if not rates:
        raise RuntimeError(f"no matrix product in {dtype} on {device}")
    return max(rates)
