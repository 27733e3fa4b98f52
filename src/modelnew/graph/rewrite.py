"""Passes over the captured graph: each takes the graph, changes it in place, and leaves its meaning as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher

from modelnew.graph.partition import same, shape, tensors
from modelnew.graph.views import RESHAPES, is_axes_view, is_open
from modelnew.kernel.ops import POINTWISE, REDUCTIONS
from modelnew.runtime.product import can_scale

aten = torch.ops.aten
Accepts = Callable[[fx.Node], str | None]


def drop_assertions(graph: fx.Graph) -> None:
    """torch.export's checks of its own assumptions: the guard of the optimised file makes them."""
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and "assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()


def split_bias(graph: fx.Graph, accepts: Accepts) -> None:
    """A product whose result goes into kernels leaves its bias to them: one pass over the result less."""
    for node in list(graph.nodes):
        beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
        if node.target is aten.linear.default and len(node.args) == 3 and node.args[2] is not None:
            product: tuple[Any, ...] = (aten.linear.default, node.args[0], node.args[1])
            bias: Any = node.args[2]
        elif node.target is aten.addmm.default and _can_be_apart(beta, alpha):
            product, bias = (aten.mm.default, node.args[1], node.args[2]), node.args[0]
        else:
            continue
        if node.users and all(_fuses(user, accepts) for user in node.users):
            plain = insert(graph, node, product[0], product[1:])
            if alpha != 1:
                plain = insert(graph, node, aten.mul.Tensor, (plain, alpha))
            total = insert(graph, node, aten.add.Tensor, (plain, bias))
            total.kwargs = {} if beta == 1 else {"alpha": beta}
            node.replace_all_uses_with(total)
            graph.erase_node(node)


def _can_be_apart(beta: Any, alpha: Any) -> bool:
    """Whether addmm's factors may be applied after its product has been rounded: in 16 bits it may overflow before a small
    one. Those of 0 leave their operand unread, whatever is in it."""
    return can_scale(beta) and can_scale(alpha) and abs(alpha) >= 1


def hoist_reshapes(graph: fx.Graph, accepts: Accepts) -> None:
    """sigmoid(x).view(…).sum() becomes sigmoid(x.view(…)).sum(): a reshape between two fusable ops would part them.

    Only where the whole chain above it is elementwise on tensors of one shape, so that nothing fused comes apart.
    """
    for node in list(graph.nodes):
        if node.target not in RESHAPES or not any(_fuses(user, accepts) for user in node.users):
            continue
        source = node.args[0]
        if _hoistable(source, accepts):
            node.replace_all_uses_with(_reshaped(graph, node, source, accepts))
            graph.erase_node(node)
    graph.eliminate_dead_code()


def sink_reshapes(graph: fx.Graph, accepts: Accepts) -> None:
    """silu(y.view(…)) becomes silu(y).view(…) where y is fused already: the elementwise op joins y's kernel.

    Its other operands must be of the same shape, and are seen in the shape of y: a view that splits dims, or a copy that eager
    would have made as well.
    """
    for node in list(graph.nodes):
        if node.target not in POINTWISE or accepts(node) is not None:
            continue
        views = [s for s in tensors(node) if s.target in RESHAPES and len(s.users) == 1 and _fused(s.args[0], accepts)]
        if len(views) != 1 or not all(_same_shape(source, node) for source in tensors(node)):
            continue
        view, base = views[0], views[0].args[0]
        assert isinstance(base, fx.Node)
        sizes = [_size(graph, node, base, dim) for dim in range(len(shape(base)))]
        args = tuple(
            base
            if arg is view
            else insert(graph, node, aten.reshape.default, (arg, sizes))
            if arg in tensors(node)
            else arg
            for arg in node.args
        )
        inner = insert(graph, node, node.target, args)
        inner.kwargs = node.kwargs
        outer = insert(graph, node, view.target, (inner, *view.args[1:]))
        node.replace_all_uses_with(outer)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _fused(node: Any, accepts: Accepts) -> bool:
    return (
        isinstance(node, fx.Node) and (node.target in POINTWISE or node.target in REDUCTIONS) and accepts(node) is None
    )


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    one, other = shape(a), shape(b)
    return len(one) == len(other) and all(same(x, y) for x, y in zip(one, other, strict=True))


def _size(graph: fx.Graph, near: fx.Node, source: fx.Node, dim: int) -> Any:
    """A dim's size as an argument: a number, or a node that asks for it."""
    size = shape(source)[dim]
    if not is_open(size):
        return int(size)
    with graph.inserting_before(near):
        node = graph.call_function(aten.sym_size.int, (source, dim))
    node.meta["val"] = size
    return node


def insert(graph: fx.Graph, near: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """A new node before `near`, with the metadata of what it computes and where it comes from."""
    with graph.inserting_before(near):
        node = graph.call_function(target, args)
    node.meta = {key: near.meta[key] for key in ("stack_trace", "from_node", "nn_module_stack") if key in near.meta}
    fakes = torch.utils._pytree.tree_map_only(fx.Node, lambda arg: arg.meta["val"], args)
    with near.meta["val"].fake_mode, enable_python_dispatcher():
        node.meta["val"] = target(*fakes)
    return node


def _fuses(node: fx.Node, accepts: Accepts) -> bool:
    if is_axes_view(node):
        return any(_fuses(user, accepts) for user in node.users)
    return (node.target in POINTWISE or node.target in REDUCTIONS) and accepts(node) is None


def _hoistable(node: fx.Node, accepts: Accepts) -> bool:
    """An elementwise op used by nobody else, on tensors of its own shape that are themselves hoistable or not fused at all."""
    if node.target not in POINTWISE or accepts(node) is not None or len(node.users) != 1:
        return False
    for source in tensors(node):
        if not _same_shape(source, node):
            return False
        outside = source.target not in POINTWISE and source.target not in REDUCTIONS and not is_axes_view(source)
        if not outside and not _hoistable(source, accepts):
            return False
    return True


def _reshaped(graph: fx.Graph, view: fx.Node, node: fx.Node, accepts: Accepts) -> fx.Node:
    """`node`'s value in the shape of `view`."""
    if not _hoistable(node, accepts):
        return insert(graph, view, view.target, (node, *view.args[1:]))
    args = tuple(
        _reshaped(graph, view, arg, accepts) if isinstance(arg, fx.Node) and arg in tensors(node) else arg
        for arg in node.args
    )
    new = insert(graph, view, node.target, args)
    new.kwargs = node.kwargs
    new.meta.update(
        {key: node.meta[key] for key in ("stack_trace", "from_node", "nn_module_stack") if key in node.meta}
    )
    return new
