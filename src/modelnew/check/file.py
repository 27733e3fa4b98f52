"""Checking a file with `ModelNew` against a reference file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from modelnew import memory
from modelnew import reference as reference_file
from modelnew.check import larger as larger_sizes
from modelnew.check import sizes
from modelnew.check.candidate import Candidate
from modelnew.check.conclude import conclude
from modelnew.check.diagnose import crash, loading_error
from modelnew.check.inputs import FileInputs
from modelnew.check.judge import Judge
from modelnew.check.larger import Larger
from modelnew.check.precision import product_unit
from modelnew.check.process import SCRATCH_BYTES, DiedError, Limits, Processes
from modelnew.check.report import CaseResult, Report
from modelnew.check.toolchain import fault
from modelnew.check.truth import Reference
from modelnew.check.whole import Whole
from modelnew.errors import CheckError, UsageError
from modelnew.problem import Problem
from modelnew.progress import Progress, quiet
from modelnew.targets import dtype_named

SIDE_BY_SIDE = 4  # candidates that are judged at the same time


def check_file(
    problem: Problem,
    candidate: Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int | None = None,
    precision: str | None = None,
    gradients: bool = False,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    disk_limit: int = SCRATCH_BYTES,
    sandbox: bool = False,
    progress: Progress = quiet,
) -> Report:
    """Judges the `ModelNew` of `candidate` against the problem's `Model`.

    device, dtype: where and in what both run; None keeps the file's dtypes. seed: repeats a check; None draws one.
    precision: "tf32", "fp16" or "bf16" allows products that precision; None only the dtype's own. gradients: compares
    those too. memory_limit: bytes that the candidate's process may take; None: what is free, less a reserve.
    time_limit: seconds that it may take to be imported, and for each call; None: 600 for what may build kernels, 60 for
    other calls. disk_limit: bytes that it may write to its scratch folder. sandbox: runs the candidate in bubblewrap.
    Raises CheckError where the check cannot be carried out, ReferenceFileError where the reference does not run, UsageError
    where `candidate` is no file.
    """
    return check_files(
        problem,
        [candidate],
        device=device,
        dtype=dtype,
        seed=seed,
        precision=precision,
        gradients=gradients,
        memory_limit=memory_limit,
        time_limit=time_limit,
        disk_limit=disk_limit,
        sandbox=sandbox,
        progress=progress,
    )[0]


def check_files(
    problem: Problem,
    candidates: Sequence[Path],
    *,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int | None = None,
    precision: str | None = None,
    gradients: bool = False,
    memory_limit: int | None = None,
    time_limit: float | None = None,
    disk_limit: int = SCRATCH_BYTES,
    sandbox: bool = False,
    threads: int | None = None,
    progress: Progress = quiet,
) -> list[Report]:
    """`check_file` for several candidates, which share the reference's answers. threads: that their kernels run on; None: as
    many as this process has."""
    reference_file.require_files(candidates, "checking")
    if time_limit is not None and not time_limit > 0:
        raise UsageError(f"{time_limit:g} s is no time limit", doing="checking", hint="Give seconds above 0.")
    seed = int.from_bytes(os.urandom(6), "big") if seed is None else seed
    free, _ = memory.free_memory(torch.device(device))
    limits = Limits(memory_limit or max(1 << 30, free - (2 << 30)), time_limit, sandbox, disk_limit)
    with contextlib.closing(Processes(limits, threads or torch.get_num_threads())) as processes:
        processes.start_one()  # while the truths are found
        reduced = sizes.reduce(problem, device, dtype, progress)
        unit = product_unit(precision)

        def make(wanted: torch.dtype | None) -> torch.nn.Module:
            return reduced.problem.model(device=device, dtype=wanted, seed=seed)

        reference = Reference(make, device=torch.device(device), dtype=dtype_named(dtype), seed=seed, product_unit=unit)
        source = FileInputs(reduced.problem, dtype)
        judge = Judge(reference, source, seed=seed, progress=progress, gradients=gradients)
        first = judge.evaluation(judge.cases[0])
        if first.error:
            raise CheckError(f"the reference raises {first.error}", doing="checking", on=str(problem.path))
        larger = larger_sizes.make(
            problem, reduced.larger, device, dtype, judge.call_seed, unit, progress, reduced.full
        )
        task = _Task(judge, reduced, problem.overrides, larger, processes, limits, device, dtype, progress)
        return task.reports(candidates)


@dataclass
class _Found:
    """What became of one candidate."""

    path: Path
    started: float
    results: list[CaseResult] = field(default_factory=list)
    kernels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Task:
    """What all candidates of one call share."""

    judge: Judge
    reduced: sizes.Reduced
    constants: Mapping[str, object]  # that the user set
    larger: Larger | str | None
    processes: Processes
    limits: Limits
    device: str
    dtype: str | None
    progress: Progress

    def reports(self, paths: Sequence[Path]) -> list[Report]:
        """Judges the candidates, a few at a time."""
        if len(paths) == 1:
            return [self._conclude(self._judge(paths[0]))]
        drawn = (case for path in paths for case in self.judge.boundaries(_source(path)))
        for case in [*self.judge.cases, *self.judge.steps, *drawn]:
            self.judge.evaluation(case)  # the truths first: they change the default dtype, which threads share
        with ThreadPoolExecutor(min(SIDE_BY_SIDE, os.cpu_count() or 1)) as pool:
            found = list(pool.map(self._judge, paths))
        return [self._conclude(item) for item in found]

    def _judge(self, path: Path) -> _Found:
        found, text = _Found(path, time.monotonic()), path.read_bytes()
        found.results += self._results(found, self._cases, ahead=isinstance(self.larger, Larger))
        if isinstance(self.larger, Larger) and not any(case.outcome == "rejected" for case in found.results):
            self.progress(f"{path}: {larger_sizes.NAME}")
            found.results += self._results(found, self._larger)
        if not path.is_file() or path.read_bytes() != text:
            reason = "it is no longer what it was when its check began"
            found.results.append(CaseResult("the file", "files that change while they are judged", "rejected", reason))
        return found

    def _conclude(self, found: _Found) -> Report:
        return conclude(
            self.judge,
            tuple(found.results),
            candidate=str(found.path),
            reference=str(self.reduced.problem.path),
            started=found.started,
            sizes=self.reduced.sizes,
            notes=_size_notes(self.reduced, self.larger),
            kernels=found.kernels,
        )

    def _results(
        self, found: _Found, work: Callable[[Candidate], Iterator[CaseResult]], *, ahead: bool = False
    ) -> list[CaseResult]:
        """What `work` finds with a process of its own; the end of that process is a finding too. ahead: the next one that
        is needed is started meanwhile."""
        results: list[CaseResult] = []
        device = torch.device(self.device)
        runner = Candidate(
            found.path, self.processes.take(), device=device, limits=self.limits, constants=self.constants
        )
        if ahead:
            self.processes.start_one()
        try:
            for result in work(runner):
                results.append(result)
        except DiedError as died:
            reason = f"it {died}{crash(died, self.judge.reference.dtype)}"
            results.append(CaseResult("the process", "crashes, hangs, memory without end", "rejected", reason))
        finally:
            for name, count in runner.kernels.items():
                found.kernels[name] = found.kernels.get(name, 0) + count
            runner.close()
        return results

    def _cases(self, runner: Candidate) -> Iterator[CaseResult]:
        problem = self.reduced.problem
        args, kwargs = reference_file.constructor_arguments(problem.path, problem.module)
        loaded = runner.load(args, kwargs, dtype_named(self.dtype), self.judge.call_seed)
        if loaded.error and (why := fault(loaded.error + loaded.error_text)):
            yield CaseResult("loading", "files that do not run", "undecided", why, detail=loaded.error_text)
            return
        if loaded.error or loaded.facts:
            reason = loading_error(loaded) if loaded.error else f"{loaded.facts[0]} by importing the file"
            yield CaseResult("loading", "files that do not run", "rejected", reason, detail=loaded.error_text)
            return
        yield from self.judge.judge(runner, _source(runner.path))

    def _larger(self, runner: Candidate) -> Iterator[CaseResult]:
        assert isinstance(self.larger, Larger)
        yield from self.larger.judge(runner)


def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _size_notes(reduced: sizes.Reduced, larger: Larger | str | None) -> tuple[str, ...]:
    """At which sizes the verdict was found, and what that leaves open."""
    if not reduced.sizes:
        return ()
    notes = [f"judged at {_text(reduced.sizes)}"]
    if not reduced.same_parameters:
        notes[0] += ", which changes the shapes of the parameters: kernels made for the full shapes do not run there"
    if isinstance(larger, Larger):
        notes.append("a few cases at " + (_text(larger.sizes) or "the file's own sizes"))
        if isinstance(larger.whole, Whole):
            notes.append("one at the file's own sizes, in slices of the batch")
        elif larger.whole:
            notes.append(f"none at the file's own sizes: {larger.whole}")
    elif larger:
        notes.append(f"no cases at larger sizes: {larger}")
    return tuple(notes)


def _text(values: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
