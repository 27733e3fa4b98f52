"""Region → Kernel: each FX node of a region becomes an expression."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from modelnew.graph.partition import Region, is_one, is_position, reduced_dims, stored, tensors
from modelnew.graph.sources import kernel_name, source_line
from modelnew.graph.views import Axes, base_axes, is_axes_view
from modelnew.kernel.ir import FLOAT_TYPES, Builder, Expr, Kernel, Operand, walk
from modelnew.kernel.ops import POINTWISE, REDUCTIONS, NotExpressible
from modelnew.kernel.pick import with_picks

aten = torch.ops.aten
STORAGE = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "mn::half",
    torch.bfloat16: "mn::bf16",
    torch.int64: "int64_t",
    torch.int32: "int32_t",
    torch.int16: "int16_t",
    torch.int8: "int8_t",
    torch.uint8: "uint8_t",
    torch.bool: "bool",
}
SIXTEEN_BIT = (torch.float16, torch.bfloat16)
LAYOUT_OPTIONS = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking")


class NoDomain(Exception):
    """No operand says how far the kernel's domain extends: a constant, expanded. It stays a library call."""


class Types:
    """Names of types, with the working dtype written `T` (stored) and `C` (computed)."""

    def __init__(self, working: torch.dtype | None) -> None:
        self.working = working

    def storage(self, dtype: torch.dtype) -> str:
        return "T" if dtype == self.working else STORAGE[dtype]

    def compute(self, dtype: torch.dtype) -> str:
        if dtype == self.working:
            return "C"
        return "float" if dtype in SIXTEEN_BIT else STORAGE[dtype]


def why_not(node: fx.Node, types: Types) -> str | None:
    """None if a kernel can compute this node; otherwise the reason."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor) or value.dtype not in STORAGE:
        return f"its result is {getattr(value, 'dtype', type(value).__name__)}"
    for source in tensors(node):
        tensor = source.meta["val"]
        if tensor.dtype not in STORAGE:
            return f"an operand is {tensor.dtype}"
        if tensor.device != value.device:
            return f"an operand is on {tensor.device}, the result on {value.device}"
    if is_position(node):
        return None
    if node.kwargs.get("memory_format") not in (None, torch.preserve_format) and not _makes_contiguous(node):
        return "it asks for a memory format"
    builder = Builder()
    loads = {s: builder.load(i, types.compute(s.meta["val"].dtype)) for i, s in enumerate(tensors(node))}
    try:
        _expression(node, loads.__getitem__, builder, types)
    except NotExpressible as reason:
        return str(reason)
    return None


def lower(
    region: Region, types: Types, name_of: Callable[[fx.Node], str]
) -> tuple[Kernel, list[fx.Node], list[fx.Node]]:
    """The region's kernel, with the nodes that are its operands and those whose values it stores.

    `name_of` gives a tensor the name that a reader knows it by. Raises NoDomain.
    """
    outputs = stored(region)
    operands: list[tuple[fx.Node, Axes]] | None = None
    while True:  # once more without the operands that nothing needs: ones_like(x) does not read x
        found, results = _expressions(region, outputs, types, operands)
        used = {int(expr.detail) for expr in walk(results) if expr.kind == "load"}
        if len(used) == len(found):
            break
        operands = [operand for number, operand in enumerate(found) if number in used]
    walked = {axis for _, axes in found for axis in axes}
    if not found or any(axis not in walked and not is_one(size) for axis, size in enumerate(region.sizes)):
        raise NoDomain
    sources = list(dict.fromkeys(source for source, _ in found))
    names = {node: name_of(node) for node in (*sources, *outputs)}
    reads = [Operand(names[s], types.storage(s.meta["val"].dtype), axes) for s, axes in found]
    writes = [Operand(names[n], types.storage(n.meta["val"].dtype), region.axes[n]) for n in outputs]
    kernel = Kernel(
        name=kernel_name(region.nodes),
        rank=len(region.sizes),
        reduced=region.reduced,
        inputs=tuple(reads),
        outputs=tuple(writes),
        results=results,
        sources=tuple(dict.fromkeys(filter(None, map(source_line, region.nodes)))),
    )
    return with_picks(kernel), [source for source, _ in found], outputs


def _expressions(
    region: Region, outputs: list[fx.Node], types: Types, wanted: list[tuple[fx.Node, Axes]] | None
) -> tuple[list[tuple[fx.Node, Axes]], tuple[Expr, ...]]:
    """The tensors that the region reads, and how; and the expressions that it stores. `wanted`: the only ones to read."""
    builder = Builder()
    operands: dict[tuple[fx.Node, Axes], int] = {}
    values: dict[fx.Node, Expr] = {}

    def read(source: fx.Node, axes: Axes) -> Expr:
        while is_axes_view(source) and source.target is not aten.expand.default and source not in region.axes:
            below = base_axes(source, axes)
            if below is None:
                break
            axes, source = below, source.args[0]  # type: ignore[assignment]
        ctype = types.compute(source.meta["val"].dtype)
        if source in values:
            return values[source]
        if is_position(source) and frozenset(axes) == region.reduced:
            return builder.cast(builder.index(), ctype)
        if wanted is not None and (source, axes) not in wanted:
            return builder.const(0, ctype)
        return builder.load(operands.setdefault((source, axes), len(operands)), ctype)

    for node in region.nodes:
        if is_axes_view(node):
            values[node] = values[node.args[0]]  # type: ignore[index]
            continue

        def value_of(source: fx.Node, node: fx.Node = node) -> Expr:
            return values[source] if source in values else read(source, _read_axes(node, source, region.axes[node]))

        values[node] = _expression(node, value_of, builder, types)
        if _makes_contiguous(node):
            values[node] = builder.contiguous(values[node], region.axes[node])
    return list(operands), tuple(builder.cast(values[node], types.compute(node.meta["val"].dtype)) for node in outputs)


def _makes_contiguous(node: fx.Node) -> bool:
    return node.target is aten.clone.default and node.kwargs.get("memory_format") is torch.contiguous_format


def _read_axes(node: fx.Node, source: fx.Node, axes: Axes) -> Axes:
    """Along which axes of the domain `node` reads a tensor from outside."""
    sizes = source.meta["val"].shape
    if node.target in REDUCTIONS:
        return tuple(None if is_one(size) else dim for dim, size in enumerate(sizes))
    tail = axes[len(axes) - len(sizes) :]
    return tuple(None if is_one(size) else axis for size, axis in zip(sizes, tail, strict=True))


def _expression(node: fx.Node, value_of: Callable[[fx.Node], Expr], builder: Builder, types: Types) -> Expr:
    dtype: torch.dtype = node.meta["val"].dtype
    if node.target in REDUCTIONS:
        return _reduction(node, value_of, builder, types)
    entry = POINTWISE[node.target]  # type: ignore[index]
    wanted = _operand_type(node, entry.operands, types)

    def argument(value: Any) -> Any:
        if isinstance(value, fx.Node):
            if not isinstance(value.meta.get("val"), torch.Tensor):
                raise NotExpressible("a number that is only known at run time")
            expr = value_of(value)
            if wanted is None or (expr.ctype == "bool" and _is_mask(node, value)):
                return expr
            return builder.cast(expr, wanted)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise NotExpressible(f"an argument of type {type(value).__name__}")

    args = _by_position(node)
    options = {k: argument(v) for k, v in node.kwargs.items() if k not in LAYOUT_OPTIONS}
    result = entry.rule(*_with_tensors(args, argument, builder, wanted), **options)
    result = builder.cast(result, types.compute(dtype))
    source = tensors(node)[0].meta["val"].dtype if tensors(node) else dtype
    narrows = dtype in SIXTEEN_BIT or (dtype == types.working and dtype != torch.float64)
    if node.target is aten._to_copy.default and narrows and source not in (dtype, torch.bool):
        result = builder.round(result, types.storage(dtype))
    return result


def _with_tensors(args: list[Any], argument: Callable[[Any], Any], builder: Builder, wanted: str | None) -> list[Any]:
    """The rule's arguments; where no tensor is among them (where(c, 1.0, 2.0)) the numbers become expressions."""
    values = [argument(arg) for arg in args]
    typed = [value for value in values if isinstance(value, Expr) and value.ctype != "bool"]
    if not typed and wanted is not None:
        values = [builder.const(v, wanted) if isinstance(v, (bool, int, float)) else v for v in values]
    return values


