"""Which kernels of a program are kept: those that a measurement does not find slower than the calls that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from modelnew.bench.kernels import Contest, Kernel, contest, value_of
from modelnew.compiler import Called, Program, without
from modelnew.graph.capture import Captured
from modelnew.graph.original import Original, calls_of, original
from modelnew.graph.partition import Region
from modelnew.graph.views import base_of
from modelnew.live import live_origin, load_source
from modelnew.progress import Progress
from modelnew.render.file import render_file


class Contestant(NamedTuple):
    """Kernels that together stand for whole calls of forward, mostly one: `reads` are the tensors that they need from others."""

    parts: tuple[Called, ...]
    reads: list[fx.Node]
    calls: Original

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)


def originals(program: Program) -> list[Contestant]:
    """The kernels that stand for whole calls of forward. None that takes in a product.

    Where a call became several kernels, these are taken together.
    """
    found: list[Contestant] = []
    groups: list[tuple[Called, ...]] = []
    for called in program.called:
        if called.product is not None:
            continue
        if (calls := original(program.captured, called.region, called.stores)) is not None:
            found.append(Contestant((called,), called.reads, calls))
            continue
        near = [group for group in groups if any(_share_a_call(program.captured, called, part) for part in group)]
        groups = [group for group in groups if group not in near]
        groups.append((*(part for group in near for part in group), called))
    for group in groups:
        if len(group) > 1 and (together := _together(program.captured, group)) is not None:
            found.append(together)
    return found


def _share_a_call(captured: Captured, a: Called, b: Called) -> bool:
    return bool(calls_of(captured, a.region) & calls_of(captured, b.region))


def _together(captured: Captured, group: tuple[Called, ...]) -> Contestant | None:
    region = Region([], axes={node: axes for part in group for node, axes in part.region.axes.items()})
    made = [node for part in group for node in part.stores]
    stores = [node for node in made if any(not _leads_into(user, region) for user in node.users)]
    calls = original(captured, region, stores)
    reads = [node for part in group for node in part.reads if base_of(node) not in made]
    return Contestant(group, list(dict.fromkeys(reads)), calls) if calls is not None else None


def _leads_into(node: fx.Node, region: Region) -> bool:
    """Whether a node is in the region, or a view that only nodes of it read."""
    if node in region.axes:
        return True
    return base_of(node) is not node and bool(node.users) and all(_leads_into(user, region) for user in node.users)


def contested(program: Program, model: nn.Module, device: str, progress: Progress) -> tuple[Program, list[Contest]]:
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
