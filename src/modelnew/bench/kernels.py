"""A kernel against the calls that it stands for, on random tensors of the captured sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelnew.bench.inprocess import bench_modules
from modelnew.bench.stats import Ratio
from modelnew.errors import BenchError
from modelnew.graph.original import Original
from modelnew.graph.views import RESHAPES, is_axes_view
from modelnew.graph.work import bytes_of
from modelnew.memory import free_memory

BUDGET_S = 0.4  # of timing, per kernel
SHARE = 0.25  # of the free memory that one kernel's tensors may take
SURE = 0.95  # times as fast as PyTorch at the upper end of the interval: below that a kernel is given up
Kernel = Callable[..., Any]


@dataclass(frozen=True)
class Contest:
    """What one kernel gained over the calls that it stands for: their time over its own, None where it was not timed."""

    name: str
    ratio: Ratio | None
    verdict: str = ""

    @property
    def lost(self) -> bool:
        """Certainly, and by more than a busy machine explains."""
        return self.ratio is not None and self.verdict == "slower" and self.ratio.high < SURE

    def as_dict(self) -> dict[str, Any]:
        """name, ratio (above 1: the kernel is faster), verdict."""
        return {"name": self.name, "ratio": self.ratio and self.ratio.value, "verdict": self.verdict or None}


def contest(name: str, kernel: Kernel, reads: Sequence[fx.Node], original: Original, device: str) -> Contest:
    """Times a kernel that takes the values of `reads`. Not timed where its tensors would take much of the free memory."""
    needed = 2 * sum(bytes_of(node.meta["val"]) for node in {*reads, *original.given.values(), *original.gives})
    if needed > SHARE * free_memory(torch.device(device))[0]:
        return Contest(name, None)
    values: dict[fx.Node, Any] = {node: _random(node.meta["val"]) for node in dict.fromkeys(reads)}
    given = [values[node] for node in reads]
    taken = {call: value_of(node, values) for call, node in original.given.items()}
    variants = {"original": lambda: _run(original, taken), "kernel": lambda: kernel(*given)}
    try:
        row = bench_modules(variants, (), device=device, budget_s=BUDGET_S).row("kernel")
    except BenchError:  # random values are not what every call takes
        return Contest(name, None)
    return Contest(name, row.ratio, row.verdict)


def _run(original: Original, taken: dict[fx.Node, Any]) -> list[Any]:
    values = dict(taken)
    for call in original.calls:
        args, kwargs = fx.node.map_arg((call.args, call.kwargs), values.__getitem__)
        values[call] = call.target(*args, **kwargs)  # type: ignore[operator]
    return [values[call] for call in original.gives.values()]


def value_of(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    """A tensor for a node: a view of one that there is, where it is one, otherwise a new one."""
    if node not in values:
        base = node.args[0] if is_axes_view(node) or node.target in RESHAPES else None
        if isinstance(base, fx.Node) and all(
            not isinstance(arg, fx.Node) for arg in node.all_input_nodes if arg is not base
        ):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda arg: value_of(arg, values))
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            values[node] = _random(node.meta["val"])
    return values[node]


def _random(like: torch.Tensor) -> torch.Tensor:
    sizes, strides = ([_number(n) for n in numbers] for numbers in (like.shape, like.stride()))
    if like.dtype.is_floating_point:
        values = torch.rand(math.prod(sizes), device=like.device, dtype=torch.float32).to(like.dtype)
    else:
        values = torch.randint(0, 2, (math.prod(sizes),), device=like.device).to(like.dtype)
    if 0 in strides or math.prod(sizes) == 0:  # expanded
        dense = [1 if stride == 0 else size for size, stride in zip(sizes, strides, strict=True)]
        return values[: math.prod(dense)].reshape(dense).expand(sizes)
    return torch.empty_strided(sizes, strides, dtype=like.dtype, device=like.device).copy_(values.reshape(sizes))


def _number(size: int | torch.SymInt) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
