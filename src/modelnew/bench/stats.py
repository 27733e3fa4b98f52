"""From paired times to a claim: ratio with interval, noise floor, verdict.

Times of two variants taken in the same round share the state of the machine, so their ratio is steadier than either
time. What is left between rounds is mostly memory layout, which is constant inside a process: the interval is
therefore taken over processes as well as blocks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEAST_CLAIM = 0.01  # no difference below 1 % is claimed, whatever the interval says
MOST_SAME = 0.025  # an interval or a noise floor above this can hide a difference of 5 %: nothing is called the same
LEVEL = 0.05  # share of intervals that may miss the truth
# of the rounds, at either end: a neighbour's work is in some of them and not in others. With more taken off, the interval of
# five processes that differ misses too often
_TRIMMED = 0.2

Launch = Sequence[Sequence[float]]  # the log ratios of one process: blocks × rounds


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the baseline: `value`, inside [`low`, `high`] at 95 % confidence. Infinite bounds:
    too few samples."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width in log ratio (about the relative half-width)."""
        return math.log(self.high / self.low) / 2 if self.low > 0 else math.inf


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """What Student's t of so many degrees of freedom exceeds, on either side, with probability `level`."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _t_within(angle, freedom) < 1 - level else (low, angle)
    return math.tan(low) * math.sqrt(freedom)


def _t_within(angle: float, freedom: int) -> float:
    """Probability of |t| < tan(angle)·√freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = (cosine if odd else 1.0) * (freedom > 1)
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _middle(values: Sequence[float]) -> float:
    """Mean of what is left without the highest and the lowest of them."""
    cut = int(_TRIMMED * len(values))
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def _half_width(groups: Sequence[Sequence[float]], level: float) -> float:
    """Of the interval around the middle of all values: from what it moves when one group is left out (the jackknife).

    A little wider than the jackknife has it, by √(n/(n - 1)): leaving out the extremes makes few groups fewer."""
    if len(groups) < 2:
        return math.inf
    count = len(groups)
    without = [
        _middle([v for other, group in enumerate(groups) if other != left_out for v in group])
        for left_out in range(count)
    ]
    return t_quantile(count - 1, level) * math.sqrt(count - 1) * statistics.stdev(without)


def estimate(launches: Sequence[Launch], level: float = LEVEL) -> Ratio:
    """Ratio from paired log ratios log(baseline seconds / variant seconds), grouped by process and block.

    The middle of all rounds; the interval is the wider of the ones over processes, where there are three, and over blocks.
    Fewer than three blocks: over rounds. level: share of such intervals that may miss the truth.
    Raises ValueError without any pair.
    """
    processes = [[value for block in launch for value in block] for launch in launches]
    processes = [values for values in processes if values]
    blocks = [block for launch in launches for block in launch if block]
    rounds = [value for block in blocks for value in block]
    if not rounds:
        raise ValueError("no paired times")
    centre = _middle(rounds)
    half = _half_width(blocks if len(blocks) >= 3 else [[value] for value in rounds], level)
    if len(processes) >= 3:
        half = max(half, _half_width(processes, level))
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(min(centre + half, 700.0)))


def noise_floor(against_itself: Ratio) -> float:
    """What the original differs from itself by, in |log ratio|, or half its interval where that is more and known; never less
    than `LEAST_CLAIM`."""
    half = against_itself.half_width
    return max(abs(math.log(against_itself.value)), half if math.isfinite(half) else 0.0, LEAST_CLAIM)


def verdict(ratio: Ratio, floor: float) -> str:
    """same | faster | slower | ambiguous.

    A difference is claimed when it is larger than its own interval and than `floor`; sameness when the whole
    interval is not wider than `floor`, which is at most `MOST_SAME`, and the value lies inside it. Everything else is
    ambiguous.
    """
    centre, half = math.log(ratio.value), ratio.half_width
    if abs(centre) > max(half, floor):
        return "faster" if centre > 0 else "slower"
    if half <= floor and abs(centre) <= floor <= MOST_SAME:
        return "same"
    return "ambiguous"


def is_open(ratio: Ratio, floor: float, growth: float) -> bool:
    """Whether `growth` times as many samples may change the verdict, and that is worth knowing: the noise floor alone hides a
    difference; or the verdict is ambiguous, and a difference of 5 % could still be hidden, or the interval that is then
    expected leaves out either zero or every difference that is claimed."""
    centre, half = abs(math.log(ratio.value)), ratio.half_width
    if verdict(ratio, floor) != "ambiguous":
        return max(half, LEAST_CLAIM) < centre <= floor
    then = half / math.sqrt(growth)
    return half > MOST_SAME or centre > then or then <= LEAST_CLAIM
