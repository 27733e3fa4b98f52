"""Fake inputs of other sizes and ranks than those that a capture was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch import fx

from modelnew.graph.capture import Captured
from modelnew.graph.views import is_open

Shape = Callable[[int, torch.Tensor], Sequence[int]]


def set_to_one(captured: Captured, inputs: Sequence[object], symbols: Sequence[str]) -> list[Any]:
    """These open sizes set to 1, with all that is computed from them; the others stay."""
    sizes = {
        name: 1 if name in symbols else node.meta["val"].shape[dim] for name, (node, dim) in captured.sizes.items()
    }
    values = {name: sympy.Integer(size if isinstance(size, int) else size.node.hint) for name, size in sizes.items()}
    nodes = [leaf.node for leaf in captured.leaves]

    def shape(leaf: int, value: torch.Tensor) -> list[int]:
        node = nodes[leaf]
        assert isinstance(node, fx.Node)
        return [now(open_size, size) for open_size, size in zip(node.meta["val"].shape, value.shape, strict=True)]

    def now(open_size: int | torch.SymInt, size: int) -> int:
        if not (isinstance(open_size, torch.SymInt) and is_open(open_size)):
            return size
        expression = open_size.node.expr
        return int(expression.xreplace({symbol: values[str(symbol)] for symbol in expression.free_symbols}))

    return _reshaped(inputs, shape)


def of_rank(inputs: Sequence[object], rank: int, alone: int | None = None) -> list[Any]:
    """Every input with `rank` dims; the tensor of number `alone` with one dim less or, of none, more than the others."""
    return _reshaped(inputs, lambda leaf, value: [5] * (rank if leaf != alone else rank - 1 if rank else 1))


def strided(inputs: Sequence[object], *, turned: bool) -> list[Any]:
    """Inputs of the same sizes that lie in another way: with dims in reverse order, or as slices of wider ones, further on,
    that autograd would record."""
    leaves, spec = pytree.tree_flatten(list(inputs))
    for i, value in enumerate(leaves):
        if isinstance(value, torch.Tensor):
            with value.fake_mode:  # type: ignore[attr-defined]
                if turned:
                    order = list(reversed(range(value.dim())))
                    leaves[i] = value.new_empty([value.shape[dim] for dim in order]).permute(order)
                else:
                    leaves[i] = value.new_empty([size + 2 for size in value.shape])[(slice(1, -1),) * value.dim()]
                    leaves[i].requires_grad_(value.is_floating_point())
    found: list[Any] = pytree.tree_unflatten(leaves, spec)
    return found


def _reshaped(inputs: Sequence[object], shape: Shape) -> list[Any]:
    leaves, spec = pytree.tree_flatten(list(inputs))
    for i, value in enumerate(leaves):
        if isinstance(value, torch.Tensor):
            with value.fake_mode:  # type: ignore[attr-defined]
                leaves[i] = value.new_empty(shape(i, value))
    found: list[Any] = pytree.tree_unflatten(leaves, spec)
    return found
