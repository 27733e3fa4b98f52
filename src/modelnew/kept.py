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


def told(contests: Sequence[Contest]) -> tuple[str, ...]:
    """How it ended, for the reader of the file."""
    lost = ", ".join(contest.name for contest in contests if contest.lost)
    kept = ", ".join(contest.name for contest in contests if contest.verdict in ("faster", "same"))
    lines = (
        f"Kept by a measurement where this was written: {kept}.",
        f"Left to PyTorch, which was faster there: {lost}.",
    )
    return tuple(line for line, names in zip(lines, (kept, lost), strict=True) if names)
