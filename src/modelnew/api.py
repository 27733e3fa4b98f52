"""The public functions: optimize, check, bench, explain; for live modules, and for reference files (…_file, …_files)."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import modelnew
from modelnew import reference as reference_file
from modelnew.bench import bench_file as time_file
from modelnew.bench import bench_modules, floor, machine
from modelnew.bench.compare import Comparison, compare
from modelnew.bench.documents import Document, csv_text
from modelnew.bench.documents import read as read_document
from modelnew.bench.floor import Floor
from modelnew.bench.page import page
from modelnew.bench.plot import draw
from modelnew.bench.products import faster_products
from modelnew.bench.report import Report as BenchReport
from modelnew.bench.sweep import Sweep, parse_sweep, sweep
from modelnew.check import check_files as judge_files
from modelnew.check import check_module, junit
from modelnew.check.report import Report as CheckReport
from modelnew.compiler import LiveModule, Program, compile_source, with_products
from modelnew.errors import BenchError, BuildError, MemoryShortError, UsageError
from modelnew.explain import Explanation, work_of
from modelnew.live import load_source, wrap
from modelnew.outputs import rejected_name, report_name, write
from modelnew.problem import Problem
from modelnew.render.file import Origin, render_file
from modelnew.runtime.toolchain import BuildFailure, find_tools
from modelnew.targets import device_named, dtype_text

Progress = Callable[[str], None]
PASSES = ("capture", "rewrite", "partition", "lower", "forward", "program")


def _quiet(text: str) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class TimedFile:
    """What `bench_file` measured, and what it measured it on."""

    report: BenchReport
    explanation: Explanation


@dataclass(frozen=True)
class OptimizeResult:
    """What `optimize_file` did. `accepted`: the verdict, None where it was not asked for or could not be reached."""

    output: Path
    accepted: bool | None
    report: dict[str, Any]
    summary: list[str]


def optimize(model: nn.Module, *inputs: object) -> nn.Module:
    """`model` on kernels of its own: a module of a class derived from the model's, sharing its parameters.

    inputs: positional arguments of forward. Their dtypes, ranks and structure are what the kernels are made for; sizes stay
    open where the model allows it. Whatever the kernels do not cover runs the model's own forward. Kernels are built when
    they are first called. The class's `source` is the text that was written; `state_dict()` is the model's.
    Raises CaptureError where the model's graph cannot be read, UnsupportedError for complex, quantised or sparse tensors.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"optimize takes a module, not a {type(model).__name__}", hint="modelnew.optimize(model, *inputs)"
        )
    program = compile_source(LiveModule(model, inputs))
    program = with_products(program, frozenset(faster_products(program.captured)))
    name = type(model).__name__
    comment = f"# Model is the class {type(model).__module__}.{type(model).__qualname__} of the module that was given."
    origin = Origin(name, None, f"modelnew.optimize({name}(…), …)", modelnew.__version__, imports=comment)
    return wrap(model, load_source(render_file(program, model, origin), type(model)))


def check(
    model: nn.Module, candidate: nn.Module, *inputs: object, seed: int | None = None, progress: Progress = _quiet
) -> CheckReport:
    """Judges `candidate` against `model` on inputs like these, and others, in this process. Raises CheckError."""
    return check_module(model, candidate, inputs, seed=seed, progress=progress)


def bench(
    model: nn.Module,
    candidate: nn.Module,
    *inputs: object,
    baselines: Sequence[str] = ("torch.compile",),
    budget_s: float = 10.0,
    progress: Progress = _quiet,
) -> BenchReport:
    """Median times of `model`, its compiled form and `candidate`, interleaved in this process. Raises BenchError."""
    variants: dict[str, Callable[..., object]] = {"eager": model, "modelnew": candidate}
    if "torch.compile" in baselines:
        variants["torch.compile"] = torch.compile(model)
    device = next((str(leaf.device) for leaf in inputs if isinstance(leaf, torch.Tensor)), "cpu")
    return bench_modules(variants, inputs, device=device, budget_s=budget_s, progress=progress)


def explain(model: nn.Module, *inputs: object) -> Explanation:
    """What `optimize` would fuse, and why not more. Nothing is built or run."""
    live = LiveModule(model, inputs)
    program = compile_source(live)
    origin = Origin(
        type(model).__name__, None, "modelnew.optimize", modelnew.__version__, imports="# the model's class"
    )
    return Explanation(program, None, render_file(program, model, origin), with_source=True)


