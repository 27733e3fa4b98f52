"""What the clocks make of the times of a call, without a GPU and without waiting."""

from __future__ import annotations

from typing import Any

import pytest

from modelnew.bench import clock as clocks
from modelnew.bench.clock import CpuClock, CudaClock


@pytest.mark.parametrize(
    ("event", "host", "seconds", "off_stream"),
    [
        (1e-3, 1.05e-3, 1.0499e-3, False),  # the host waits a little longer than the device works
        (1e-3, 0.5e-3, 1e-3, False),
        (1e-3, 5e-3, 4.9999e-3, True),  # the device was busy for longer than the caller's stream says
        (5e-6, 15e-6, 14.9e-6, False),  # launching takes that much
        (0.0, 3e-3, 2.9999e-3, True),  # all of the work on another stream
    ],
)
def test_the_larger_time_counts(event: float, host: float, seconds: float, off_stream: bool) -> None:
    clock: Any = object.__new__(CudaClock)
    clock._empty_seconds, clock._between_seconds = 0.1e-6, 60e-6
    clock._one = lambda call: (event, host, call())
    sample = clock.sample(lambda: "answer", 4)
    assert sample.seconds == pytest.approx(seconds)
    assert sample.off_stream == off_stream and sample.result == "answer"
    assert sample.told == pytest.approx(4 * (seconds + 60e-6))  # with what passes between calls


@pytest.mark.parametrize(
    ("passed", "waited", "seconds", "told"),
    [
        (45, 30, 15, 15),  # of 45 ms, 30 went by until a core was free
        (15, 30, 15, -15),  # a clock that tells a third of the time: what was waited gives it away
    ],
)
def test_what_a_call_waited_for_a_core_is_not_its_time(
    monkeypatch: pytest.MonkeyPatch, passed: int, waited: int, seconds: int, told: int
) -> None:
    times, waits = iter((0, passed * 10**6)), iter((0, waited * 10**6))
    monkeypatch.setattr(clocks, "_now", lambda: next(times))
    monkeypatch.setattr(clocks, "waited_ns", lambda: next(waits))
    sample = CpuClock().sample(lambda: "answer", 5)
    assert sample.seconds == pytest.approx(seconds * 1e-3 / 5)
    assert sample.told == pytest.approx(told * 1e-3)
