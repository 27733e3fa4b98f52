"""Which kernels of a program are kept: those that a measurement does not find slower than the calls that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from modelnew.bench.kernels import Contest, Kernel, contest, value_of
from modelnew.compiler import Contestant, Program, originals, without
from modelnew.live import live_origin, load_source
from modelnew.render.file import render_file


def contested(
    program: Program, model: nn.Module, device: str, progress: Callable[[str], None]
) -> tuple[Program, list[Contest]]:
    """Times the kernels, and leaves to PyTorch what it does faster. `model`: as it was captured; it is not run."""
    written: Any = load_source(render_file(program, model, live_origin(model)), type(model))
    contests: dict[tuple[str, ...], Contest] = {}
    for one in originals(program):
        if one.names not in contests:
            name = ", ".join(one.names)
            progress(f"measuring kernel {name}")
            contests[one.names] = contest(name, _called(written.kernels, one), one.reads, one.calls, device)
    losers = [one.calls for one in originals(program) if contests[one.names].lost]
    return without(program, losers), list(contests.values())


def _called(kernels: Any, one: Contestant) -> Kernel:
    """The kernels of one contestant as one function of what they read."""
    if len(one.parts) == 1:
        alone: Kernel = getattr(kernels, one.parts[0].name)
        return alone

    def run(*given: torch.Tensor) -> None:
        values = dict(zip(one.reads, given, strict=True))
        for part in one.parts:
            made = getattr(kernels, part.name)(*(value_of(node, values) for node in part.reads))
            values.update(zip(part.stores, made if isinstance(made, tuple) else (made,), strict=True))

    return run


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
