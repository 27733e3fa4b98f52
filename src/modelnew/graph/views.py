"""Views that only rename dims: they cost nothing inside a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
Axes = tuple[int | None, ...]

AXES_VIEWS = frozenset(
    {
        aten.permute.default,
        aten.transpose.int,
        aten.t.default,
        aten.unsqueeze.default,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.alias.default,
        aten.detach.default,
        aten.lift_fresh_copy.default,
        aten.expand.default,
    }
)
SAME = (aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)
RESHAPES = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints})


def is_axes_view(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in AXES_VIEWS


def base_of(node: fx.Node) -> fx.Node:
    """The node that this one is a view of, through any number of views; itself where it is none."""
    while is_axes_view(node) or node.target in RESHAPES:
        node = node.args[0]  # type: ignore[assignment]
    return node


def is_open(size: int | torch.SymInt) -> bool:
    return isinstance(size, torch.SymInt) and not size.node.expr.is_number


def view_axes(node: fx.Node, axes: Axes) -> Axes | None:
    """Axes of the view, given those of the viewed value; None where they depend on a size that is open."""
    args: Sequence[Any] = node.args
    rank = len(axes)
    if node.target in SAME:
        return axes
    if node.target is aten.permute.default:
        return tuple(axes[dim] for dim in args[1])
    if node.target is aten.t.default:
        return tuple(reversed(axes))
    if node.target is aten.transpose.int:
        first, second = args[1] % rank, args[2] % rank
        order = list(range(rank))
        order[first], order[second] = second, first
        return tuple(axes[dim] for dim in order)
    if node.target is aten.unsqueeze.default:
        position = args[1] % (rank + 1)
        return (*axes[:position], None, *axes[position:])
    if node.target is aten.expand.default:
        return _expanded(node, axes)
    return _squeezed(node, axes)


def _squeezed(node: fx.Node, axes: Axes) -> Axes | None:
    """Only a dim that has no axis goes: one that has size 1 by chance, at run time, would change the rank."""
    source: Any = node.args[0]
    sizes = source.meta["val"].shape
    if node.target is aten.squeeze.default:
        if any(is_open(size) for size in sizes):
            return None
        dims = [dim for dim, size in enumerate(sizes) if size == 1]
    else:
        asked: Any = node.args[1]
        dims = [dim % len(axes) for dim in ([asked] if isinstance(asked, int) else asked)]
    if any(is_open(sizes[dim]) for dim in dims):
        return None
    dims = [dim for dim in dims if sizes[dim] == 1]
    return tuple(axis for dim, axis in enumerate(axes) if dim not in dims)


def _expanded(node: fx.Node, axes: Axes) -> Axes:
    """New dims, and dims of size 1 that grow, run along no axis yet: whatever uses the value says along which."""
    return (*(None for _ in range(len(node.meta["val"].shape) - len(axes))), *axes)


def base_axes(node: fx.Node, axes: Axes) -> Axes | None:
    """The reverse of `view_axes`: how the viewed tensor is read when the view is read along `axes`; None where unknown."""
    args: Sequence[Any] = node.args
    sizes = args[0].meta["val"].shape
    rank = len(sizes)
    if node.target in SAME:
        return axes
    if node.target is aten.unsqueeze.default:
        position = args[1] % (rank + 1)
        return (*axes[:position], *axes[position + 1 :])
    if node.target is aten.expand.default:
        tail = axes[len(axes) - rank :]
        grew = [str(a) != str(b) for a, b in zip(sizes, node.meta["val"].shape[len(axes) - rank :], strict=True)]
        return tuple(None if new else axis for new, axis in zip(grew, tail, strict=True))
    numbered = view_axes(node, tuple(range(rank)))
    if numbered is None:
        return None
    result: list[int | None] = [None] * rank
    for dim, axis in zip(numbered, axes, strict=True):
        if dim is not None:
            result[dim] = axis
    return tuple(result)
