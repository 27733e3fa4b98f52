"""The rows of reports as text cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelnew.bench.compare import Change
    from modelnew.bench.report import Report as BenchReport
    from modelnew.bench.report import Row
    from modelnew.check.report import Report as CheckReport

CHECK_COLUMNS = ("case", "outcome", "rms", "max", "why, or what it catches")
COMPARE_COLUMNS = ("variant", "old", "new", "speed, new against old", "95 % interval", "verdict")
BENCH_COLUMNS = ("variant", "median", "speed", "95 % interval", "verdict", "÷ floor", "note")


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
        return (row.name, "failed", "", "", "", "", row.note)
    ratio = row.ratio
    return (
        row.name,
        time(row.seconds),
        f"{ratio.value:.2f} ×" if ratio else "",
        f"{ratio.low:.2f} to {ratio.high:.2f}" if ratio else "",
        row.verdict,
        f"{row.over_floor:.2f}" if row.over_floor is not None else "",
        row.note,
    )


def compare_cells(change: Change) -> tuple[str, ...]:
    """Cells for COMPARE_COLUMNS."""
    name = f"{change.measurement}: {change.variant}" if change.measurement else change.variant
    if change.ratio is None or change.new_s is None:
        return (name, time(change.old_s), "", "", "", change.reason or "not comparable")
    interval = f"{change.low:.2f} to {change.high:.2f}"
    verdict = "slower" if change.regressed else "as fast"
    return (name, time(change.old_s), time(change.new_s), f"{change.ratio:.2f} ×", interval, verdict)


def time(seconds: float) -> str:
    """Three digits with a unit: 23.4 ms."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
