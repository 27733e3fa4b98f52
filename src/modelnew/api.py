"""The public functions: optimize, check, bench, explain; for live modules, and for reference files (…_file, …_files)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelnew import constants, reference
from modelnew.bench import bench_file as time_file
from modelnew.bench import bench_modules, floor, machine
from modelnew.bench.compare import Comparison, compare
from modelnew.bench.documents import Document, csv_text
from modelnew.bench.documents import read as read_document
from modelnew.bench.floor import Floor
from modelnew.bench.folder import FolderReport
from modelnew.bench.folder import bench_folder as time_folder
from modelnew.bench.page import page
from modelnew.bench.plot import picture
from modelnew.bench.plot import require_drawing as require_drawing
from modelnew.bench.products import faster_products
from modelnew.bench.report import Report as BenchReport
from modelnew.bench.sweep import Sweep, parse_sweep, sweep
from modelnew.bench.variants import baseline, require_options
from modelnew.check import check_files as judge_files
from modelnew.check import check_module, junit
from modelnew.check.report import Report as CheckReport
from modelnew.compiler import LiveModule, Program, compile_source, with_products
from modelnew.delivery import OptimizeResult, deliver
from modelnew.drafts import Draft, known_precision
from modelnew.errors import UsageError
from modelnew.explain import Explanation, work_of
from modelnew.live import live_origin, load_source, wrap
from modelnew.outputs import write
from modelnew.problem import Problem
from modelnew.progress import Progress, quiet
from modelnew.render.file import render_file
from modelnew.targets import device_named

FOLDER_LIMIT_S = 1800.0
LOOKS = 3  # at a verdict, at most: while it is open after the budget, `bench` measures for as long again


@dataclass(frozen=True)
class TimedFile:
    """What `bench_file` measured, and what it measured it on."""

    report: BenchReport
    explanation: Explanation


@dataclass(frozen=True)
class Measurement:
    """What `measure` found. reports: (value of the swept constant, report or None, why there is none); none for a folder.

    good: every optimised file was timed and can be believed; for a folder: was accepted. explanation: what was fused.
    sources: name → text of an optimised file.
    """

    document: Document
    reports: Sequence[tuple[str, BenchReport | None, str]]
    good: bool
    explanation: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


def optimize(model: nn.Module, *inputs: object, precision: str = "fp32") -> nn.Module:
    """`model` on kernels of its own: a module of a class derived from the model's, sharing its parameters.

    inputs: positional arguments of forward. Their dtypes, ranks and structure are what the kernels are made for; sizes stay
    open where the model allows it. Whatever the kernels do not cover runs the model's own forward. Kernels are built when
    they are first called. The class's `source` is the text that was written; `state_dict()` is the model's.
    precision: of fp32 products; "fp32": as accurate as fp32, on tensor cores where that is faster; "emulated": there also
    where nobody has timed it, on GPUs of compute capability 8.x and 12.x; "ieee": the library's own.
    Raises CaptureError where the model's graph cannot be read, UnsupportedError for complex, quantised or sparse tensors.
    """
    _require_modules("optimize(model, *inputs)", model)
    known_precision(precision)
    program = compile_source(LiveModule(model, inputs))
    program = with_products(program, frozenset(faster_products(program.captured)), precision=precision)
    return wrap(model, load_source(render_file(program, model, live_origin(model)), type(model)))


def check(
    model: nn.Module, candidate: nn.Module, *inputs: object, seed: int | None = None, progress: Progress = quiet
) -> CheckReport:
    """Judges `candidate` against `model` on inputs like these, and others, in this process. Raises CheckError,
    UsageError."""
    _require_modules("check(model, candidate, *inputs)", model, candidate)
    return check_module(model, candidate, inputs, seed=seed, progress=progress)


def bench(
    model: nn.Module,
    candidate: nn.Module,
    *inputs: object,
    baselines: Sequence[str] = ("torch.compile",),
    budget_s: float = 10.0,
    progress: Progress = quiet,
) -> BenchReport:
    """Median times of `model`, its compiled form and `candidate`, interleaved in this process. Raises BenchError,
    UsageError."""
    require_options(baselines, budget_s)
    variants: dict[str, Callable[..., object]] = {"eager": model, "modelnew": candidate}
    variants |= {name: baseline(name, model) for name in baselines}
    device = next((str(leaf.device) for leaf in inputs if isinstance(leaf, torch.Tensor)), "cpu")
    return bench_modules(variants, inputs, device=device, budget_s=budget_s, progress=progress)


def explain(model: nn.Module, *inputs: object) -> Explanation:
    """What `optimize` would fuse, and why not more. Nothing is built or run."""
    _require_modules("explain(model, *inputs)", model)
    live = LiveModule(model, inputs)
    program = compile_source(live)
    return Explanation(program, None, render_file(program, model, live_origin(model)), with_source=True)


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
    precision: str = "fp32",
    progress: Progress = quiet,
) -> OptimizeResult:
    """Writes the optimised file and its report beside it. A rejected one gets the suffix `.rejected.py` instead.

    precision: as `optimize` takes it.
    """
    place = str(device_named(device))
    draft = Draft(path, overrides, place, dtype, progress, show=show, precision=precision)
    return deliver(
        draft.finish(progress, measure=bench), output, place, dtype, check=check, bench=bench, progress=progress
    )


def explain_file(
    path: Path,
    *,
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    source: bool = False,
    show: str | None = None,
    progress: Progress = quiet,
) -> Explanation:
    """What `optimize_file` would write, with the floor at the device's own measured rates; the model is not run."""
    place = str(device_named(device))
    finished = Draft(path, overrides, place, dtype, progress, show=show).finish(progress, measure=False)
    progress("measuring what the machine can do")
    return Explanation(finished.program, _floor(finished.program, place), finished.text, finished.shown, source)


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
    sandbox: bool = False,
    time_limit: float | None = None,
    progress: Progress = quiet,
) -> list[CheckReport]:
    """Judges files that define ModelNew against a reference; docs/check.md says by which rule. Raises CheckError.

    time_limit: seconds for each answer of a candidate; None: 600 for what may build kernels, 60 for others."""
    return judge_files(
        Problem.load(reference, overrides),
        list(candidates),
        device=str(device_named(device)),
        dtype=dtype,
        seed=seed,
        precision=precision,
        gradients=gradients,
        sandbox=sandbox,
        time_limit=time_limit,
        progress=progress,
    )


