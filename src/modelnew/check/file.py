"""Checking a file with `ModelNew` against a reference file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from modelnew import memory, reference as reference_file
from modelnew.check import sizes
from modelnew.check.generators import Generator, Substitute
from modelnew.check.judge import Judge, conclude
from modelnew.check.process import Candidate, Died
from modelnew.check.report import CaseResult, Report
from modelnew.check.truth import Reference
from modelnew.errors import CheckError
from modelnew.problem import Problem
from modelnew.targets import dtype_named

CALL_SECONDS = 60.0


class _FileInputs:
    """`get_inputs()` with the random functions inside it substituted."""

    def __init__(self, problem: Problem, dtype: str | None) -> None:
        self.problem = problem
        self.dtype = dtype

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        if generator.fill is None:
            return self.problem.inputs(dtype=self.dtype, seed=seed)
        mode = Substitute(generator.fill, seed)
        with mode:
            found = self.problem.inputs(dtype=self.dtype, seed=seed)
        return found if mode.used else None


def check_file(
    problem: Problem,
    candidate: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Judges the `ModelNew` of `candidate` against the problem's `Model`.

    device, dtype: where and in what both run; None keeps the file's dtypes. seed: repeats a check; None draws one.
    memory_limit: bytes that the candidate's process may take; None: what is free, less a reserve.
    Raises CheckError where the check cannot be carried out, ReferenceFileError where the reference does not run.
    """
    return check_files(problem, [candidate], device=device, dtype=dtype, seed=seed, memory_limit=memory_limit, progress=progress)[0]


def check_files(
    problem: Problem,
    candidates: Sequence[Path],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int | None = None,
    memory_limit: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Report]:
    """`check_file` for several candidates, which share the reference's answers."""
    for path in candidates:
        if not path.is_file():
            raise CheckError("there is no such file", doing="checking", on=str(path))
    seed = int.from_bytes(os.urandom(6), "big") if seed is None else seed
    reduced = sizes.reduce(problem, device, dtype, progress)
    free, _ = memory.free_memory(torch.device(device))
    limit = memory_limit or max(1 << 30, free - (2 << 30))
    judge = _judge(reduced.problem, device, dtype, seed, progress)
    first = judge.evaluation(judge.cases[0])
    if first.error:
        raise CheckError(f"the reference raises {first.error}", doing="checking", on=str(problem.path))
    return [_one(path, judge, reduced, device, dtype, limit, progress) for path in candidates]


def _judge(problem: Problem, device: str, dtype: str | None, seed: int, progress: Callable[[str], None]) -> Judge:
    def make(wanted: torch.dtype | None) -> torch.nn.Module:
        return problem.model(device=device, dtype=wanted, seed=seed)

    reference = Reference(make, device=torch.device(device), dtype=dtype_named(dtype), seed=seed)
    return Judge(reference, _FileInputs(problem, dtype), seed=seed, progress=progress)


def _one(
    path: Path, judge: Judge, reduced: sizes.Reduced, device: str, dtype: str | None, limit: int, progress: Callable[[str], None]
) -> Report:
    started = time.monotonic()
    problem = reduced.problem
    results: list[CaseResult] = []
    kernels: dict[str, int] = {}
    progress(f"starting {path.name}")
    runner = Candidate(path, device=device, memory_limit=limit, call_seconds=CALL_SECONDS)
    try:
        args, kwargs = reference_file.constructor_arguments(problem.path, problem.module)
        loaded = runner.load(args, kwargs, dtype_named(dtype), judge.call_seed)
        if loaded.error or loaded.facts:
            reason = f"it raises {loaded.error}" if loaded.error else f"{loaded.facts[0]} by importing the file"
            results.append(CaseResult("loading", "files that do not run", "rejected", reason, detail=loaded.error_text))
        else:
            for result in judge.judge(runner):
                results.append(result)
    except Died as died:
        results.append(CaseResult("the process", "crashes, hangs, memory without end", "rejected", f"it {died}"))
    finally:
        kernels = dict(runner.kernels)
        runner.close()
    notes = _size_notes(reduced)
    return conclude(
        judge, tuple(results), candidate=str(path), reference=str(problem.path), started=started, sizes=reduced.sizes, notes=notes,
        kernels=kernels,
    )  # fmt: skip


def _size_notes(reduced: sizes.Reduced) -> tuple[str, ...]:
    if not reduced.sizes:
        return ()
    text = ", ".join(f"{name}={value}" for name, value in reduced.sizes.items())
    if reduced.same_parameters:
        return (f"judged at {text}",)
    return (f"judged at {text}, which changes the parameters' shapes: kernels made for the full shapes were not exercised",)