class _ProblemSource:
    """A reference file, as the compiler takes it."""

    def __init__(self, problem: Problem, device: str, dtype: str | None) -> None:
        self.problem, self.device, self.dtype = problem, device, dtype

    def abstract(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, list[Any]]:
        found = self.problem.abstract(device=self.device, dtype=dtype or self.dtype)
        return found.model, found.inputs


def optimize_file(
    path: Path,
    *,
    output: Path,
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    check: bool = True,
    bench: bool = True,
    show: str | None = None,
    progress: Progress = _quiet,
) -> OptimizeResult:
    """Writes the optimised file and its report beside it. A rejected one gets the suffix `.rejected.py` instead."""
    place = str(device_named(device))
    problem, program, text, shown = _compile_file(path, overrides, place, dtype, show, progress, measure=bench)
    report: dict[str, Any] = {"schema": "modelnew.optimize/1", "modelnew": modelnew.__version__, "reference": path.name}
    work = work_of(program)
    report["work"] = {"bytes_read": work.bytes_read, "bytes_written": work.bytes_written, "flops": dict(work.flops)}
    summary = [*([shown] if shown else []), *_fused(program)]
    if program.kernels and (check or bench):
        _require_compiler(place)
    with tempfile.TemporaryDirectory(prefix="modelnew-") as folder:
        candidate = Path(folder) / output.name
        write(candidate, text)
        verdict = None
        if check:
            verdict = judge_files(problem, [candidate], device=place, dtype=dtype, progress=progress)[0]
            report["check"] = verdict.as_dict()
            summary.append(verdict.headline)
        if bench and (verdict is None or verdict.accepted is not False):
            summary += _timed(problem, candidate, program, place, dtype, report, progress)
    accepted = verdict.accepted if verdict is not None else None
    written = rejected_name(output) if accepted is False else output
    write(written, text)
    write(report_name(output), json.dumps(report, indent=1, allow_nan=False) + "\n")
    summary.append(f"{written} written, its figures in {report_name(output)}")
    return OptimizeResult(written, accepted, report, summary)


def explain_file(
    path: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    source: bool = False,
    show: str | None = None,
    progress: Progress = _quiet,
) -> Explanation:
    """What `optimize_file` would write, with the floor at the device's own measured rates; the model is not run."""
    place = str(device_named(device))
    _, program, text, shown = _compile_file(path, overrides, place, dtype, show, progress)
    progress("measuring what the machine can do")
    return Explanation(program, _floor(program, place), text, shown, source)


def check_files(
    reference: Path,
    candidates: Sequence[Path],
    *,
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    precision: str | None = None,
    gradients: bool = False,
    progress: Progress = _quiet,
) -> list[CheckReport]:
    """Judges files that define ModelNew against a reference; docs/check.md says by which rule. Raises CheckError."""
    return judge_files(
        Problem.load(reference, overrides),
        list(candidates),
        device=str(device_named(device)),
        dtype=dtype,
        seed=seed,
        precision=precision,
        gradients=gradients,
        progress=progress,
    )


def write_junit(path: Path, reports: Sequence[CheckReport]) -> None:
    """The cases of some checks as a JUnit document. Raises OutputError."""
    write(path, junit(reports))


def bench_file(
    path: Path,
    *,
    candidates: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    baselines: Sequence[str] = ("torch.compile",),
    budget_s: float = 20.0,
    progress: Progress = _quiet,
) -> TimedFile:
    """Times the candidates, or the file that `optimize_file` would write, against eager and other baselines."""
    place = str(device_named(device))
    problem, program, text, _ = _compile_file(path, overrides, place, dtype, None, progress, measure=True)
    with tempfile.TemporaryDirectory(prefix="modelnew-") as folder:
        if not candidates:
            candidates = [Path(folder) / f"{path.stem}_new.py"]
            write(candidates[0], text)
        report = time_file(
            problem,
            list(candidates),
            device=place,
            dtype=dtype,
            baselines=baselines,
            budget_s=budget_s,
            work=work_of(program),
            progress=progress,
        )
    return TimedFile(report, Explanation(program, report.floor, text))


def sweep_file(path: Path, text: str, *, overrides: Mapping[str, object], progress: Progress, **options: Any) -> Sweep:
    """`bench_file` at each value of a constant; `text` as in "batch_size=1,8,64". Raises UsageError."""
    name, values = parse_sweep(text)

    def measure(value: str) -> BenchReport:
        return bench_file(path, overrides={**overrides, name: value}, progress=progress, **options).report

    return sweep(path.name, name, values, measure, progress)


