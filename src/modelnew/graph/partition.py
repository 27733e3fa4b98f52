"""FX graph → regions: which nodes become one kernel.

A region has a domain: the sizes that its kernel loops over. Each node in it has `axes`: for every dim of the node's value the
domain's axis that the dim runs along, or None for a dim of size 1. So a permuted or unsqueezed value needs no copy and no
reshaping: views of that kind only rename axes. A region whose nodes reduce is a row program: `reduced` are the axes of one row,
and all its reductions run over exactly these.

Nodes are taken in order, and each joins the region of one of its inputs if its value fits that domain and no cycle arises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from modelnew.graph.views import Axes, is_axes_view, view_axes
from modelnew.kernel.ops import POINTWISE, REDUCTIONS

aten = torch.ops.aten
Size = int | torch.SymInt
CHEAP = frozenset(
    {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.neg.default, aten.relu.default, aten._to_copy.default}
)
MAX_OPERANDS = 24  # pointers a kernel takes
MAX_NODES = 256


@dataclass
class Region:
    """Nodes that one kernel computes. `axes` has an entry for each of them."""

    sizes: list[Size]
    reduced: frozenset[int] = frozenset()
    axes: dict[fx.Node, Axes] = field(default_factory=dict)
    operands: dict[fx.Node, list[Axes]] = field(default_factory=dict)  # tensors from outside, and how each is read

    @property
    def nodes(self) -> list[fx.Node]:
        return list(self.axes)


@dataclass(frozen=True)
class Partition:
    """`regions` in an order in which they can run; `left` says of nodes that could have been fused why they were not."""

    regions: tuple[Region, ...]
    left: dict[fx.Node, str]


def partition(graph: fx.Graph, accepts: Callable[[fx.Node], str | None]) -> Partition:
    """`accepts(node)` returns None if a kernel can compute the node, or why not.

    A value that is needed outside its region must cover the whole domain, or every row, to be stored. Where one turns out
    not to, all is done again with that node kept out of larger domains.
    """
    exiled: set[fx.Node] = set()
    while True:
        result = _attempt(graph, accepts, exiled)
        stuck = {
            node for region in result.regions for node in stored(region) if not storable(region, region.axes[node])
        }
        if stuck <= exiled:
            return result
        exiled |= stuck


def _attempt(graph: fx.Graph, accepts: Callable[[fx.Node], str | None], exiled: set[fx.Node]) -> Partition:
    state = _Partitioner(graph, exiled)
    left: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_axes_view(node):
            state.follow(node)
        elif node.target in POINTWISE or node.target in REDUCTIONS or is_position(node):
            reason = accepts(node)
            if reason is None:
                reason = state.add(node)
            if reason is not None:
                left[node] = reason
    return Partition(state.finished(), left)


def stored(region: Region) -> list[fx.Node]:
    """The region's values that are needed outside it. A view of one is taken outside, of the stored value."""

    def leaves(node: fx.Node) -> bool:
        users = [user for user in node.users if user.target is not aten.sym_size.int]
        return any(
            leaves(user) if is_axes_view(user) and user in region.axes else user not in region.axes for user in users
        )

    return [node for node in region.axes if not is_axes_view(node) and leaves(node)]


def storable(region: Region, axes: Axes) -> bool:
    """Whether every element of the domain, or every row, has a place of its own in a tensor of these axes."""
    covered = {axis for axis in axes if axis is not None}
    extended = {axis for axis, size in enumerate(region.sizes) if not is_one(size)}
    return covered >= extended or (bool(region.reduced) and covered == extended - region.reduced)


def is_position(node: fx.Node) -> bool:
    """arange(n): the position along an axis."""
    plain = list(node.args[:1]) == [0] and list(node.args[2:]) in ([], [1])
    return node.target is aten.arange.start_step and plain


