"""How a kernel walks its domain on a CPU: pure functions of sizes, strides and item sizes.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cpu/pointwise.h` and `device/cpu/rows.h` read; their comments name the kinds.
"""

from typing import Optional

from modelnew.runtime.layout import Layout, Plan, RowLayout

_FLAT, _BLOCKS, _STREAM = 0, 1, 256
_WHOLE, _SPLIT, _COLUMNS = 0, 1, 2
_TILE = 1024  # elements of a tile: `tile_elements` in device/cpu/tiles.h
_GRAIN = 4096  # elements of rows that are worth a thread
_POINTWISE_GRAIN = 16384  # and of pointwise kernels: waking a thread takes as long as this many cheap ones
_SHORT = 256  # below this many elements in the innermost dim, several runs share a tile
_TURNED = 128  # rows of a block that is read across: so many neighbours are fetched in one go
_KEPT = 1 << 20  # bytes of a row that a thread keeps in its memory
_NARROW = 16  # rows of so few elements are taken side by side
_LANES = 256  # rows side by side: `most_lanes` in device/cpu/row_columns.h


def plan_pointwise(layout: Layout, cache_bytes: int) -> Plan:
    """Plan of a pointwise kernel.

    `cache_bytes`: size of the last-level cache; outputs that do not fit are written past it.
    """
    elements = layout.elements
    written = elements * sum(layout.itemsizes[: layout.outputs])
    stream = _STREAM if written > cache_bytes else 0
    past = ", stores go past the cache" if stream else ""
    rank = len(layout.sizes)
    if rank <= 1 and all(s[-1] in (0, 1) for s in layout.strides if s) and _outputs_dense(layout):
        numbers = _numbers(_FLAT + stream, elements, layout.sizes, layout.strides, 0, _TILE)
        return Plan("flat", numbers, f"{elements} elements in one run{past}")

    order, turned = _block_dims(layout)
    sizes = tuple(layout.sizes[d] if d >= 0 else 1 for d in order)
    strides = tuple(tuple(operand[d] if d >= 0 else 0 for d in order) for operand in layout.strides)
    height, width = _block_shape(sizes[-2], sizes[-1], turned)
    numbers = _numbers(_BLOCKS + stream, elements, sizes, strides, height, width)
    what = "an input runs across the output" if turned else f"runs of {sizes[-1]} elements"
    return Plan("blocks", numbers, f"blocks of {height} x {width}: {what}{past}")


def _outputs_dense(layout: Layout) -> bool:
    return all(not s or s[-1] == 1 for s in layout.strides[: layout.outputs])


def _block_dims(layout: Layout) -> tuple[list[int], bool]:
    """Order of the dims (-1: a dim of size 1 is added), and whether an input is contiguous along another dim than the last.

    That dim becomes the last but one, so that a block uses whole cache lines of every operand.
    """
    rank = len(layout.sizes)
    rows = rank - 2
    turned = False
    for operand in layout.strides:
        if operand and abs(operand[-1]) > 1:
            near = [d for d in range(rank - 1) if 0 < abs(operand[d]) < abs(operand[-1]) and layout.sizes[d] > 1]
            if near:
                rows = min(near, key=lambda d: abs(operand[d]))
                turned = True
                break
    outer = [d for d in range(rank - 1) if d != rows]
    return [*outer, rows if rows >= 0 else -1, rank - 1 if rank else -1], turned


def _block_shape(rows: int, columns: int, turned: bool) -> tuple[int, int]:
    if turned:
        height = min(rows, max(_TURNED, _TILE // columns))
        return height, min(columns, _TILE // height)
    width = _pieces(columns, _TILE)
    return (min(rows, _TILE // width) if columns < _SHORT else 1), width


def _numbers(
    kind: int, elements: int, sizes: tuple[int, ...], strides: tuple[tuple[int, ...], ...], height: int, width: int
) -> tuple[int, ...]:
    numbers = [kind, 0, elements, len(sizes), 0, _POINTWISE_GRAIN, height, width, *sizes]
    for operand in strides:
        numbers += operand
    return tuple(numbers)


def plan_rows(layout: RowLayout, cache_bytes: int) -> Plan:
    """Plan of a row program. It does not depend on the number of threads, so results do not either."""
    size, rows = layout.row_size, layout.rows
    varying = [any(s) for s in layout.inner_strides]
    written = sum(rows * (size if v else 1) * i for v, i in zip(varying[: layout.outputs], layout.itemsizes))
    stream = _STREAM if written > cache_bytes else 0
    past = ", stores go past the cache" if stream else ""

    lanes = _neighbours(layout)
    if lanes is not None:
        order = [d for d in range(len(layout.outer)) if d != lanes] + [lanes]
        outer = tuple(layout.outer[d] for d in order)
        outer_strides = tuple(tuple(operand[d] for d in order) for operand in layout.outer_strides)
        side = _pieces(outer[-1], _LANES)
        depth = max(1, _TILE // side)
        numbers = _row_numbers(
            _COLUMNS + stream, layout, outer, outer_strides, max(1, _GRAIN // (side * size)), side, depth
        )
        return Plan("columns", numbers, f"{side} neighbouring rows of {size} elements side by side{past}")

    inner = layout.inner
    columns = inner[-1] if inner else 1
    above = inner[-2] if len(inner) > 1 else 1
    width = _pieces(columns, _TILE)
    height = min(above, _TILE // width) if width == columns else 1
    if (rows < 16 and size >= 16 * _TILE) or size * layout.on_chip > _KEPT:
        numbers = _row_numbers(
            _SPLIT + stream,
            layout,
            layout.outer,
            layout.outer_strides,
            max(1, 2 * _GRAIN // (height * width)),
            height,
            width,
        )
        return Plan("split", numbers, f"rows of {size} elements in chunks that threads share where rows are few{past}")
    numbers = _row_numbers(
        _WHOLE + stream, layout, layout.outer, layout.outer_strides, max(1, _GRAIN // size), height, width
    )
    return Plan("whole", numbers, f"a thread per row of {size} elements{past}")


def _neighbours(layout: RowLayout) -> Optional[int]:
    """The outer dim along which rows are taken side by side; None where each row is better walked alone."""
    if not layout.outer:
        return None
    for outer, inner in zip(layout.outer_strides[layout.outputs :], layout.inner_strides[layout.outputs :]):
        if inner and abs(inner[-1]) > 1:
            near = [d for d in range(len(outer)) if 0 < abs(outer[d]) < abs(inner[-1]) and layout.outer[d] > 1]
            if near:
                return min(near, key=lambda d: abs(outer[d]))
    if layout.row_size <= _NARROW and layout.outer[-1] >= 16:
        return len(layout.outer) - 1
    return None


def _pieces(count: int, largest: int) -> int:
    """Size of the pieces when `count` is cut into equal ones of at most `largest`."""
    return -(-count // -(-count // largest))


def _row_numbers(
    kind: int,
    layout: RowLayout,
    outer: tuple[int, ...],
    outer_strides: tuple[tuple[int, ...], ...],
    worth: int,
    height: int,
    width: int,
) -> tuple[int, ...]:
    numbers = [kind, 0, layout.rows, len(outer), len(layout.inner), worth, height, width, *outer, *layout.inner]
    for outside, inside in zip(outer_strides, layout.inner_strides):
        numbers += outside + inside
    return tuple(numbers)
