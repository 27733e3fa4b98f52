"""What a kernel iterates over: sizes and strides, with dims collapsed.

Carried by every optimised file, so: standard library only, Python 3.9.
Operands are the outputs, then the inputs. Strides are in elements; 0 means broadcast.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Plan(NamedTuple):
    """How a kernel is launched: made once per layout, never from data."""

    kind: str
    numbers: tuple[int, ...]  # exactly what the C++ launcher reads
    why: str  # one line for a reader
    workspace: int = 0  # bytes of device memory that the launcher wants; their address comes after the numbers
    turned: bool = False  # of a product: its launch takes the factors the other way round


class Layout(NamedTuple):
    """Domain of a pointwise kernel, outermost dim first."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]  # per operand
    itemsizes: tuple[int, ...]  # bytes, per operand
    outputs: int  # the first `outputs` operands are written

    @property
    def elements(self) -> int:
        return _product(self.sizes)


class RowLayout(NamedTuple):
    """Domain of a row program: `outer` counts the rows, `inner` the elements of one row."""

    outer: tuple[int, ...]
    inner: tuple[int, ...]
    outer_strides: tuple[tuple[int, ...], ...]  # per operand
    inner_strides: tuple[tuple[int, ...], ...]  # per operand; all 0 for an operand that is constant along the row
    itemsizes: tuple[int, ...]
    outputs: int
    sweeps: int  # passes over the row that the body makes
    on_chip: int  # bytes per element of the row that the body would like to keep on chip (loads and keeps, as computed)
    widest: int  # item size of the widest of the inputs that vary along the row, or of all where none does

    @property
    def rows(self) -> int:
        return _product(self.outer)

    @property
    def row_size(self) -> int:
        return _product(self.inner)


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def order_dims(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """Dims sorted so that memory is walked in order: by the first operand's strides, ties by the next operand's.

    Size-1 dims go first (they are dropped by `collapse`). The sort is stable: dims that no operand tells apart keep their order.
    """

    def key(dim: int) -> tuple[int, ...]:
        if sizes[dim] == 1:
            return (-(1 << 62),)
        return tuple(-operand[dim] for operand in strides)

    return sorted(range(len(sizes)), key=key)


def collapse(
    sizes: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Drop size-1 dims and merge neighbours that every operand walks as one."""
    merged: list[int] = []
    merged_strides: list[list[int]] = [[] for _ in strides]
    for dim, size in enumerate(sizes):
        if size == 1:
            continue
        step = [operand[dim] for operand in strides]
        if merged and all(kept[-1] == s * size for kept, s in zip(merged_strides, step)):
            merged[-1] *= size
            for kept, s in zip(merged_strides, step):
                kept[-1] = s
        else:
            merged.append(size)
            for kept, s in zip(merged_strides, step):
                kept.append(s)
    return tuple(merged), tuple(tuple(kept) for kept in merged_strides)


def elementwise_strides(shape: Sequence[int], operands: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Strides of a dense output of `shape`, laid out as PyTorch's TensorIterator lays out the result of an elementwise op.

    `operands` are the inputs' strides, broadcast to `shape`. Dims are sorted by the inputs' strides, the first input that
    tells two dims apart deciding; what none tells apart stays in order.
    """
    order = list(range(len(shape)))[::-1]  # fastest first
    for i in range(1, len(order)):
        moving = i
        for other in range(i - 1, -1, -1):
            verdict = _faster(order[other], order[moving], shape, operands)
            if verdict > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif verdict < 0:
                break
    strides = [0] * len(shape)
    step = 1
    for dim in order:
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


def _faster(a: int, b: int, shape: Sequence[int], operands: Sequence[Sequence[int]]) -> int:
    """Negative where dim `a` runs faster than `b`, positive where slower, 0 where nothing tells."""
    for strides in operands:
        if strides[a] == 0 or strides[b] == 0:
            continue
        if strides[a] != strides[b]:
            return -1 if strides[a] < strides[b] else 1
        if shape[a] > shape[b]:
            return 1
    return 0


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
