"""What keeps a time honest: a clock outside the worker, the system's account of processor time, a look at the outputs.

A worker could report any time, return an answer it had kept, or go on working after it has answered. So none of this
is asked of the worker: the time that passes is taken outside too, outputs are compared with the original's on the same
changing inputs, and the system says who used the processor when.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from modelnew.bench.tensors import deviation

Values = Sequence[Sequence[float]]

_LEAST_TOLD, _TOLD = 10, 0.7  # a busy machine delays some answers; a clock that lies is wrong in most
_OUTSIDE_SHARE, _OUTSIDE_SECONDS = 0.2, 0.1
_STALE_SHARE, _WRONG_SHARE = 0.1, 0.01


@dataclass
class Expected:
    """The original's values with the inputs as drawn and with their halves exchanged."""

    plain: Values
    swapped: Values

    @property
    def moved(self) -> float:
        """How far the output moves when the inputs change, relative to its size. 0: old answers cannot be told from
        new ones."""
        return deviation(self.swapped, self.plain)

    def to(self, *, swapped: bool) -> Values:
        """The original's answer to the contents of that state."""
        return self.swapped if swapped else self.plain

    def contradicts(self, values: Values, swapped: bool) -> bool:
        """Whether `values` are not the answer to the present inputs: off by a tenth of what changing the inputs
        changes, and by 1 %."""
        error = deviation(values, self.to(swapped=swapped))
        if math.isinf(error):
            return True
        return error > _STALE_SHARE * self.moved and error > _WRONG_SHARE and self.moved > 0


@dataclass
class Watch:
    """The account of one variant over all its turns; seconds, but for `told`."""

    told: list[float] = field(default_factory=list)  # its time over that of the measuring process, for each sample
    cpu_inside: float = 0.0
    cpu_outside: float = 0.0  # used while others were being timed
    turns: int = 0
    restless: int = 0  # turns after which it did not become quiet
    faults: set[str] = field(default_factory=set)

    @property
    def disturbs(self) -> bool:
        """Whether it was seen at work outside its turns."""
        return self.restless > 0 or self.cpu_outside > _OUTSIDE_SECONDS

    def verdict(self) -> str:
        """Why the times cannot be believed, or nothing."""
        if self.faults:
            return "; ".join(sorted(self.faults))
        if len(self.told) >= _LEAST_TOLD:
            told = statistics.median(self.told)
            if told < _TOLD:
                return f"its clock says {told:.2f} s for every second that passes: not believed"
        if self.turns >= 3 and self.restless > self.turns / 2:
            return RESTLESS
        if self.cpu_outside > _OUTSIDE_SECONDS and self.cpu_outside > _OUTSIDE_SHARE * self.cpu_inside:
            return f"used the processor for {self.cpu_outside:.1f} s while others were timed: not believed"
        return ""


RESTLESS = "goes on working after its call has returned: not believed"
STALE = "did not answer to the inputs of the call during timing: not believed"
CHANGED = "answers differently after the timed runs than before them: not believed"
