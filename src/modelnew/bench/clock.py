"""What one call costs, on each device.

The clock functions are bound when this module is imported, before any candidate runs: a candidate that replaces
`time.perf_counter` later changes nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

import torch

Call = Callable[[], object]
_now = perf_counter_ns
# host time above event time by more than both of these: work that the stream did not see
_OFF_STREAM_SHARE = 1.10
_OFF_STREAM_SLACK = 20e-6  # seconds


@dataclass(frozen=True)
class Sample:
    """seconds: per call. off_stream: the device was busy for longer than the caller's stream says. result: what the
    last call returned."""

    seconds: float
    off_stream: bool
    result: object


class Clock(Protocol):
    """Times calls on one device."""

    def sample(self, call: Call, calls: int) -> Sample: ...

    def settle(self) -> None:
        """Waits until nothing is running on the device."""


class CpuClock:
    """Host time of `calls` calls in a row. A result is dropped before the next call, as `y = f(x)` in a loop over
    batches does."""

    def sample(self, call: Call, calls: int) -> Sample:
        result: object = None
        start = _now()
        for _ in range(calls):
            result = None
            result = call()
        return Sample((_now() - start) * 1e-9 / calls, False, result)

    def settle(self) -> None:
        pass


class CudaClock:
    """Time of one synchronised call with a cold L2 cache: the larger of the event span and the host time (less that
    of an empty call).

    Work that a call puts on another stream is outside its events but inside the device-wide synchronisation that
    ends the host time.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
        self._flush = torch.empty(2 * l2_bytes, dtype=torch.uint8, device=device)
        self._empty_seconds = 0.0
        self._empty_seconds = min(self._one(lambda: None)[1] for _ in range(20))

    def _one(self, call: Call) -> tuple[float, float, object]:
        """(event seconds, host seconds, result)"""
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self.device):
            self._flush.zero_()
            torch.cuda.synchronize()
            start = _now()
            before.record()
            result = call()
            after.record()
            torch.cuda.synchronize()
            host = (_now() - start) * 1e-9
        return before.elapsed_time(after) * 1e-3, host, result

    def sample(self, call: Call, calls: int) -> Sample:
        spans, off_stream = [], False
        result: object = None
        for _ in range(calls):
            result = None
            event, host, result = self._one(call)
            host -= self._empty_seconds
            off_stream |= host > _OFF_STREAM_SHARE * event and host > event + _OFF_STREAM_SLACK
            spans.append(max(event, host))
        return Sample(sum(spans) / calls, off_stream, result)

    def settle(self) -> None:
        torch.cuda.synchronize(self.device)


def clock_for(device: torch.device | str) -> Clock:
    """The clock of a device. Times on the CPU are host times, on CUDA device times."""
    device = torch.device(device)
    return CudaClock(device) if device.type == "cuda" else CpuClock()
