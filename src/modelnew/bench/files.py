"""Timing optimised files against their reference, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelnew.bench import machine
from modelnew.bench.channel import Message
from modelnew.bench.fleet import Nursery
from modelnew.bench.floor import Work, floor
from modelnew.bench.race import EAGER, Race
from modelnew.bench.report import Report
from modelnew.bench.variants import prepared, require_options
from modelnew.problem import Problem
from modelnew.progress import Progress, quiet

_WORKERS = ("modelnew.bench.worker",)


def bench_file(
    problem: Problem,
    candidates: Sequence[Path],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    baselines: Sequence[str] = (EAGER, "torch.compile"),
    budget_s: float = 20.0,
    seed: int | None = None,
    work: Work | None = None,
    looks: int = 1,
    progress: Progress = quiet,
    nursery: Nursery | None = None,
) -> Report:
    """Times optimised files and baselines against the original run eagerly, on the reference's own inputs, under
    `torch.no_grad()`.

    candidates: files that define ModelNew. baselines: of `variants.BASELINES`; eager is always run, and always also
    against itself.
    dtype: fp64, fp32, fp16, bf16, or None for the file's own.
    budget_s: seconds for the timing itself; builds, compilation and the first set of processes come on top, and further
    sets take at most twice as long to set up: there are fewer where that does not do. Every block has at least a round.
    looks: while a file's verdict is open after the budget, it is measured for as long again, until there were so many looks at
    it; every interval is then wider.
    nursery: where workers come from, for a caller who has one.
    work: what the model has to do; with it the machine's rates are measured and every time is given as a multiple of
    the floor.

    A variant that fails, or whose times cannot be believed, is a row that says why. Raises BenchError when the
    original itself cannot be timed, MemoryShortError when it does not fit, ReferenceFileError when it does not run,
    UsageError for an unknown baseline or a budget that is none.
    """
    require_options(baselines, budget_s)
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    race = Race(problem, _entries(candidates, baselines), device, dtype, random.Random(seed), progress, looks=looks)
    with contextlib.nullcontext(nursery) if nursery else Nursery(*_WORKERS, *prepared(baselines, device)) as workers:
        race.run(workers, budget_s)
    report = replace(race.report(seed), baselines=(EAGER, *baselines))
    if work is None or not (work.bytes_moved or any(work.flops.values())):  # nothing to do takes no time
        return report
    race.tell("measuring what the machine can do")
    return report.with_floor(floor(work, machine.measure(device, list(work.flops), work.bytes_moved)))


def _entries(candidates: Sequence[Path], baselines: Sequence[str]) -> list[Message]:
    """What to make, baseline first; names are unique: a second file of one name is called by its path."""
    entries: list[Message] = [{"name": name, "baseline": name} for name in dict.fromkeys([EAGER, *baselines])]
    names = {entry["name"] for entry in entries}
    for path in candidates:
        name = path.name if path.name not in names else str(path)
        while name in names:  # the same file twice is a way to see the noise
            name += " (again)"
        names.add(name)
        entries.append({"name": name, "file": str(path.resolve())})
    return entries
