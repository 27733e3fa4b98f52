"""The time that this machine cannot beat, for cases that move memory: it is measured beside them, as one more variant.

Reading the input once, and where the result is as large as the input, writing it to fresh pages: what a result of more
than 32 MiB is given at every call. The fastest call is what the hardware allows; how long the system takes to find fresh
pages differs from call to call, so the median is what the other variants' medians can be held against.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from modelnew.runtime.toolchain import CPU_FLAGS, find_cxx, openmp_runtime

SOURCE = Path(__file__).with_suffix(".cpp")
_FRESH = 32 << 20  # bytes; a smaller result is memory that was used before


@dataclass
class Floor:
    """Moves a case's bytes and computes nothing. fastest: seconds of its fastest call."""

    move: Callable[[torch.Tensor], torch.Tensor]
    fastest: float = math.inf

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        start = perf_counter()
        result = self.move(x)
        self.fastest = min(self.fastest, perf_counter() - start)
        return result


def floor_of(result: torch.Tensor) -> Floor:
    """The floor of a case of one dense input, whose result is as large, or small."""
    library = _build()
    if result.nbytes < _FRESH:

        def read(x: torch.Tensor) -> torch.Tensor:
            library.floor_read(x.data_ptr(), x.nbytes, torch.get_num_threads())
            return x[:1]

        return Floor(read)

    def copy(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        library.floor_copy(y.data_ptr(), x.data_ptr(), x.nbytes, torch.get_num_threads())
        return y

    return Floor(copy)


def _build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "floor.so"
        runtime = openmp_runtime()
        flags = [flag for flag in CPU_FLAGS if flag != "-fvisibility=hidden"]
        link = [runtime] if runtime else ["-fopenmp"]
        subprocess.run([*find_cxx(), *flags, "-shared", "-fPIC", SOURCE, "-o", binary, *link], check=True)
        library = ctypes.CDLL(str(binary))
    address, size, threads = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.floor_read.argtypes, library.floor_read.restype = [address, size, threads], None
    library.floor_copy.argtypes, library.floor_copy.restype = [address, address, size, threads], None
    return library
