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

# 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom
_T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
)
_Z_975 = 1.960

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


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; within 0.3 % beyond the table."""
    if freedom <= len(_T_975):
        return _T_975[freedom - 1]
    return _Z_975 + (_Z_975**3 + _Z_975) / (4 * freedom)


def _t_half_width(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.inf
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def estimate(launches: Sequence[Launch]) -> Ratio:
    """Ratio from paired log ratios log(baseline seconds / variant seconds), grouped by process and block.

    Three processes or more: the mean of the processes' medians; the interval is the wider of the ones over processes
    and over blocks.
    Fewer: over blocks; fewer than three blocks: over rounds.
    Raises ValueError without any pair.
    """
    blocks = [[statistics.median(rounds) for rounds in launch if rounds] for launch in launches]
    blocks = [launch for launch in blocks if launch]
    flat = [value for launch in blocks for value in launch]
    if not flat:
        raise ValueError("no paired times")
    if len(blocks) >= 3:
        processes = [statistics.median(launch) for launch in blocks]
        centre = statistics.mean(processes)
        half = max(_t_half_width(processes), _t_half_width(flat))
    elif len(flat) >= 3:
        centre, half = statistics.mean(flat), _t_half_width(flat)
    else:
        rounds = [value for launch in launches for block in launch for value in block]
        centre, half = statistics.median(rounds), _t_half_width(rounds)
    return Ratio(math.exp(centre), math.exp(centre - half), math.exp(min(centre + half, 700.0)))


def noise_floor(against_itself: Ratio) -> float:
    """What the original measured against itself came out as, in |log ratio|; never less than `LEAST_CLAIM`."""
    return max(abs(math.log(against_itself.value)), LEAST_CLAIM)


def verdict(ratio: Ratio, floor: float) -> str:
    """same | faster | slower | ambiguous.

    A difference is claimed when it is larger than its own interval and than `floor`; sameness when the whole
    interval is not wider than `floor` and the value lies inside it. Everything else is ambiguous.
    """
    centre, half = math.log(ratio.value), ratio.half_width
    if abs(centre) > max(half, floor):
        return "faster" if centre > 0 else "slower"
    if half <= floor and abs(centre) <= floor:
        return "same"
    return "ambiguous"
