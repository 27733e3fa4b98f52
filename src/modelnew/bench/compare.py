"""Two measurements of the same thing, older and newer: what became slower."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelnew.bench.documents import Document, measurements, parts
from modelnew.errors import BenchError, UsageError

SLOWER = "slower"
_DOING = "comparing measurements"
_GONE = "is not in the new run"


@dataclass(frozen=True)
class Change:
    """One variant. ratio: new speed / old speed (below 1: slower), inside [low, high] at 95 % confidence.

    Speeds are those against the baseline of the same run, so that a busier or slower machine is not taken for a change.
    verdict: "slower" by more than the threshold and beyond the interval, which is a regression, as having no time now is;
    "faster", likewise; "as fast": the whole interval lies within the threshold; "ambiguous": none of these can be said.
    `reason` is set when the variant cannot be compared because the new run has no time for it.
    """

    measurement: str
    variant: str
    old_s: float
    new_s: float | None
    ratio: float | None
    low: float | None
    high: float | None
    regressed: bool
    reason: str = ""
    verdict: str = ""

    def as_dict(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass(frozen=True)
class Comparison:
    """threshold: a share, such as 0.05; what is slower by more, beyond its interval, has regressed; so has what
    fails now, or is gone."""

    changes: tuple[Change, ...]
    threshold: float
    same_machine: bool

    @property
    def regressed(self) -> bool:
        return any(change.regressed for change in self.changes)

    def as_dict(self) -> dict[str, object]:
        """Schema "modelnew.bench-compare/1": threshold, same_machine, regressed, changes (the fields of `Change`)."""
        return {
            "schema": "modelnew.bench-compare/1",
            "threshold": self.threshold,
            "same_machine": self.same_machine,
            "regressed": self.regressed,
            "changes": [change.as_dict() for change in self.changes],
        }


def compare(old: Document, new: Document, threshold: float = 0.05) -> Comparison:
    """Compares every variant of `old` that is not a baseline's own row with the one of the same name in `new`.

    Variants that only `new` has are left out. Raises BenchError when the two have no measurement in common, or are
    measurements of two models, UsageError for a threshold that is no share.
    """
    if not 0 <= threshold < 1:
        hint = "Give a share from 0 to below 1: 0.05 is 5 %."
        raise UsageError(f"a threshold of {threshold:g} makes no sense", doing=_DOING, hint=hint)
    before, after = dict(measurements(old)), {label: (report, reason) for label, report, reason in parts(new)}
    if not before.keys() & after.keys():
        raise BenchError("the two have no measurement in common", doing=_DOING)
    changes = []
    for label, report in before.items():
        now, reason = after.get(label, (None, ""))
        variants = _variants_of_the_same(report, now) if now else {}
        for variant in report["variants"][1:]:
            if variant["status"] == "timed":
                changes.append(_change(label, variant, variants.get(variant["name"]), reason or _GONE, threshold))
    machines = [
        {(report["machine"]["name"], report["device"]) for _, report in measurements(side)} for side in (old, new)
    ]
    return Comparison(tuple(changes), threshold, machines[0] == machines[1])


def _variants_of_the_same(old: Document, new: Document) -> dict[str, Document]:
    """name → variant of `new`. Raises BenchError where that is of another model; folders may differ."""
    was, now = (Path(report["subject"]).name for report in (old, new))
    if was != now:
        raise BenchError(f"the old measurement is of {was}, the new one of {now}", doing=_DOING)
    return {variant["name"]: variant for variant in new["variants"]}


def _change(
    label: str, old: Mapping[str, object], new: Mapping[str, object] | None, gone: str, threshold: float
) -> Change:
    """gone: why there is no `new`."""
    name, old_s = str(old["name"]), _number(old["seconds"])
    if new is None or new["status"] != "timed":
        reason = gone if new is None else str(new["reason"])
        return Change(label, name, old_s, None, None, None, None, regressed=True, reason=reason)
    centre = math.log(_number(new["ratio"]) / _number(old["ratio"]))
    half = math.hypot(_half_width(old), _half_width(new))
    ratio, low, high = math.exp(centre), math.exp(centre - half), math.exp(min(centre + half, 700.0))
    verdict = _verdict(ratio, low, high, threshold)
    new_s = _number(new["seconds"])
    return Change(label, name, old_s, new_s, ratio, low, high, regressed=verdict == SLOWER, verdict=verdict)


def _verdict(ratio: float, low: float, high: float, threshold: float) -> str:
    slowest, fastest = 1 - threshold, 1 / (1 - threshold)
    if ratio < slowest and high < 1:
        return SLOWER
    if ratio > fastest and low > 1:
        return "faster"
    return "as fast" if slowest <= low and high <= fastest else "ambiguous"


def _half_width(variant: Mapping[str, object]) -> float:
    """In log ratio; very wide where the interval has no upper end."""
    if variant["low"] in (0, None) or variant["high"] is None:
        return 100.0
    return math.log(_number(variant["high"]) / _number(variant["low"])) / 2


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return float(value)