def is_product(node: fx.Node) -> bool:
    """A product of two matrices, or of several pairs, bias not among them."""
    if node.target is aten.linear.default:
        return len(node.args) == 2 or node.args[2] is None
    if node.target is aten.matmul.default:
        return all(len(shape(factor)) >= 2 for factor in tensors(node))
    return node.target in (aten.mm.default, aten.bmm.default)


def same(a: Size, b: Size) -> bool:
    """Equal for certain: the same number, or the same expression of open sizes."""
    return bool(_expression(a) == _expression(b))


def is_one(size: Size) -> bool:
    return bool(_expression(size) == 1)


def _expression(size: Size) -> Any:
    """A size that turned out to be fixed while exporting is a SymInt still, of a constant."""
    return size.node.expr if isinstance(size, torch.SymInt) else size


def shape(node: fx.Node) -> list[Size]:
    return list(node.meta["val"].shape)


def tensors(node: fx.Node) -> list[fx.Node]:
    """The node's tensor arguments."""
    return [arg for arg in node.all_input_nodes if isinstance(arg.meta.get("val"), torch.Tensor)]


class _Partitioner:
    def __init__(self, graph: fx.Graph, exiled: set[fx.Node]) -> None:
        self.exiled = exiled
        self.order = {node: position for position, node in enumerate(graph.nodes)}
        self.region: dict[fx.Node, Region] = {}

    def finished(self) -> tuple[Region, ...]:
        """Regions with their nodes in the graph's order; row programs over the same rows of one tensor read it once."""
        regions = list({id(region): region for region in self.region.values()}.values())
        for position, region in enumerate(regions):
            for other in regions[position + 1 :]:
                if region.axes and other.axes and self._side_by_side(region, other):
                    self._absorb(region, other)
        unique: dict[int, Region] = {}
        for node in sorted(self.region, key=self.order.__getitem__):
            unique.setdefault(id(self.region[node]), self.region[node])
        for region in unique.values():
            region.axes = {node: region.axes[node] for node in sorted(region.axes, key=self.order.__getitem__)}
        return tuple(region for region in unique.values() if not _is_one_number(region))

    def _side_by_side(self, a: Region, b: Region) -> bool:
        """Whether two row programs have the same rows, read the same tensor along them, and do not need each other."""
        if not a.reduced or a.reduced != b.reduced or len(a.axes) + len(b.axes) > MAX_NODES:
            return False
        if len(a.sizes) != len(b.sizes) or not all(same(x, y) for x, y in zip(a.sizes, b.sizes, strict=True)):
            return False
        shared = any(use in b.operands.get(tensor, ()) for tensor, uses in a.operands.items() for use in uses)
        apart = not any(arg in b.axes for n in a.axes for arg in n.all_input_nodes)
        apart = apart and not any(arg in a.axes for n in b.axes for arg in n.all_input_nodes)
        return shared and apart and not self._reaches(a, b) and not self._reaches(b, a)

    def _absorb(self, region: Region, other: Region) -> None:
        region.axes.update(other.axes)
        for tensor, uses in other.operands.items():
            mine = region.operands.setdefault(tensor, [])
            mine.extend(use for use in uses if use not in mine)
        for node in other.axes:
            self.region[node] = region
        other.axes = {}

    def follow(self, view: fx.Node) -> None:
        """A view of a value in a region belongs to it, if its axes are still the domain's."""
        base = view.args[0]
        assert isinstance(base, fx.Node)
        region = self.region.get(base)
        if region is None:
            return
        axes = view_axes(view, region.axes[base])
        if axes is not None:
            region.axes[view] = axes
            self.region[view] = region

    def add(self, node: fx.Node) -> str | None:
        if is_position(node):
            return None  # an operand that costs nothing: joins where it is used
        reason = None
        for region in self._candidates(node):
            reason = self._join(node, region)
            if reason is None:
                return None
        return self._start(node)

    def _candidates(self, node: fx.Node) -> list[Region]:
        """Regions of the inputs, the latest first; then regions that read the same tensor.

        A value that goes on into a reduction waits for that one's region: x * x, drawn into a region for x's sake, would be
        stored (in 16 bits it may overflow) for the sum over other dims that it was made for.
        """
        producers = [self.region[arg] for arg in tensors(node) if arg in self.region]
        if node.target not in REDUCTIONS and _is_reduced_later(node):
            return list({id(region): region for region in reversed(producers)}.values())
        readers = [
            self.region[user]
            for arg in tensors(node)
            if arg not in self.region
            for user in arg.users
            if user in self.region and self.order[user] < self.order[node]
        ]
        unique = {id(region): region for region in (*reversed(producers), *readers)}
        return list(unique.values())

    def _start(self, node: fx.Node) -> str | None:
        value = tensors(node)[0] if node.target in REDUCTIONS else node
        region = Region([*shape(value)])
        if not region.sizes and node.target in REDUCTIONS:
            return "a reduction of a single number"
        return self._join(node, region, merging=False)

    def _join(self, node: fx.Node, region: Region, *, merging: bool = True) -> str | None:
        """Add the node to the region, or say why it does not fit; nothing is changed then.

        merging: other inputs' regions may become one with this, where all of it fits.
        """
        if merging:
            others = {id(r): r for arg in tensors(node) if (r := self.region.get(arg, region)) is not region}
            merged = region
            for other in others.values():
                merged = self._merge(merged, other, node) or merged
            if merged is not region and self._enter(node, merged) is None:
                return None
        return self._enter(node, region)

    def _enter(self, node: fx.Node, region: Region) -> str | None:
        placed = self._place(node, region)
        if placed is None:
            return "its value does not run along the same domain"
        axes, reduced, operands = placed
        if len(operands) > MAX_OPERANDS or len(region.axes) >= MAX_NODES:
            return "the kernel would be too large"
        if node in self.exiled and not storable(Region(region.sizes, reduced), axes):
            return "its value is needed elsewhere and does not cover the domain"
        if self._cycles(node, region):
            return "it would have to run both before and after another call"
        region.axes[node] = axes
        region.reduced = reduced
        region.operands = operands
        for member in region.axes:
            self.region[member] = region
        return None

    def _place(self, node: fx.Node, region: Region) -> tuple[Axes, frozenset[int], dict[fx.Node, list[Axes]]] | None:
        """The node's axes in the region's domain, the domain's reduced axes then, and the operands it reads."""
        operands = {tensor: list(uses) for tensor, uses in region.operands.items()}
        if node.target in REDUCTIONS:
            source = tensors(node)[0]
            axes = region.axes.get(source)
            if axes is None:
                axes = self._identity(source, region)
            if axes is None or not self._read(source, axes, region, operands):
                return None
            dims = reduced_dims(node, len(axes))
            reduced = frozenset(axis for dim in dims if (axis := axes[dim]) is not None)
            if not reduced or (region.reduced and region.reduced != reduced):
                return None
            if any(axes[dim] is None and not is_one(shape(source)[dim]) for dim in dims):
                return None
            result = tuple(None if dim in dims else axis for dim, axis in enumerate(axes))
            if len(result) != len(shape(node)):
                result = tuple(axis for dim, axis in enumerate(result) if dim not in dims)
            return result, reduced, operands
        axes = self._broadcast(node, region)
        if axes is None:
            return None
        for source in tensors(node):
            wanted = _aligned(shape(source), axes)
            if source in region.axes:
                have = region.axes[source]
                if any(h is not None and h != w for h, w in zip(have, wanted, strict=True)):
                    return None
            elif not self._read(source, wanted, region, operands):
                return None
        return axes, region.reduced, operands

    def _identity(self, source: fx.Node, region: Region) -> Axes | None:
        sizes = shape(source)
        if len(sizes) != len(region.sizes) or not all(same(a, b) for a, b in zip(sizes, region.sizes, strict=True)):
            return None
        return tuple(None if is_one(size) else dim for dim, size in enumerate(sizes))

    def _read(self, source: fx.Node, axes: Axes, region: Region, operands: dict[fx.Node, list[Axes]]) -> bool:
        """Note that the region reads `source`, which is outside, along these axes."""
        if source in region.axes:
            return True
        for size, axis in zip(shape(source), axes, strict=True):
            if axis is not None and not same(size, region.sizes[axis]):
                return False
        uses = operands.setdefault(source, [])
        if axes not in uses:
            uses.append(axes)
        return True

    def _broadcast(self, node: fx.Node, region: Region) -> Axes | None:
        """Axes of a pointwise node: from its inputs in the region where they have one, else by position in the domain."""
        sizes = shape(node)
        axes: list[int | None] = [None] * len(sizes)
        for source in tensors(node):
            have = region.axes.get(source)
            if have is None:
                continue
            offset = len(sizes) - len(have)
            for dim, axis in enumerate(have):
                if axis is not None:
                    if axes[offset + dim] not in (None, axis):
                        return None
                    axes[offset + dim] = axis
        taken = {axis for axis in axes if axis is not None}
        for dim, size in enumerate(sizes):
            if is_one(size):
                continue
            if axes[dim] is None:
                axes[dim] = self._free_axis(dim, sizes, axes, taken, region)
                if axes[dim] is None:
                    return None
                taken.add(axes[dim])  # type: ignore[arg-type]
            axis = axes[dim]
            if axis is None or not same(size, region.sizes[axis]):
                return None
        along = [axis for axis in axes if axis is not None]
        if len(set(along)) != len(along):
            return None
        return tuple(axes)

    def _free_axis(
        self, dim: int, sizes: list[Size], axes: list[int | None], taken: set[int], region: Region
    ) -> int | None:
        """The one axis of this size that lies between its neighbours' axes; by position where the ranks agree."""
        if len(sizes) == len(region.sizes) and dim not in taken and same(sizes[dim], region.sizes[dim]):
            return dim
        low = max((axis for axis in axes[:dim] if axis is not None), default=-1)
        high = min((axis for axis in axes[dim + 1 :] if axis is not None), default=len(region.sizes))
        fits = [axis for axis in range(low + 1, high) if axis not in taken and same(sizes[dim], region.sizes[axis])]
        return fits[0] if len(fits) == 1 else None

    def _merge(self, a: Region, b: Region, node: fx.Node) -> Region | None:
        """One region for the producers of two inputs of `node`, if their domains match; None otherwise."""
        if len(a.sizes) < len(b.sizes):
            a, b = b, a
        rename = _correspondence(a, b, node)
        if rename is None or len(a.axes) + len(b.axes) > MAX_NODES:
            return None
        reduced = frozenset(rename[axis] for axis in b.reduced)
        if a.reduced and reduced and a.reduced != reduced:
            return None
        union = Region(a.sizes, a.reduced or reduced, dict(a.axes), {t: list(u) for t, u in a.operands.items()})
        for member, axes in b.axes.items():
            union.axes[member] = _renamed(axes, rename)
            if len(a.sizes) > len(b.sizes) and not self._free_there(member, union):
                return None
        for tensor, uses in b.operands.items():
            mine = union.operands.setdefault(tensor, [])
            mine.extend(axes for use in uses if (axes := _renamed(use, rename)) not in mine)
        for member in union.axes:
            union.operands.pop(member, None)
        return None if self._reaches(a, b) or self._reaches(b, a) else union

    def _free_there(self, member: fx.Node, union: Region) -> bool:
        """Whether a value of a smaller domain may be computed inside the larger: once per row, or cheaply again and again."""
        axes = union.axes[member]
        if member in self.exiled and not storable(union, axes):
            return False
        once_per_row = bool(union.reduced) and not any(axis in union.reduced for axis in axes)
        return once_per_row or is_axes_view(member) or member.target in CHEAP

    def _reaches(self, source: Region, target: Region) -> bool:
        """Whether `target` needs, through something outside both, a value of `source`."""
        stack = [arg for member in target.axes for arg in member.all_input_nodes if arg not in target.axes]
        stack = [arg for arg in stack if arg not in source.axes]
        return self._depends(stack, source, {*target.axes})

    def _cycles(self, node: fx.Node, region: Region) -> bool:
        """Whether an input of `node` from outside the region needs a value of the region."""
        outside = [arg for arg in node.all_input_nodes if arg not in region.axes]
        return self._depends(outside, region, set())

    def _depends(self, stack: list[fx.Node], source: Region, seen: set[fx.Node]) -> bool:
        while stack:
            node = stack.pop()
            if node in source.axes:
                return True
            if node in seen or node.target is aten.sym_size.int:  # a size needs no value
                continue
            seen.add(node)
            group = self.region.get(node)
            members = group.axes if group is not None and group is not source else (node,)
            for member in members:
                seen.add(member)
                stack.extend(arg for arg in member.all_input_nodes if arg not in seen)
        return False


