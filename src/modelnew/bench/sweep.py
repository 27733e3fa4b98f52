"""The same measurement at several values of one constant of the reference file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelnew.bench.documents import SWEEP
from modelnew.bench.report import Report
from modelnew.errors import BenchError, MemoryShortError, ModelnewError, UsageError
from modelnew.progress import Progress


@dataclass(frozen=True)
class Point:
    """report is None where this value could not be measured; then `reason` says why."""

    value: str
    report: Report | None
    reason: str = ""


@dataclass(frozen=True)
class Sweep:
    """A curve per variant over the values of constant `name`."""

    subject: str
    name: str
    points: tuple[Point, ...]

    def as_dict(self) -> dict[str, object]:
        """Schema "modelnew.bench-sweep/1": subject, name, points [{value, report ("modelnew.bench/1") or null,
        reason}]."""
        points = [
            {"value": p.value, "report": p.report.as_dict() if p.report else None, "reason": p.reason or None}
            for p in self.points
        ]
        return {"schema": SWEEP, "subject": self.subject, "name": self.name, "points": points}


def parse_sweep(text: str) -> tuple[str, list[str]]:
    """("batch_size", ["1", "8", "64"]) of "batch_size=1,8,64". Raises UsageError."""
    name, equals, values = text.partition("=")
    found = [value.strip() for value in values.split(",") if value.strip()]
    if not equals or not name.strip().isidentifier() or not found:
        raise UsageError(f"{text!r} is no sweep", doing="reading --sweep", hint="Write it as NAME=VALUE,VALUE,…")
    return name.strip(), list(dict.fromkeys(found))


def sweep(
    subject: str, name: str, values: Sequence[str], measure: Callable[[str], Report], progress: Progress
) -> Sweep:
    """`measure(value)` at each value in turn. A value that does not fit or cannot be timed is a point that says so, and once
    there are points, so is one with which the file does not run: what was measured is not lost."""
    points: list[Point] = []
    for value in values:
        progress(f"{name}={value}")
        try:
            points.append(Point(value, measure(value)))
        except ModelnewError as error:
            if not points and not isinstance(error, (MemoryShortError, BenchError)):
                raise
            points.append(Point(value, None, str(error).splitlines()[0]))
    return Sweep(subject, name, tuple(points))
