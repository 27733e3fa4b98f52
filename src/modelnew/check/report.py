"""What a check found, for people and for machines."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal
from xml.etree import ElementTree

from modelnew.check.verdict import Comparison, Worst

SCHEMA = 1

Outcome = Literal["accepted", "rejected", "refused", "undecided", "skipped"]


@dataclass(frozen=True)
class CaseResult:
    """One case. `catches` says what it is there to bring to light.

    outcome: accepted, rejected, refused (the candidate raised an error on inputs that it need not take), undecided (the
    reference cannot be judged on these inputs), skipped (the case does not apply, `reason` says why).
    r: rms error over the noise of honest arithmetic (accepted up to 8). rmax: the worst element over its own noise (up
    to 300).
    error, eager_error: rms deviations of the candidate and of eager from the float64 truth. likely: what a wrong answer
    looks like.
    """

    name: str
    catches: str
    outcome: Outcome
    reason: str = ""
    r: float = 0.0
    rmax: float = 0.0
    error: float = 0.0
    eager_error: float = 0.0
    output: str = ""
    worst: Worst | None = None
    detail: str = ""
    likely: str = ""

    def because(self, why: str) -> CaseResult:
        """The same with what the answer looks like."""
        return replace(self, reason=f"{self.reason}: {why}", likely=why)

    def noted(self, detail: str) -> CaseResult:
        """The same with a remark."""
        return replace(self, detail=detail)

    def as_dict(self) -> dict[str, Any]:
        return {key: _finite(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Report:
    """The verdict on one candidate.

    accepted: None where it could not be judged; `headline` says why. accuracy_class: the precision that the errors look
    like.
    sizes: the constants at which it was judged where they are not the file's own. notes: what a reader must know beside
    the cases.
    """

    candidate: str
    reference: str
    accepted: bool | None
    headline: str
    cases: tuple[CaseResult, ...]
    accuracy_class: str
    seed: int
    device: str
    dtype: str
    sizes: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    kernels: dict[str, int] = field(default_factory=dict)
    ops_left_out: int = 0
    ops_unseen: tuple[str, ...] = ()
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `schema` is its version (docs/check.md). Infinities and nan are text."""
        return {
            "schema": SCHEMA,
            "candidate": self.candidate,
            "reference": self.reference,
            "accepted": self.accepted,
            "headline": self.headline,
            "accuracy_class": self.accuracy_class,
            "seed": self.seed,
            "device": self.device,
            "dtype": self.dtype,
            "sizes": dict(self.sizes),
            "notes": list(self.notes),
            "kernels": dict(self.kernels),
            "ops_left_out": self.ops_left_out,
            "ops_unseen": list(self.ops_unseen),
            "seconds": round(self.seconds, 3),
            "cases": [case.as_dict() for case in self.cases],
        }

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """(case, outcome, r, rmax, reason or what it catches), one per case, for a table."""
        return [
            (
                case.name,
                case.outcome,
                number(case.r) if case.outcome in ("accepted", "rejected") else "",
                number(case.rmax) if case.outcome in ("accepted", "rejected") else "",
                case.reason or case.catches,
            )
            for case in self.cases
        ]


def number(value: float) -> str:
    return f"{value:.3g}"


def _finite(value: Any) -> Any:
    """JSON has no infinities: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def place(worst: Worst) -> str:
    """row 0, col 17: 0.4821, truth 0.518, eager 0.518"""
    names = {1: ("element",), 2: ("row", "col")}.get(len(worst.at))
    if not worst.at:
        where = "the value"
    elif names:
        where = ", ".join(f"{name} {i}" for name, i in zip(names, worst.at, strict=True))
    else:
        where = f"element {worst.at}"
    return f"{where}: {worst.got:.5g}, truth {worst.truth:.5g}, eager {worst.eager:.5g}"


def headline(
    cases: tuple[CaseResult, ...], accepted: bool | None, undecidable: str, accuracy: str, *, idle: bool = False
) -> str:
    """One line that says it. idle: the candidate counts its kernels' launches, and there was none."""
    if accepted is None:
        return f"could not judge: {undecidable}"
    if not accepted:
        bad = next(case for case in cases if case.outcome == "rejected")
        kind = f"{accuracy} precision, " if accuracy.endswith("-like") else ""
        if bad.worst is None:
            return f"rejected: {kind}{bad.reason} (case {bad.name!r})"
        why = f": {bad.likely}" if bad.likely else ""
        return f"rejected: {kind}wrong for {bad.name} ({place(bad.worst)}){why}"
    judged = [case for case in cases if case.outcome == "accepted"]
    ratios = [case.error / case.eager_error for case in judged if case.eager_error > 0 and not _lucky(case)]
    counts = {word: sum(case.outcome == word for case in cases) for word in ("refused", "undecided")}
    extra = "".join(f", {count} {word}" for word, count in counts.items() if count)
    error = f"error {max(ratios):.2g} × eager's at worst" if ratios else "exact"
    error = "error within the noise" if not ratios and any(case.error for case in judged) else error
    kind = f" ({accuracy} precision)" if accuracy.endswith("-like") else ""
    unused = ", but none of its kernels ran" if idle else ""
    return f"accepted: {error}{kind}, {len(judged)} cases{extra}{unused}"


def _lucky(case: CaseResult) -> bool:
    """Whether eager happens to be right to far less than the noise, which the candidate keeps to: a ratio to eager's error
    would say nothing of the candidate."""
    return case.r < 1 and 10 * case.r * case.eager_error < case.error


def case_of(name: str, catches: str, comparisons: list[Comparison]) -> CaseResult:
    """The case's result from those of its outputs: the first that is not accepted, else the one with the largest r."""
    bad = next((item for item in comparisons if item.reason), None)
    unsure = next((item for item in comparisons if item.undecided), None)
    pick = bad or unsure or max(comparisons, key=lambda item: item.r)
    outcome: Outcome = "rejected" if bad else ("undecided" if unsure else "accepted")
    return CaseResult(
        name,
        catches,
        outcome,
        pick.reason or pick.undecided,
        pick.r,
        pick.rmax,
        pick.error,
        pick.eager_error,
        pick.name,
        pick.worst,
    )


def junit(reports: Sequence[Report]) -> str:
    """The reports as JUnit XML: a suite per candidate, a test per case; undecided and refused cases are skipped
    tests.
    """
    root = ElementTree.Element("testsuites")
    for report in reports:
        suite = ElementTree.SubElement(root, "testsuite", name=report.candidate, tests=str(len(report.cases)))
        suite.set("failures", str(sum(case.outcome == "rejected" for case in report.cases)))
        suite.set("skipped", str(sum(case.outcome not in ("accepted", "rejected") for case in report.cases)))
        suite.set("time", f"{report.seconds:.3f}")
        for case in report.cases:
            test = ElementTree.SubElement(suite, "testcase", name=case.name, classname=report.reference)
            if case.outcome == "rejected":
                ElementTree.SubElement(test, "failure", message=case.reason).text = case.detail
            elif case.outcome != "accepted":
                ElementTree.SubElement(test, "skipped", message=f"{case.outcome}: {case.reason}")
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