def _by_position(node: fx.Node) -> list[Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    return [arg for arg, slot in zip(node.args, schema, strict=False) if slot.name not in LAYOUT_OPTIONS]


def _is_mask(node: fx.Node, value: fx.Node) -> bool:
    """The condition of a where, the mask of a masked_fill: they stay bool."""
    position = {"where": 0, "masked_fill": 1}.get(node.target._schema.name.split("::")[1])  # type: ignore[union-attr]
    return position is not None and node.args[position] is value


def _operand_type(node: fx.Node, operands: str, types: Types) -> str | None:
    if operands == "own":
        return None
    if operands == "result":
        return types.compute(node.meta["val"].dtype)
    left: Any
    right: Any
    left, right = (arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in node.args[:2])
    return types.compute(torch.result_type(left, right))


def _reduction(node: fx.Node, value_of: Callable[[fx.Node], Expr], builder: Builder, types: Types) -> Expr:
    operation = REDUCTIONS[node.target].operation  # type: ignore[index]
    dtype: torch.dtype = node.meta["val"].dtype
    source = tensors(node)[0]
    if not reduced_dims(node, source.meta["val"].dim()):
        raise NotExpressible("a reduction of a single number")
    value = builder.cast(value_of(source), types.compute(dtype))
    if operation in ("max", "min") and value.ctype == "bool":
        operation = "any" if operation == "max" else "all"
    if operation != "mean":
        return builder.reduce(operation, value)
    if value.ctype not in FLOAT_TYPES:
        raise NotExpressible("mean of integers")
    total: Expr = builder.reduce("sum", value) / builder.size(value.ctype)
    return total
