"""What one call costs, on each device.

The clock functions are bound when this module is imported, before any candidate runs: a candidate that replaces
`time.perf_counter` later changes nothing here.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
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
    """seconds: per call. off_stream: in most calls the device was busy for longer than the caller's stream says. result:
    what the last call returned. told: what the clock says of all calls and of what lies between them; less than what
    passed where the clock lies, and below 0 where calls, by their clock, waited for longer than they took."""

    seconds: float
    off_stream: bool
    result: object
    told: float


class Clock(Protocol):
    """Times calls on one device."""

    def sample(self, call: Call, calls: int) -> Sample: ...

    def settle(self) -> None:
        """Waits until nothing is running on the device."""


class CpuClock:
    """Host time of `calls` calls in a row, less what this thread waited for a core that somebody else had. A result is
    dropped before the next call, as `y = f(x)` in a loop over batches does."""

    def sample(self, call: Call, calls: int) -> Sample:
        result: object = None
        waited = waited_ns()
        start = _now()
        for _ in range(calls):
            result = None
            result = call()
        passed = _now() - start
        ran = passed - (waited_ns() - waited)
        # the account is read a moment before and after: what it says can, rarely, be more than what passed
        return Sample((ran if ran > 0 else passed) * 1e-9 / calls, False, result, ran * 1e-9)

    def settle(self) -> None:
        pass


def waited_ns(thread: str = "thread-self") -> int:
    """Nanoseconds for which a thread (this one, or a process's first by its number) was ready to run and did not; 0
    where the system does not tell."""
    try:
        return int(Path(f"/proc/{thread}/schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


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
        self._release_l2 = _runtime_function("cudaCtxResetPersistingL2Cache")
        self._empty_seconds = min(self._one(lambda: None)[1] for _ in range(20))
        self._between_seconds = self._between(20)

    def _between(self, calls: int) -> float:
        """Seconds per call that pass outside the calls themselves, the flush before each among them: beside that, a
        short call is little."""
        start = _now()
        inside = sum(self._one(lambda: None)[1] for _ in range(calls))
        return max(0.0, (_now() - start) * 1e-9 - inside) / calls + self._empty_seconds

    def _one(self, call: Call) -> tuple[float, float, object]:
        """(event seconds, host seconds, result)"""
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        with torch.cuda.device(self.device):
            self._release_l2()  # lines that an earlier call asked to keep would survive the flush
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
        spans, off_stream = [], 0
        result: object = None
        for _ in range(calls):
            result = None
            event, host, result = self._one(call)
            host -= self._empty_seconds
            off_stream += host > _OFF_STREAM_SHARE * event and host > event + _OFF_STREAM_SLACK
            spans.append(max(event, host))
        told = sum(spans) + calls * self._between_seconds
        return Sample(sum(spans) / calls, 2 * off_stream > calls, result, told)

    def settle(self) -> None:
        torch.cuda.synchronize(self.device)


def captured(call: Call, device: torch.device) -> Call:
    """The replay of `call` as a CUDA graph. Raises what the capture raises."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(side):
        for _ in range(3):  # libraries allocate their workspaces in a first call, which a capture does not allow
            call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        call()
    return graph.replay


def _runtime_function(name: str) -> Callable[[], object]:
    """A function of the CUDA runtime that PyTorch has loaded; one that does nothing where it is not found."""
    with contextlib.suppress(OSError, AttributeError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "libcudart" in line:
                function: Callable[[], object] = getattr(ctypes.CDLL(line.split(maxsplit=5)[5]), name)
                return function
    return lambda: None


def clock_for(device: torch.device | str) -> Clock:
    """The clock of a device. Times on the CPU are host times, on CUDA device times."""
    device = torch.device(device)
    return CudaClock(device) if device.type == "cuda" else CpuClock()
