"""How long a sample is, with a worker that answers what it is told to."""

from __future__ import annotations

import random
from typing import Any

from modelnew.bench.honesty import Watch
from modelnew.bench.remote import LEAST_REMOTE_SAMPLE, RemoteSeat


class Slow:
    """A call that takes 2 µs when a core is free for its thread pool, and 2 ms otherwise."""

    swapped = False
    now = 2e-3

    def __init__(self) -> None:
        self.asked: list[int] = []

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        return {"seconds": 2e-6, "usual": self.now, "first_call_s": 1.0} if do == "warm" else {}

    def timed(self, do: str, *, calls: int, **request: Any) -> tuple[dict[str, Any], float]:
        if do == "sample":
            self.asked.append(calls)
        return {"seconds": self.now, "off_stream": False, "told": calls * self.now}, calls * self.now


def test_a_sample_is_as_long_as_calls_take_now() -> None:
    worker: Any = Slow()
    seat = RemoteSeat("new.py", worker, Watch(), random.Random(1))
    seat.warm(1.0)
    seat._sample()
    assert worker.asked == [3] and worker.asked[0] * Slow.now >= LEAST_REMOTE_SAMPLE
    worker.now = 2e-6  # the core is free again
    for _ in range(9):
        seat._sample()
    assert worker.asked[-1] == 2500
