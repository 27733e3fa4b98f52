"""Running a model in float64, whatever dtype its parameters and constants have.

A dispatch mode sees every ATen op that the model makes, after autocasts and composite ops are gone. Floating operands
are widened when they are used, so a parameter that must stay fp32 for lack of memory, a constant that `forward`
creates, or a lambda that kept the original sub-module still gives a float64 result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NARROW = (torch.float32, torch.float16, torch.bfloat16)
CHUNK = 1 << 24  # elements of a matrix that are held in float64 at a time


class Draws:
    """The random numbers that a forward drew: recorded from eager, played back into float64 runs, so both see the same
    dropout.
    """

    def __init__(self) -> None:
        self.recorded: list[Any] = []
        self.position = 0

    def rewind(self) -> Draws:
        self.position = 0
        return self

    def next(self) -> Any:
        if self.position >= len(self.recorded):
            raise RuntimeError("the float64 run drew more random numbers than the run in the model's own dtype")
        self.position += 1
        return self.recorded[self.position - 1]


def is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def written(func: Any) -> set[int]:
    """Positions of the arguments that `func` writes to."""
    return {
        i
        for i, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    }


class Recorder(TorchDispatchMode):
    """Records what the random ops of a run return."""

    def __init__(self, draws: Draws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = draws

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if is_random(func):
            self.draws.recorded.append(tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, out))
        return out


def widen(tree: Any) -> Any:
    """Narrow floating tensors, and dtypes named as arguments, to float64."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(torch.float64) if leaf.dtype in NARROW else leaf
        return torch.float64 if leaf in NARROW else leaf

    return tree_map(one, tree)


class Wide(TorchDispatchMode):
    """Every op in float64."""

    def __init__(self, draws: Draws | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.draws = draws

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        targets = written(func)
        if is_random(func) and self.draws is not None:
            return self._replay(args, targets)
        if _large_product(func, args):
            return self.product(func, args, kwargs)
        wide = widen(args)
        out = self.compute(func, wide, widen(kwargs))
        for i in targets & set(range(len(args))):
            if isinstance(args[i], torch.Tensor) and wide[i] is not args[i]:  # a narrow buffer written in place
                args[i].copy_(wide[i])
                out = args[i] if out is wide[i] else out
        return out

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def product(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        """A product with a matrix too large to be widened at once."""
        bias, a, b = split_product(func, args)
        out = chunked(torch.mm, widen(a), b, lambda part: part)
        return combine_bias(bias, out, kwargs)

    def _replay(self, args: Any, targets: set[int]) -> Any:
        assert self.draws is not None
        value = self.draws.next()
        if not targets:
            return widen(value)
        target: torch.Tensor = args[min(targets)]
        return target.copy_(value)


def _large_product(func: Any, args: Any) -> bool:
    if func not in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        return False
    b = args[-1]
    return bool(b.dtype in NARROW and b.numel() > CHUNK)


def split_product(func: Any, args: Any) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    return (None, args[0], args[1]) if func is torch.ops.aten.mm.default else (args[0], args[1], args[2])


def combine_bias(bias: torch.Tensor | None, product: torch.Tensor, kwargs: Any) -> torch.Tensor:
    product.mul_(kwargs.get("alpha", 1))
    return product if bias is None else product.add_(widen(bias), alpha=kwargs.get("beta", 1))


def chunked(
    multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    a: torch.Tensor,
    b: torch.Tensor,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """`multiply(a, change(b))` in float64 with only a few columns of `b` widened at a time.

    a: (M, K) float64; b: (K, N) of any floating dtype; result (M, N) float64.
    """
    out = torch.empty(a.shape[0], b.shape[1], dtype=torch.float64, device=a.device)
    step = max(1, CHUNK // max(1, b.shape[0]))
    for start in range(0, b.shape[1], step):
        part = b[:, start : start + step].to(torch.float64)
        out[:, start : start + step] = multiply(a, change(part))
    return out


def tensors(tree: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested lists, tuples and dicts, in order."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, Iterable) and not isinstance(tree, str):
        for value in tree:
            yield from tensors(value)
