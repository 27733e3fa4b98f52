"""The rows of reports as text cells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelnew.bench.compare import Change
    from modelnew.bench.report import Report as BenchReport
    from modelnew.bench.report import Row
    from modelnew.check.report import Report as CheckReport

CHECK_COLUMNS = ("case", "outcome", "rms", "max", "why, or what it catches")
COMPARE_COLUMNS = ("variant", "old", "new", "speed, new against old", "95 % interval", "verdict")
BENCH_COLUMNS = (
    *("variant", "median", "speed", "95 % interval", "verdict", "÷ floor", "error", "first call", "memory", "note"),
)
FOLDER_COLUMNS = ("task", "eager", "modelnew", "speed", "95 % interval", "verdict", "÷ floor", "note")
_MANY_TIMES = 1e6  # an end of an interval beyond this only says that there were too few samples


def check_notes(report: CheckReport) -> str:
    """What a reader must know beside the cases: one line each."""
    sizes = ", ".join(f"{name}={value}" for name, value in report.sizes.items())
    kernels = ", ".join(f"{name} ({count} ×)" for name, count in report.kernels.items())
    lines = [
        *report.notes,
        f"judged at {sizes}" if sizes else "",
        f"kernels run: {kernels}" if kernels else "",
        f"on {report.device} in {report.dtype}",
        f"its errors look like {report.accuracy_class}" if report.accuracy_class else "",
        f"repeat with --seed {report.seed}",
    ]
    return "\n".join(line for line in lines if line)


def bench_title(report: BenchReport) -> str:
    """One line: what was timed, on what, and the noise below which nothing is claimed."""
    machine = report.machine.get("name", "this machine")
    return (
        f"{report.subject} on {report.device} ({machine}, {report.threads} threads, {report.dtype or 'own dtypes'}); "
        f"speed against {report.variants[0].name}, noise {100 * report.noise_floor:.1f} %"
    )


def bench_cells(row: Row) -> tuple[str, ...]:
    """Cells for BENCH_COLUMNS."""
    if row.seconds is None:
        return (row.name, "failed", *[""] * 7, row.note)
    ratio = row.ratio
    against = f" ({row.error_against})" if row.error_against not in ("", "float64") else ""
    return (
        row.name,
        time(row.seconds),
        f"{ratio.value:.2f} ×" if ratio else "",
        _interval(ratio.low, ratio.high) if ratio else "",
        row.verdict,
        f"{row.over_floor:.2f}" if row.over_floor is not None else "",
        f"{row.error:.0e}{against}" if row.error is not None else "",
        time(row.first_call_s) if row.first_call_s is not None else "",
        f"{row.memory_bytes / 1e6:,.1f} MB" if row.memory_bytes is not None else "",
        row.note,
    )


def folder_cells(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Cells for FOLDER_COLUMNS, from a task of `FolderReport`."""
    if not task["report"]:
        verdict = "accepted" if task["accepted"] else "not accepted"
        return (task["task"], "", "", "", "", verdict, "", task["reason"] or "")
    eager, new = task["report"]["variants"][0], task["report"]["variants"][-1]
    if new["status"] != "timed":
        return (task["task"], time(eager["seconds"]), "failed", "", "", "", "", new["reason"])
    return (
        task["task"],
        time(eager["seconds"]),
        time(new["seconds"]),
        f"{new['ratio']:.2f} ×",
        _interval(new["low"], new["high"]),
        new["verdict"],
        f"{new['over_floor']:.2f}" if new["over_floor"] is not None else "",
        "faster than the hardware allows: not believed" if new["impossible"] else "",
    )


def folder_summary(summary: Mapping[str, Any], tasks: int) -> str:
    """How many tasks became faster, by how much, which became slower, and of how many that is not certain; one line each."""
    shares = ", ".join(f"{100 * share:.0f} % more than {p} ×" for p, share in summary["fast_p"].items())
    mean, slower = summary["geometric_mean"], ", ".join(summary["slower"])
    return "\n".join(
        [
            f"of {tasks} tasks, accepted and faster than eager: {shares}",
            f"geometric mean of the accepted tasks' speeds: {mean:.2f} ×" if mean is not None else "no task was timed",
            f"slower than eager: {slower or 'none'}",
            f"ambiguous, neither faster nor slower for certain: {len(summary['ambiguous'])}",
        ]
    )


def compare_cells(change: Change) -> tuple[str, ...]:
    """Cells for COMPARE_COLUMNS."""
    name = f"{change.measurement}: {change.variant}" if change.measurement else change.variant
    if change.ratio is None or change.new_s is None:
        return (name, time(change.old_s), "", "", "", change.reason or "not comparable")
    interval = _interval(change.low, change.high)
    return (name, time(change.old_s), time(change.new_s), f"{change.ratio:.2f} ×", interval, change.verdict)


def _interval(low: float | None, high: float | None) -> str:
    """As "0.98 to 1.02", or "0.98 to ∞"."""
    assert low is not None
    return f"{low:.2f} to {'∞' if high is None or high > _MANY_TIMES else f'{high:.2f}'}"


def time(seconds: float) -> str:
    """Three digits with a unit: 23.4 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
