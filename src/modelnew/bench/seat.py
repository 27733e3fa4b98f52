"""One variant, ready to be timed in this process."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from modelnew.bench.clock import Clock

LEAST_SAMPLE = 200e-6  # seconds; shorter calls are timed several at a time
_TURN_SECONDS = 0.005  # a turn of a short call is about this long …
_MOST_SAMPLES = 10  # … or this many samples, whichever is less
_WARM_SECONDS = 0.1
SLOW_CALL = 0.1  # seconds; a call this long needs no untimed call before it to warm caches and thread pools


@dataclass(frozen=True)
class Turn:
    """seconds: per call, one value per sample. off_stream, told: see `clock.Sample`."""

    seconds: tuple[float, ...]
    off_stream: bool = False
    told: float = 0.0

    @property
    def median(self) -> float:
        """The lower one of an even number: what other programs do only ever adds to a time."""
        return statistics.median_low(self.seconds)


@dataclass
class Seat:
    """A variant with its inputs. `function(*inputs)` is what is timed."""

    name: str
    function: Callable[..., object]
    clock: Clock
    seconds: float = math.nan  # one warm call, estimated
    usual_seconds: float = math.nan
    first_call_seconds: float = math.nan
    output: object = None  # what the last timed call returned
    inputs: Sequence[object] = field(default=(), repr=False)

    def call(self) -> object:
        return self.function(*self.inputs)

    def warm(self) -> None:
        """Calls until the time settles. Whatever the variant raises comes out."""
        self.output = None
        self.clock.settle()
        first = self.clock.sample(self.call, 1).seconds
        if math.isnan(self.first_call_seconds):
            self.first_call_seconds = first
        times: list[float] = []
        stop = perf_counter() + _WARM_SECONDS
        while not times or (perf_counter() < stop and len(times) < 1000):
            times.append(self.clock.sample(self.call, 1).seconds)
        self.seconds, self.usual_seconds = min(times), statistics.median(times)  # the rest is what a busy machine adds

    def sample(self, calls: int) -> Turn:
        """One sample of `calls` calls; the last result stays in `output`."""
        self.output = None  # its memory is free for the new one, as in a loop over batches
        sample = self.clock.sample(self.call, calls)
        self.output = sample.result
        return Turn((sample.seconds,), sample.off_stream, sample.told)

    @property
    def samples(self) -> int:
        return max(1, min(_MOST_SAMPLES, round(_TURN_SECONDS / max(self.seconds, LEAST_SAMPLE))))

    @property
    def turn_seconds(self) -> float:
        return (self.samples + 1) * max(self.seconds, LEAST_SAMPLE)

    def turn(self) -> Turn:
        """Some samples, after one untimed call where calls are short."""
        if self.seconds < SLOW_CALL:
            self.sample(1)
        calls = calls_per_sample(self.seconds, LEAST_SAMPLE)
        turns = [self.sample(calls) for _ in range(self.samples)]
        return joined(turns)


def joined(turns: Sequence[Turn]) -> Turn:
    """Several turns of one variant as one."""
    return Turn(
        tuple(s for turn in turns for s in turn.seconds), 2 * sum(turn.off_stream for turn in turns) > len(turns)
    )


def calls_per_sample(seconds: float, least: float) -> int:
    """How many calls of `seconds` make a sample of at least `least` seconds."""
    return max(1, math.ceil(least / max(seconds, 1e-7)))
