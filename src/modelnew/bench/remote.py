"""A variant in a worker, as the schedule sees it: every sample on changed inputs, every turn looked at."""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from modelnew.bench.fleet import VariantFailedError, Worker
from modelnew.bench.honesty import STALE, Expected, Values, Watch
from modelnew.bench.seat import SLOW_CALL, Turn, calls_per_sample, joined
from modelnew.bench.tensors import deviation

LEAST_REMOTE_SAMPLE = 5e-3  # seconds; long enough for the measuring process's clock to see a lie
_MOST_SAMPLES = 4  # in a turn
_KEPT = 10  # of the latest times that a request took by itself: on a busy machine they change
# Share of a sample that is put down to a request which takes as long as the variant's own process says.
_MOST_REQUEST = 0.25
_REQUESTS = 0.015  # seconds; the requests of a turn, and the wait for quiet after it


@dataclass
class RemoteSeat:
    """One variant in one worker. `rivals`: the variants of other workers, which must be idle during its turns."""

    name: str
    worker: Worker
    watch: Watch
    rng: random.Random
    rivals: Sequence[RemoteSeat] = ()
    trusted: RemoteSeat | None = None  # whom to ask what a request takes by itself; none: this one, who may lie
    seconds: float = math.nan
    first_call_s: float = math.nan
    expected: Expected | None = None
    values_seed: int = 0
    error_before: float = 0.0  # of its answer before the timed runs
    _lately: deque[float] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES), repr=False)
    _request_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT), repr=False)

    def warm(self, timeout_s: float) -> None:
        """First calls: builds happen here, before anything is timed. Raises VariantFailedError."""
        answer = self.worker.ask("warm", name=self.name, timeout_s=timeout_s)
        self.seconds, self.first_call_s = _believable(answer["seconds"]), answer["first_call_s"]
        self._lately.append(_believable(answer["usual"]))
        for _ in range(_KEPT):
            self._time_request()

    def _time_request(self) -> None:
        asked = self.trusted or self
        self._request_seconds.append(asked.worker.timed("empty", name=asked.name, calls=self._calls)[1])

    def turn(self) -> Turn:
        used = [(rival, rival.worker.cpu_seconds()) for rival in self.rivals]
        own = self.worker.cpu_seconds()
        if self.rng.random() < 0.5:  # the turn must not always end on the contents that it began with
            self.worker.ask("refresh")
        if self.seconds < SLOW_CALL:
            self.worker.ask("sample", name=self.name, calls=1)
        self._time_request()
        turn = joined([self._sample() for _ in range(self.samples)])
        self._look_again()
        self.worker.ask("forget", name=self.name)
        self.watch.turns += 1
        self.watch.restless += not self.worker.becomes_quiet()
        self.watch.cpu_inside += self.worker.cpu_seconds() - own
        for rival, before in used:
            rival.watch.cpu_outside += rival.worker.cpu_seconds() - before
        return turn

    def answer(self) -> Values:
        """Values of one call on the present inputs."""
        self.worker.ask("sample", name=self.name, calls=1)
        return self._values()

    def error(self) -> float:
        """How far its answer to the present inputs is from the original's."""
        assert self.expected is not None
        return deviation(self.answer(), self.expected.to(swapped=self.worker.swapped))

    def replay(self) -> float:
        """Seconds of one replay of the call as a captured CUDA graph. Raises VariantFailedError where it cannot be."""
        answer = self.worker.ask("replay", name=self.name, calls=self._calls)
        return _believable(answer["seconds"])

    @property
    def samples(self) -> int:
        return max(1, min(_MOST_SAMPLES, round(_MOST_SAMPLES * LEAST_REMOTE_SAMPLE / self.seconds)))

    @property
    def turn_seconds(self) -> float:
        untimed = self.seconds if self.seconds < SLOW_CALL else 0.0
        return self.samples * (max(self.seconds, LEAST_REMOTE_SAMPLE)) + untimed + _REQUESTS

    @property
    def _calls(self) -> int:
        """In a sample: by what a call takes now. A thread pool whose core somebody else has can take a thousand times as
        long as in the best moment."""
        return calls_per_sample(statistics.median(self._lately), LEAST_REMOTE_SAMPLE)

    def _sample(self) -> Turn:
        self.worker.ask("refresh")
        calls = self._calls
        timeout_s = 60 + 20 * calls * self.seconds
        answer, passed = self.worker.timed("sample", name=self.name, calls=calls, timeout_s=timeout_s)
        seconds = _believable(answer["seconds"])
        request = statistics.median(self._request_seconds)
        passed -= request if self.trusted else min(request, _MOST_REQUEST * passed)
        if passed > LEAST_REMOTE_SAMPLE / 2:  # in shorter ones the request weighs too much
            self.watch.told.append(answer["told"] / passed)
        self.seconds = min(self.seconds, seconds)  # a first estimate that was too high would keep turns short
        self._lately.append(seconds)
        return Turn((seconds,), answer["off_stream"])

    def _look_again(self) -> None:
        if self.expected and self.expected.contradicts(self._values(), self.worker.swapped):
            self.watch.faults.add(STALE)

    def _values(self) -> Values:
        answer = self.worker.ask("values", name=self.name, seed=self.values_seed)
        return [[float.fromhex(v) for v in leaf] for leaf in answer["values"]]


def _believable(seconds: float) -> float:
    if not 1e-8 < seconds < 1e8:  # no call of a module takes less than ten nanoseconds
        raise VariantFailedError(f"its clock says that a call takes {seconds:g} s: not believed")
    return seconds