def _correspondence(a: Region, b: Region, node: fx.Node) -> dict[int, int] | None:
    """Which axis of `a` each axis of `b` is, where values of both meet in `node`. Axes that do not meet keep their position."""
    rank = len(shape(node))
    meeting: dict[int, int] = {}
    rename: dict[int, int] = {}
    for source in tensors(node):
        if source in a.axes:
            offset = rank - len(a.axes[source])
            meeting.update({offset + dim: axis for dim, axis in enumerate(a.axes[source]) if axis is not None})
    for source in tensors(node):
        if source in b.axes:
            offset = rank - len(b.axes[source])
            for dim, axis in enumerate(b.axes[source]):
                if axis is not None and offset + dim in meeting:
                    rename[axis] = meeting[offset + dim]
    if len(a.sizes) == len(b.sizes):
        for axis in range(len(b.sizes)):
            rename.setdefault(axis, axis)
    extended = [axis for axis, size in enumerate(b.sizes) if not is_one(size)]
    if len(set(rename.values())) != len(rename) or any(axis not in rename for axis in extended):
        return None
    return rename if all(same(b.sizes[x], a.sizes[y]) for x, y in rename.items()) else None


def _is_reduced_later(node: fx.Node) -> bool:
    """Whether elementwise ops lead from this value to a reduction."""
    stack, seen = list(node.users), set[fx.Node]()
    while stack:
        user = stack.pop()
        if user.target in REDUCTIONS:
            return True
        if user not in seen and (user.target in POINTWISE or is_axes_view(user)):
            seen.add(user)
            stack.extend(user.users)
    return False


def _is_one_number(region: Region) -> bool:
    """A single op on a single number: no kernel of ours is better than the library call."""
    return all(is_one(size) for size in region.sizes) and len(region.axes) == 1


def _aligned(sizes: list[Size], axes: Axes) -> Axes:
    """The axes of an operand of these sizes, broadcast from the right against `axes`."""
    tail = axes[len(axes) - len(sizes) :]
    return tuple(None if is_one(size) else axis for size, axis in zip(sizes, tail, strict=True))


def _renamed(axes: Axes, rename: dict[int, int]) -> Axes:
    return tuple(None if axis is None else rename[axis] for axis in axes)


def reduced_dims(node: fx.Node, rank: int) -> list[int]:
    """The dims that a reduction node reduces, non-negative."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    if "dim" not in names:
        return list(range(rank))
    position = names.index("dim")
    dims: Any = node.args[position] if len(node.args) > position else node.kwargs.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    return sorted({dim % rank for dim in ([dims] if isinstance(dims, int) else dims)}) if rank else []
