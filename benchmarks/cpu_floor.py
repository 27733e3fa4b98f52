"""The time that this machine cannot beat, for cases that move memory: it is measured beside them, as one more variant.

Reading the input once, and where the result is as large as the input, writing it to fresh pages: what a result of more
than 32 MiB is given at every call.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from modelnew.runtime.toolchain import CPU_FLAGS, find_cxx, openmp_runtime

SOURCE = Path(__file__).with_suffix(".cpp")
_FRESH = 32 << 20  # bytes; a smaller result is memory that was used before


def floor_of(inputs: list[torch.Tensor], result: torch.Tensor) -> Callable[..., object] | None:
    """A callable that moves a case's bytes and computes nothing; None where that is not what limits the case."""
    (x,) = inputs
    if x.nbytes <= _FRESH or 0 < result.nbytes <= _FRESH < 64 * result.nbytes:
        return None
    library = _build()
    if result.nbytes < _FRESH:

        def read(x: torch.Tensor) -> torch.Tensor:
            library.floor_read(x.data_ptr(), x.nbytes, torch.get_num_threads())
            return x[:1]

        return read

    def copy(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        library.floor_copy(y.data_ptr(), x.data_ptr(), x.nbytes, torch.get_num_threads())
        return y

    return copy


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
