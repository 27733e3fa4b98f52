"""A finished text becomes a file: judged, timed, and written with its report beside it."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modelnew
from modelnew.bench import bench_file as time_file
from modelnew.check import check_files as judge_files
from modelnew.compiler import Program
from modelnew.drafts import Finished, require_compiler
from modelnew.errors import BenchError, MemoryShortError
from modelnew.explain import work_of
from modelnew.outputs import rejected_name, report_name, write
from modelnew.problem import Problem
from modelnew.progress import Progress, quiet
from modelnew.targets import dtype_text

BUDGET_S = 10.0  # seconds of timing: `optimize` is asked for a file and not for figures


@dataclass(frozen=True)
class OptimizeResult:
    """What `optimize_file` did. `accepted`: the verdict, None where it was not asked for or could not be reached."""

    output: Path
    accepted: bool | None
    report: dict[str, Any]
    summary: list[str]


def deliver(
    finished: Finished,
    output: Path,
    place: str,
    dtype: str | None,
    *,
    check: bool,
    bench: bool,
    threads: int | None = None,
    progress: Progress = quiet,
) -> OptimizeResult:
    """Raises what judging raises; what cannot be timed only says so. threads: see `check.check_files`."""
    problem, program, text, shown = finished.problem, finished.program, finished.text, finished.shown
    report: dict[str, Any] = {
        "schema": "modelnew.optimize/1",
        "modelnew": modelnew.__version__,
        "reference": problem.path.name,
    }
    work = work_of(program)
    report["work"] = {"bytes_read": work.bytes_read, "bytes_written": work.bytes_written, "flops": dict(work.flops)}
    report["kernels"] = [contest.as_dict() for contest in finished.contests]
    summary = [*([shown] if shown else []), *_fused(program), *finished.notes]
    built = program.kernels or (program.products and place.startswith("cuda"))
    if built and (check or bench):
        require_compiler(place)
    with tempfile.TemporaryDirectory(prefix="modelnew-") as folder:
        candidate = Path(folder) / output.name
        write(candidate, text)
        verdict = None
        if check:
            options: dict[str, Any] = {"device": place, "dtype": dtype, "threads": threads, "progress": progress}
            verdict = judge_files(problem, [candidate], **options)[0]
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


def _fused(program: Program) -> list[str]:
    capability = "8.x, 9.0 or 12.x" if program.unmeasured else "9.0"
    products = [f"matrix products run on tensor cores, or of few rows in plain fp32, on a GPU of {capability}"]
    products = products if program.forward.plain_products else []
    if not program.kernels:
        return products or ["nothing in this model gains from a kernel of its own: the file runs the original forward"]
    dtypes = ", ".join(map(dtype_text, program.working)) or "the captured dtypes"
    names = ", ".join(f"{kernel.name} ({kernel.family})" for kernel in program.kernels)
    count = f"{len(program.kernels)} kernel{'s' if len(program.kernels) > 1 else ''}"
    return [f"{count} for {dtypes}: {names}", *products]


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
        timed = time_file(
            problem,
            [candidate],
            device=device,
            dtype=dtype,
            budget_s=BUDGET_S,
            work=work_of(program),
            progress=progress,
        )
    except (MemoryShortError, BenchError) as error:
        report["bench"] = {"error": str(error)}
        return [f"not timed: {error}"]
    report["bench"] = timed.as_dict()
    lines = []
    for row in timed.rows():
        if row.seconds is None:
            lines.append(f"{row.name}: {row.note}")
        else:
            speed = f", {row.ratio.value:.2f} × eager ({row.verdict})" if row.ratio and row.verdict else ""
            over = f", {row.over_floor:.2f} × the floor" if row.over_floor is not None else ""
            lines.append(f"{row.name}: {row.seconds * 1e3:.4g} ms{speed}{over}")
    return lines
