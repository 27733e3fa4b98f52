"""Which kernels of a program are kept: those that a measurement does not find slower than the calls that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from modelnew.bench.kernels import Contest, contest
from modelnew.compiler import Program, originals, without
from modelnew.live import live_origin, load_source
from modelnew.render.file import render_file


def contested(
    program: Program, model: nn.Module, device: str, progress: Callable[[str], None]
) -> tuple[Program, list[Contest]]:
    """Times the kernels, and leaves to PyTorch what it does faster. `model`: as it was captured; it is not run."""
    written: Any = load_source(render_file(program, model, live_origin(model)), type(model))
    contests: dict[str, Contest] = {}
    for name, reads, calls in originals(program):
        if name not in contests:
            progress(f"measuring kernel {name}")
            contests[name] = contest(name, getattr(written.kernels, name), reads, calls, device)
    losers = [calls for name, _, calls in originals(program) if contests[name].lost]
    return without(program, losers), list(contests.values())


def told(contests: Sequence[Contest], onednn: Sequence[str] = ()) -> tuple[str, ...]:
    """What was decided, for the reader of the file: names alone, so that figures do not change its bytes.

    `onednn`: the products that oneDNN computes.
    """
    lists = {
        "Kept by a measurement where this was written": [c.name for c in contests if c.ratio and not c.lost],
        "Left to PyTorch, which was faster there": [c.name for c in contests if c.lost],
        "Products left to oneDNN, which was faster than PyTorch's own there": onednn,
    }
    return tuple(f"{what}: {', '.join(names)}." for what, names in lists.items() if names)
