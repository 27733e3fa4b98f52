"""Optimised modules against eager, torch.compile and the copy bandwidth of this machine's GPU.

    python benchmarks/cuda.py [--only PATTERN] [--rounds N]

Modules are optimised, compiled and built in processes of their own, several at a time; then all is timed in this one,
case by case, its variants in turn. Prints a table with the bar of each case and, when all cases were run,
writes results/cuda-MACHINE.json and a picture of it. Exit code 1 when a bar is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks.cases import COMPILE, EAGER
from benchmarks.cuda_cases import CASES, COPY, Case
from benchmarks.cuda_copy import Copier
from benchmarks.cuda_report import line, markdown, picture
from modelnew.bench import machine
from modelnew.live import load_source, wrap

HERE = Path(__file__).resolve().parent
OURS = "modelnew"
AT_ONCE = 5  # processes that prepare: their inputs and results take up to 20 GB each
AHEAD = 500_000  # cycles that the device is busy with while the host issues what is timed

Call = Callable[[], object]


def prepare(case: Case) -> str:
    """Optimises, builds and compiles a case, so that this process's successors find all of it in the caches. Returns
    the optimised module's text."""
    from modelnew import optimize

    model, inputs = case.model().cuda(), case.inputs()
    with torch.no_grad():
        fast = optimize(model, *inputs)
        fast(*inputs)
        torch.compile(model, dynamic=False)(*inputs)
    return str(type(fast).source)  # type: ignore[attr-defined]


def in_new_process(case: Case) -> str:
    command = [sys.executable, __file__, "--case", case.name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name}: the process that prepares it ended with code {done.returncode}")
    return str(json.loads(done.stdout.splitlines()[-1]))


def events(call: Call) -> float:
    """Seconds of the device for one call. The device is kept busy until the host has issued it; so the host's time,
    and what the call waits for, is outside. The device's second-level cache holds other things when it begins."""
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(AHEAD)
    before.record()
    call()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) * 1e-3


def host(call: Call, calls: int) -> float:
    """Seconds per call, of many in a row."""
    torch.cuda.synchronize()
    start = perf_counter()
    for _ in range(calls):
        call()
    torch.cuda.synchronize()
    return (perf_counter() - start) / calls


def time_all(variants: Mapping[str, Call], rounds: int, calls: int) -> dict[str, list[float]]:
    """Seconds of each variant, its samples taken in turn with the others'."""
    flush = torch.empty(4 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in variants}
    for sample in range(rounds + 3):
        for name, call in variants.items():
            flush.zero_()
            seconds = events(call) if calls == 1 else host(call, calls)
            if sample >= 3:
                times[name].append(seconds)
    return times


def measure(case: Case, source: str, copier: Copier, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    model, inputs = case.model().cuda(), case.inputs()
    fast: nn.Module = wrap(model, load_source(source, type(model)))
    compiled = torch.compile(model, dynamic=False)
    variants: dict[str, Call] = {
        EAGER: lambda: model(*inputs),
        COMPILE: lambda: compiled(*inputs),
        OURS: lambda: fast(*inputs),
    }
    bytes_moved = sum(x.numel() * x.element_size() for x in inputs)
    if case.copies:
        bytes_moved *= 2
        variants[COPY] = copier.copy_of(inputs[0])
    with torch.no_grad():
        times = time_all(variants, rounds, case.calls)
    seconds = {name: statistics.median(samples) for name, samples in times.items()}
    spread = {name: statistics.quantiles(samples, n=4) for name, samples in times.items()}
    ratios = {name: seconds[name] / seconds[OURS] for name in seconds if name != OURS}
    return {
        "case": case.name,
        "seconds": seconds,
        "quartiles": {name: [values[0], values[2]] for name, values in spread.items()},
        "bytes_per_s": bytes_moved / seconds[OURS],
        "kernels": len(fast.kernels.by_name),  # type: ignore[union-attr,arg-type]
        "ratios": ratios,
        "bars": dict(case.bars),
        "met": all(ratios[name] >= bar for name, bar in case.bars.items()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name this pattern finds; nothing is written")
    parser.add_argument("--rounds", type=int, default=25, help="samples of each variant")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/cuda.py needs a GPU", file=sys.stderr)
        return 2
    if options.case:
        print(json.dumps(prepare(next(case for case in CASES if case.name == options.case))))
        return 0
    cases = [case for case in CASES if re.search(options.only, case.name)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        sources = list(pool.map(in_new_process, cases))
    copier = Copier()
    rows = []
    for case, source in zip(cases, sources, strict=True):
        rows.append(measure(case, source, copier, options.rounds))
        torch.cuda.empty_cache()
        print(line(rows[-1]), flush=True)
    if not options.only:
        write(rows, copier)
    return 0 if all(row["met"] for row in rows) else 1


def write(rows: list[dict[str, Any]], copier: Copier) -> None:
    described = {**machine.describe("cuda"), "cores": len(os.sched_getaffinity(0))}
    document = {"schema": "modelnew.cuda/1", "machine": described, "copy": copier.as_dict(), "rows": rows}
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name("cuda").lower()).strip("-")
    path = HERE / "results" / f"cuda-{slug}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(document))
    picture(document, path.with_suffix(".svg"))
    print(f"written: {path.relative_to(HERE.parent)}, .md and .svg beside it")


if __name__ == "__main__":
    sys.exit(main())
