"""What a GPU's clock makes of the two times of a call, without a GPU."""

from __future__ import annotations

from typing import Any

import pytest

from modelnew.bench.clock import CudaClock


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
    clock._empty_seconds = 0.1e-6
    clock._one = lambda call: (event, host, call())
    sample = clock.sample(lambda: "answer", 4)
    assert sample.seconds == pytest.approx(seconds)
    assert sample.off_stream == off_stream and sample.result == "answer"
