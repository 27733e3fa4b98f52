"""A captured graph with another working dtype: what a capture of the same calls in that dtype would give."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor

from modelnew.graph.capture import Captured


def retyped(captured: Captured, dtype: torch.dtype) -> Captured | None:
    """None where a value's dtype does not follow the working dtype: an operand of fixed dtype promotes it."""
    graph = fx.Graph()
    twins: dict[fx.Node, fx.Node] = {}

    def convert(value: Any) -> Any:
        return dtype if isinstance(value, torch.dtype) and value == captured.working else value

    for node in captured.graph.nodes:
        twin = twins[node] = graph.node_copy(node, twins.__getitem__)
        twin.args, twin.kwargs = pytree.tree_map(convert, (list(twin.args), dict(twin.kwargs)))
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            follows = value.dtype == captured.working and node not in captured.constants
            twin.meta["val"] = value.to(dtype) if follows else value
        elif node.op == "call_function" and isinstance(value, (torch.Tensor, tuple, list)):
            twin.meta["val"] = _value(twin, value)
            for old, new in zip(pytree.tree_leaves(value), pytree.tree_leaves(twin.meta["val"]), strict=True):
                if isinstance(old, torch.Tensor) and convert(old.dtype) != new.dtype:
                    return None
    return replace(
        captured,
        graph=graph,
        leaves=tuple(replace(leaf, node=leaf.node and twins[leaf.node]) for leaf in captured.leaves),
        state={twins[node]: path for node, path in captured.state.items()},
        constants={twins[node]: tensor for node, tensor in captured.constants.items()},
        sizes={symbol: (twins[node], dim) for symbol, (node, dim) in captured.sizes.items()},
        working=dtype,
    )


def _value(node: fx.Node, like: Any) -> Any:
    """What the op gives on the values of its arguments.

    By its Python rules: PyTorch 2.11's matmul in C++ asks for the number of elements, which is none yet.
    """
    args, kwargs = pytree.tree_map_only(fx.Node, lambda arg: arg.meta["val"], (list(node.args), dict(node.kwargs)))
    first = next(leaf for leaf in pytree.tree_leaves(like) if isinstance(leaf, FakeTensor))
    assert callable(node.target)
    with first.fake_mode, enable_python_dispatcher(), torch.no_grad():
        return node.target(*args, **kwargs)
