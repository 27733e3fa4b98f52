"""How much memory a model needs, found without allocating it, and how much there is.

The need is that of one eager forward pass under fake tensors: every storage is counted from the operator that makes it
until it is freed. Workspaces inside an operator (a convolution's, for example) are not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Footprint:
    """Bytes.

    peak: the most that parameters, inputs and live results take together.
    free, total: the device's.
    """

    parameters: int
    inputs: int
    outputs: int
    peak: int
    free: int
    total: int


def measure(run: Callable[[], object], model: torch.nn.Module, inputs: object, free: tuple[int, int]) -> Footprint:
    """The footprint of `run`, which calls `model` on `inputs` under a fake-tensor mode that is already on."""
    live = _LiveStorages()
    state = [*model.parameters(), *model.buffers()]
    parameters = live.add(state)
    given = live.add(tree_leaves(inputs))
    with live:
        result = run()
        outputs = sum({_key(tensor): _bytes(tensor) for tensor in _tensors(tree_leaves(result))}.values())
    return Footprint(parameters, given, outputs, live.peak, *free)


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of the storages that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_leaves(result))
        return result

    def add(self, leaves: Iterable[object]) -> int:
        """Counts the storages behind `leaves` that were not known; returns their bytes."""
        added = 0
        for tensor in _tensors(leaves):
            key = _key(tensor)
            if key in self._seen:
                continue
            self._seen.add(key)
            size = _bytes(tensor)
            added += size
            weakref.finalize(tensor.untyped_storage(), self._free, key, size)
        self.now += added
        self.peak = max(self.peak, self.now)
        return added

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _tensors(leaves: Iterable[object]) -> Iterable[torch.Tensor]:
    return (leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided)


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage().nbytes())


def free_memory(device: torch.device) -> tuple[int, int]:
    """(free, total) bytes of `device`; on the CPU the machine's, or this process's cgroup's where less."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # what PyTorch's allocator holds but does not use is free to this process
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached, total
    table = _table("/proc/meminfo", ":")
    free, total = 1024 * table["MemAvailable"], 1024 * table["MemTotal"]
    for limit, used in _cgroup_limits():
        free, total = min(free, max(limit - used, 0)), min(total, limit)
    return free, total


def _cgroup_limits() -> Iterable[tuple[int, int]]:
    """(limit, used) of every cgroup above this process that has a limit. Page cache that can be dropped is not used."""
    root = Path("/sys/fs/cgroup")
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        base, limit_name, used_name, cache = (
            (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            if controllers
            else (root, "memory.max", "memory.current", "inactive_file")
        )
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            limit, used = _number(folder / limit_name), _number(folder / used_name)
            if limit is not None and used is not None and limit < 1 << 60:  # v1 says "no limit" with a huge number
                yield limit, used - _table(folder / "memory.stat", " ").get(cache, 0)
            if folder == base:
                break


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None  # cgroup v2 says "max" for no limit


def _table(path: str | Path, separator: str) -> dict[str, int]:
    rows = (line.split(separator, 1) for line in _lines(path) if separator in line)
    return {key: int(rest.split()[0]) for key, rest in rows}


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def readable(size: float) -> str:
    """12.9 GB: powers of 1000."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
