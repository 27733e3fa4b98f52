"""What a model has to do, whatever the kernels: bytes in, bytes out, and the products' operations."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.utils._pytree as pytree
from torch import fx

from modelnew.graph.capture import Captured
from modelnew.graph.views import base_of

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.bmm.default, aten.addmm.default, aten.matmul.default, aten.linear.default}
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default}


def bytes_of(value: torch.Tensor) -> int:
    """Bytes of the elements; an open size counts as it was captured, a stride of 0 as one element."""
    count = 1
    for size, stride in zip(value.shape, value.stride(), strict=True):
        if _number(stride) != 0:
            count *= _number(size)
    return count * value.element_size()


def traffic(captured: Captured) -> tuple[int, int]:
    """(bytes read, bytes written): each input and parameter that is used once, each result once. A view is neither."""
    read = sum(
        bytes_of(n.meta["val"]) for n in captured.graph.nodes if n.op == "placeholder" and _is_read(n) and _is_tensor(n)
    )
    results = [leaf for leaf in pytree.tree_leaves(captured.returns) if isinstance(leaf, fx.Node)]
    results += [node for _, node in captured.mutations]
    made = dict.fromkeys(n for n in results if _is_tensor(n) and base_of(n).op != "placeholder")
    return read, sum(bytes_of(n.meta["val"]) for n in made)


def _is_read(node: fx.Node) -> bool:
    """Whether anything but views of it uses it."""
    return any(_is_read(user) if base_of(user) is not user else user.op != "output" for user in node.users)


def flops(captured: Captured) -> dict[str, int]:
    """Operations of the products (2·m·n·k), by dtype name such as "float32"."""
    totals: dict[str, int] = {}
    for node in captured.graph.nodes:
        count = _product_flops(node)
        if count:
            dtype = str(node.meta["val"].dtype).removeprefix("torch.")
            totals[dtype] = totals.get(dtype, 0) + count
    return totals


def moved(nodes: Iterable[fx.Node]) -> int:
    """Bytes of the tensors among these nodes."""
    return sum(bytes_of(node.meta["val"]) for node in nodes if _is_tensor(node))


def _product_flops(node: fx.Node) -> int:
    if node.target in PRODUCTS:
        left = node.args[1] if node.target is aten.addmm.default else node.args[0]
        assert isinstance(left, fx.Node)
        return 2 * _elements(node) * _number(left.meta["val"].shape[-1])
    if node.target in CONVOLUTIONS:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        return 2 * _elements(node) * math.prod(_number(size) for size in weight.meta["val"].shape[1:])
    return 0


def _elements(node: fx.Node) -> int:
    return math.prod(_number(size) for size in node.meta["val"].shape)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _number(size: int | torch.SymInt) -> int:
    """An open size as it was captured."""
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