def save_bench(
    document: Document,
    *,
    csv: Path | None,
    plot: Path | None,
    html: Path | None,
    explanation: Explanation | None = None,
) -> None:
    """Writes a measurement as CSV, as a picture (.svg, .png), as one HTML page. Raises OutputError, UsageError."""
    if csv is not None:
        write(csv, csv_text(document))
    if plot is not None:
        draw(document, plot)
    if html is not None:
        about = (explanation.text(), explanation.file) if explanation is not None else ("", "")
        write(html, page(document, explanation=about[0], source=about[1]))


def compare_files(old: Path, new: Path, *, threshold: float) -> Comparison:
    """What became slower between two measurements, by more than `threshold` (a share). Raises BenchError."""
    return compare(read_document(old), read_document(new), threshold)


def _compile_file(
    path: Path,
    overrides: Mapping[str, object] | None,
    device: str,
    dtype: str | None,
    show: str | None,
    progress: Progress,
    *,
    measure: bool = False,
) -> tuple[Problem, Program, str, str]:
    """The problem, its program, the text of the optimised file, and what `show` asked to see.

    measure: let a measurement choose between the libraries that compute a product.
    """
    if show is not None and show not in (*PASSES, "all"):
        raise UsageError(
            f"there is no pass {show!r}", doing="reading --show", hint=f"Choose from {', '.join(PASSES)}, all."
        )
    progress(f"reading {path.name}")
    problem = Problem.load(path, overrides)
    source = _ProblemSource(problem, device, dtype)
    seen: list[str] = []

    def keep(name: str, value: object) -> None:
        progress(f"compiling: {name}")
        if show in (name, "all"):
            seen.append(f"== {name}\n{value}")

    program = compile_source(source, keep)
    if measure and device == "cpu":
        progress("measuring products")
        program = with_products(program, frozenset(faster_products(program.captured)))
    model, _ = source.abstract()
    args, kwargs = reference_file.constructor_arguments(problem.path, problem.module)
    settings = [f"--set {name}={shlex.quote(str(value))}" for name, value in problem.overrides.items()]
    command = " ".join(["modelnew optimize", path.name, *settings, *([f"--dtype {dtype}"] if dtype else [])])
    origin = Origin(path.name, problem.source, command, modelnew.__version__, (tuple(args), dict(kwargs)))
    return problem, program, render_file(program, model, origin), "\n".join(seen)


def _require_compiler(device: str) -> None:
    """Raises BuildError where the kernels could not be built at all: that is no verdict on them."""
    try:
        find_tools("cuda" if device.startswith("cuda") else "cpu")
    except BuildFailure as failure:
        hint = "`modelnew doctor` says what is missing; --no-check --no-bench writes the file without building it."
        raise BuildError(str(failure), doing="looking for the compiler", hint=hint) from None


def _fused(program: Program) -> list[str]:
    if not program.kernels:
        return ["nothing in this model gains from a kernel of its own: the file runs the original forward"]
    dtypes = ", ".join(map(dtype_text, program.working)) or "the captured dtypes"
    names = ", ".join(f"{kernel.name} ({kernel.family})" for kernel in program.kernels)
    count = f"{len(program.kernels)} kernel{'s' if len(program.kernels) > 1 else ''}"
    return [f"{count} for {dtypes}: {names}"]


def _floor(program: Program, device: str) -> Floor:
    work = work_of(program)
    return floor(work, machine.measure(device, list(work.flops), work.bytes_moved))


def _timed(
    problem: Problem,
    candidate: Path,
    program: Program,
    device: str,
    dtype: str | None,
    report: dict[str, Any],
    progress: Progress,
) -> list[str]:
    """Times the candidate; where that cannot be done, says why: the verdict stands without it."""
    try:
        timed = time_file(problem, [candidate], device=device, dtype=dtype, work=work_of(program), progress=progress)
    except (MemoryShortError, BenchError) as error:
        report["bench"] = {"error": str(error)}
        return [f"not timed: {error}"]
    report["bench"] = timed.as_dict()
    lines = []
    for row in timed.rows():
        if row.seconds is None:
            lines.append(f"{row.name}: {row.note}")
        else:
            speed = f", {row.ratio.value:.2f} × eager ({row.verdict})" if row.ratio else ""
            over = f", {row.over_floor:.2f} × the floor" if row.over_floor is not None else ""
            lines.append(f"{row.name}: {row.seconds * 1e3:.4g} ms{speed}{over}")
    return lines