def write_junit(path: Path, reports: Sequence[CheckReport]) -> None:
    """The cases of some checks as a JUnit document. Raises OutputError."""
    write(path, junit(reports), "--junit")


def bench_file(
    path: Path,
    *,
    candidates: Sequence[Path] = (),
    overrides: Mapping[str, object] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    baselines: Sequence[str] = ("torch.compile",),
    budget_s: float = 20.0,
    progress: Progress = quiet,
) -> TimedFile:
    """Times the candidates, or the file that `optimize_file` would write, against eager and other baselines.

    Raises UsageError, before anything is built, for a candidate that is no file, an unknown baseline or no time."""
    reference.require_files(candidates, "timing")
    require_options(baselines, budget_s)
    place = str(device_named(device))
    finished = Draft(path, overrides, place, dtype, progress).finish(progress, measure=not candidates)
    problem, program, text = finished.problem, finished.program, finished.text
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
            looks=LOOKS,
            work=work_of(program),
            progress=progress,
        )
    return TimedFile(report, Explanation(program, report.floor, text))


def sweep_file(path: Path, text: str, *, overrides: Mapping[str, object], progress: Progress, **options: Any) -> Sweep:
    """`bench_file` at each value of a constant; `text` as in "batch_size=1,8,64". Raises UsageError, before
    anything is measured, for a value that the constant cannot have."""
    name, values = parse_sweep(text)
    source = reference.read(path)
    for value in values:
        constants.override(source, {**overrides, name: value}, on=str(path))

    def measure(value: str) -> BenchReport:
        return bench_file(path, overrides={**overrides, name: value}, progress=progress, **options).report

    return sweep(path.name, name, values, measure, progress)


