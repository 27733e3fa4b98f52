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

Change = Callable[[int, torch.Tensor], torch.Tensor]
Lie = tuple[bool, tuple[int, ...]]


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

    return _changed(inputs, lambda leaf, value: value.new_empty(shape(leaf, value)))


def of_rank(inputs: Sequence[object], rank: int, alone: int | None = None) -> list[Any]:
    """Every input with `rank` dims; the tensor of number `alone` with one dim less or, of none, more than the others."""
    return _changed(
        inputs, lambda leaf, value: value.new_empty([5] * (rank if leaf != alone else rank - 1 if rank else 1))
    )


def lie_of(tensor: torch.Tensor) -> Lie:
    """How a tensor lies: (True, its dims from the slowest to the fastest) if it is dense, otherwise (False, its strides)."""
    strides = tuple(step if isinstance(step, int) else int(step.node.hint) for step in tensor.stride())
    order = tuple(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
    return (True, order) if tensor.permute(order).is_contiguous() else (False, strides)


def turned(inputs: Sequence[object]) -> list[Any]:
    """Inputs of the same sizes whose dims lie in reverse order."""

    def change(_: int, value: torch.Tensor) -> torch.Tensor:
        order = list(reversed(range(value.dim())))
        return value.new_empty([value.shape[dim] for dim in order]).permute(order)

    return _changed(inputs, change)


def sliced(inputs: Sequence[object]) -> list[Any]:
    """Inputs of the same sizes that are slices of wider tensors, further on, and that autograd would record."""

    def change(_: int, value: torch.Tensor) -> torch.Tensor:
        wider = value.new_empty([size + 2 for size in value.shape])
        return wider[(slice(1, -1),) * value.dim()].requires_grad_(value.is_floating_point())

    return _changed(inputs, change)


def _changed(inputs: Sequence[object], change: Change) -> list[Any]:
    """`inputs` with `change(position among the leaves, tensor)` in place of each tensor, made under its fake mode."""
    leaves, spec = pytree.tree_flatten(list(inputs))
    for i, value in enumerate(leaves):
        if isinstance(value, torch.Tensor):
            with value.fake_mode:  # type: ignore[attr-defined]
                leaves[i] = change(i, value)
    found: list[Any] = pytree.tree_unflatten(leaves, spec)
    return found
