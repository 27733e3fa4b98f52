"""How much memory this process has in use at most."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from modelnew.bench import allocator

_RESET_PEAK = "5"  # see proc(5), clear_refs


def peak_memory(device: str, *, reset: bool = True) -> int | None:
    """Bytes of the highest use so far; `reset` makes the present use the highest first. None where the system does
    not tell."""
    if torch.device(device).type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device)
    try:
        if reset:
            allocator.use("fresh")  # gives unused memory back, so that a call has to ask for what it needs
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