def bench_folder(
    folder: Path,
    *,
    results: Path | None = None,
    overrides: Mapping[str, str] | None = None,
    device: str = "auto",
    dtype: str | None = None,
    baselines: Sequence[str] = ("torch.compile",),
    budget_s: float = 20.0,
    limit_s: float = FOLDER_LIMIT_S,
    progress: Progress = quiet,
) -> FolderReport:
    """Optimises, checks and times every reference file of a folder; goes on where an earlier call was interrupted.

    results: where what is done is kept; None: `NAME_bench` in the working directory. overrides: for the files that have
    the constant. budget_s: seconds of timing for each file. limit_s: seconds after which a file is given up, in building
    and again in timing. Raises BenchError, OutputError, UsageError.
    """
    require_options(baselines, budget_s, limit_s)
    place = str(device_named(device))
    return time_folder(
        folder,
        results or Path(f"{folder.resolve().name}_bench"),
        overrides=overrides or {},
        command="modelnew.task",
        limit_s=limit_s,
        device=place,
        dtype=dtype,
        baselines=baselines,
        budget_s=budget_s,
        progress=progress,
    )


def measure(
    path: Path,
    candidates: Sequence[Path],
    *,
    swept: str | None = None,
    results: Path | None = None,
    limit_s: float = FOLDER_LIMIT_S,
    **options: Any,
) -> Measurement:
    """What the command `bench` does: `bench_file`, `sweep_file` where `swept` is given, `bench_folder` for a folder."""
    if path.is_dir():
        if candidates or swept:
            raise UsageError("a folder takes no NEW.py and no --sweep", doing="timing a folder", on=str(path))
        folder = bench_folder(path, results=results, limit_s=limit_s, **options)
        return Measurement(folder.as_dict(), [], folder.accepted, sources=folder.sources)
    if swept is not None:
        found = sweep_file(path, swept, candidates=candidates, **options)
        points = [(point.value, point.report, point.reason) for point in found.points]
        measured = [report for _, report, _ in points if report is not None]
        believed = bool(measured) and all(report.believed for report in measured)
        return Measurement(found.as_dict(), points, believed)
    timed = bench_file(path, candidates=candidates, **options)
    sources = {"What `modelnew optimize` writes" if candidates else "The optimised file": timed.explanation.file}
    report = timed.report
    return Measurement(report.as_dict(), [("", report, "")], report.believed, timed.explanation.text(), sources)


def save_measurement(
    found: Measurement, *, csv: Path | None = None, plot: Path | None = None, html: Path | None = None
) -> None:
    """Writes it as CSV, as a picture (.svg, .png), as one HTML page. Raises OutputError, after it has written the others."""
    with contextlib.ExitStack() as each:  # runs all of them, whichever raises
        if html is not None:
            each.callback(
                lambda: write(
                    html, page(found.document, explanation=found.explanation, sources=found.sources), "--html"
                )
            )
        if plot is not None:
            each.callback(lambda: write(plot, picture(found.document, plot.suffix), "--plot"))
        if csv is not None:
            each.callback(lambda: write(csv, csv_text(found.document), "--csv"))


def compare_files(old: Path, new: Path, *, threshold: float) -> Comparison:
    """What became slower between two measurements, by more than `threshold` (a share). Raises BenchError,
    UsageError."""
    return compare(read_document(old), read_document(new), threshold)


def _require_modules(call: str, *given: object) -> None:
    for value in given:
        if not isinstance(value, nn.Module):
            raise UsageError(
                f"{call.partition('(')[0]} takes a module, not {reference.kind(value)}", hint=f"modelnew.{call}"
            )


def _floor(program: Program, device: str) -> Floor:
    work = work_of(program)
    return floor(work, machine.measure(device, list(work.flops), work.bytes_moved))
