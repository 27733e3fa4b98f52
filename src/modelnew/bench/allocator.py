"""Fresh or reused outputs on the CPU: what the C library does with a freed result.

A large result that is freed goes back to the system, and the next call pays for new pages; a smaller one stays in
the heap and is handed out again. Where the border lies depends on the history of the process (glibc moves it up to
32 MiB), which makes times of equal code differ between processes. Here it is fixed.
"""

from __future__ import annotations

import ctypes
from typing import Literal

Outputs = Literal["fresh", "reused"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_BORDER = 32 << 20  # where glibc's moving border ends up in a long-running process
_USUAL_MMAP_MAX = 65536


def available() -> bool:
    """Whether this process's C library can be told (glibc)."""
    return hasattr(ctypes.CDLL(None), "mallopt") and hasattr(ctypes.CDLL(None), "malloc_trim")


def use(outputs: Outputs) -> None:
    """fresh: results above 32 MiB get new pages at every call, as a caller in a long-running process gets them.
    reused: pages that are already mapped, of any size."""
    if not available():
        return
    libc = ctypes.CDLL(None)
    if outputs == "reused":
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never give memory back
        return
    libc.mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)
    libc.mallopt(_M_MMAP_THRESHOLD, _BORDER)
    libc.mallopt(_M_TRIM_THRESHOLD, 2 * _BORDER)
    libc.malloc_trim(0)
