"""How a kernel is spread over a CUDA device: pure functions of sizes, strides, item sizes and the device.

Carried by every optimised file, so: standard library only, Python 3.9.
The numbers are what `device/cuda/pointwise.cuh` and `device/cuda/rows.cuh` read; their first comments name each one.
"""

from typing import NamedTuple, Optional

from modelnew.runtime.layout import Layout, Plan, RowLayout

_CONTIGUOUS, _STRIDED, _TRANSPOSED, _ROWS = 0, 1, 2, 3
_REGISTERS, _BLOCK, _CLUSTER, _GRID, _SIDE_BY_SIDE, _STAGED = 0, 1, 2, 3, 4, 5

_TILE = 64  # a tile of a transposed launch is _TILE x _TILE elements, its rows _PITCH apart (transpose.cuh)
_PITCH = 65
_LONG_ROW = 4096  # elements of a row that is worth blocks of its own
_HELD = 64  # bytes of a row that a thread holds in registers, as computed (rows.cuh)
_PARTIAL = 48  # bytes of a partial result (group.cuh)
_SCRATCH = 2 * 32 * _PARTIAL + 2 * 16 * _PARTIAL  # shared memory of a block's and a cluster's partial results
_MOST_THREADS = 512  # of a row in registers (rows_registers.cuh)
_CHUNK = 384 * 4 * 16  # bytes of one input's chunk of a row that waits (stage_shape in rows_staged.cuh)
_MOST_STAGES = 64
_STAGED_SCRATCH = (_SCRATCH + 16 + _MOST_STAGES * 24 + 8 * 12 + 127) // 128 * 128  # bytes before the chunks (places_at)
_OVERLAPPING = 4  # rows that must be worked on at a time where a row's stages wait for each other all over the device
_THREADS = 256  # of a block of any other row program; two blocks fit on a multiprocessor (rows_chunks.cuh)


class Device(NamedTuple):
    """What a plan needs to know of a device."""

    index: int  # type: ignore[assignment]  # of the device, where a tuple has a method of that name
    sms: int
    capability: "tuple[int, int]"
    shared_per_block: int  # bytes, with opt-in
    l2_bytes: int

    @property
    def largest_cluster(self) -> int:
        """Blocks; more than 8 are granted by data-centre devices only."""
        return 1 if self.capability < (9, 0) else 16 if self.capability[0] in (9, 10) else 8


def plan_pointwise(layout: Layout, device: Device) -> Plan:
    """Plan of a pointwise kernel. Dims are ordered and collapsed; there is at least one element."""
    elements, rank = layout.elements, len(layout.sizes)
    vectors = max(1, elements * max(layout.itemsizes) // 16)
    threads = 128 if vectors >= 1024 * device.sms else 64
    turned = _turned_dim(layout, device)
    if rank == 0 or (rank == 1 and all(operand[0] == 1 for operand in layout.strides)):
        kind, name, why = _CONTIGUOUS, "contiguous", f"{elements} elements in a row, {threads} threads per block"
    elif turned is not None:
        kind, name, why = (
            _TRANSPOSED,
            "transposed",
            f"tiles of {_TILE} x {_TILE}: an input is contiguous along another dim",
        )
    elif layout.sizes[-1] >= _LONG_ROW:
        kind, name, why = _ROWS, "rows", f"rows of {layout.sizes[-1]} elements, {threads} threads per block"
    else:
        kind, name, why = _STRIDED, "strided", f"{rank} dims with strides of their own, {threads} threads per block"
    numbers = [kind, device.index, elements, rank, 0, threads, turned or 0, 0, *layout.sizes]
    for operand in layout.strides:
        numbers += operand
    return Plan(name, tuple(numbers), why)


def _turned_dim(layout: Layout, device: Device) -> Optional[int]:
    """The dim, not the innermost, that some input is contiguous along; None where tiles would not help."""
    last = len(layout.sizes) - 1
    if last < 1 or layout.sizes[last] < _TILE // 4:
        return None
    for operand in layout.strides[layout.outputs :]:
        if operand[last] <= 1:
            continue
        for dim in range(last):
            if operand[dim] == 1 and layout.sizes[dim] >= _TILE // 4:
                return dim if _tile_bytes(layout, dim) <= device.shared_per_block else None
    return None


def _tile_bytes(layout: Layout, dim: int) -> int:
    inputs = zip(layout.strides[layout.outputs :], layout.itemsizes[layout.outputs :])
    return sum(size * _TILE * _PITCH + 16 for strides, size in inputs if strides[dim] == 1 and strides[-1] > 1)


class _Row(NamedTuple):
    """What the choice for a row program turns on."""

    rows: int
    size: int
    vector: int  # elements per access
    held: int  # elements of a row that a thread can hold in registers
    loaded: int  # bytes per element that are loaded and differ from row to row
    computed: int  # bytes per element of the values that the body would like to keep
    sweeps: int
    limit: (
        int  # bytes of shared memory that a block may keep, so that two fit on a multiprocessor: one loads, one stores
    )


def plan_rows(layout: RowLayout, device: Device) -> Plan:
    """Plan of a row program. Dims are ordered and collapsed; there is at least one row and one element in it."""
    row = _describe(layout, device)
    whole = len(layout.inner) <= 1 or layout.inner[-1] % row.vector == 0
    neighbours = _neighbours_are_contiguous(layout)
    if neighbours or not whole:
        return _side_by_side(layout, row, device, neighbours)
    size = row.size if _rows_are_aligned(layout, row.vector) else row.size + row.vector - 1
    threads = _power_of_two(-(-size // row.held))
    if threads == 64 and row.size % row.vector == 0 and size == row.size and row.rows >= 16 * device.sms:
        threads = 32  # with twice as much in each: no barriers
    if threads <= (_MOST_THREADS if row.sweeps > 1 else 32) and len(layout.inner) <= 2:
        # more threads than needed, while the row has 2 vectors for each: neighbouring lanes then read whole cache lines
        threads = max(threads, min(32, _power_of_two(size // (2 * row.vector))))
        return _registers(layout, row, device, threads)
    return _staged(layout, row, device) or _whole_blocks(layout, row, device)


def _staged(layout: RowLayout, row: _Row, device: Device) -> Optional[Plan]:
    """Rows that wait in the shared memory of a block or a cluster, copied there while others are worked on; None where
    copies cannot be made, or there are too few rows for that."""
    inputs = range(layout.outputs, len(layout.itemsizes))
    own = [k for k in inputs if any(layout.inner_strides[k]) and any(layout.outer_strides[k])]
    widest = 16 // row.vector
    if row.sweeps < 2 or device.capability < (9, 0) or len(layout.inner) != 1 or not own:
        return None
    if any(layout.itemsizes[k] != widest or layout.inner_strides[k][0] != 1 for k in own):
        return None
    stages = min(_MOST_STAGES, (device.shared_per_block - _STAGED_SCRATCH) // (len(own) * _CHUNK))
    skew = 0 if _rows_are_aligned(layout, row.vector) else row.vector - 1
    chunks = -(-(row.size + skew) * widest // _CHUNK)
    blocks = 1
    while blocks < device.largest_cluster and -(-chunks // blocks) >= stages:  # a place at least for what comes next
        blocks *= 2
    if -(-chunks // blocks) >= stages or row.rows * blocks < device.sms:
        return None
    numbers = "a block" if blocks == 1 else f"a cluster of {blocks} blocks"
    why = f"{_kilobytes(row.size * row.loaded)} per row wait on chip in {numbers} while others are worked on: one read"
    many = 8 * (device.sms // blocks) <= row.rows < 1 << 31
    return _plan("staged", _STAGED, layout, device, row.sweeps, stages, blocks + 65536 * many, why)


def _describe(layout: RowLayout, device: Device) -> _Row:
    inputs = range(layout.outputs, len(layout.itemsizes))
    varying = [k for k in inputs if any(layout.inner_strides[k])]
    own = [k for k in varying if any(layout.outer_strides[k]) or layout.rows == 1]
    widest = layout.widest
    loaded = sum(layout.itemsizes[k] for k in own)
    computed = max(0, layout.on_chip - sum(max(4, layout.itemsizes[k]) for k in varying))
    limit = max(16, device.shared_per_block // 2 - 1024 - _SCRATCH)
    return _Row(
        layout.rows, layout.row_size, 16 // widest, _HELD // max(4, widest), loaded, computed, layout.sweeps, limit
    )


def _neighbours_are_contiguous(layout: RowLayout) -> bool:
    """Most of what is read has its neighbour in the next row, not in the row."""
    if not layout.outer or not layout.inner:
        return False
    across = inside = 0
    for k in range(layout.outputs, len(layout.itemsizes)):
        if any(layout.inner_strides[k]) and any(layout.outer_strides[k]):
            inside += layout.itemsizes[k] * (layout.inner_strides[k][-1] == 1)
            across += layout.itemsizes[k] * (layout.outer_strides[k][-1] == 1)
    return across > inside


def _rows_are_aligned(layout: RowLayout, vector: int) -> bool:
    """Rows begin as far into a vector as the tensor does."""
    along = [k for k in range(layout.outputs, len(layout.itemsizes)) if any(layout.inner_strides[k])]
    return all(step % vector == 0 for k in along for step in layout.outer_strides[k])


def _registers(layout: RowLayout, row: _Row, device: Device, threads: int) -> Plan:
    if threads > 32:
        why = f"a block of {threads} threads per row, rows in registers"
        return _plan("registers", _REGISTERS, layout, device, threads, threads, 1, why)
    block = 256 if row.size <= threads * row.held else 128
    while block > 64 and row.rows * threads < 2 * block * device.sms:
        block //= 2
    why = f"{threads} threads per row, {block // threads} rows per block, rows in registers"
    return _plan("registers", _REGISTERS, layout, device, threads, block, 1, why)


def _whole_blocks(layout: RowLayout, row: _Row, device: Device) -> Plan:
    """Rows too long for registers: on chip in one block, a cluster, or many blocks; or read again in every sweep."""
    loaded = row.size * row.loaded
    again = row.sweeps > 1
    resident = (1 if row.vector > 4 else 2) * device.sms  # blocks, for certain (rows_chunks.cuh)
    # as many as give all of the device work, while each has a few vectors per thread
    blocks = min(resident // row.rows, row.size // (4 * _THREADS * row.vector))
    on_chip = max(1, -(-loaded // row.limit))  # blocks whose shared memory holds the row
    while on_chip <= resident and not _kept(row, on_chip):
        on_chip += 1
    cluster = _power_of_two(on_chip)
    if again and 1 < cluster <= device.largest_cluster and blocks <= cluster:
        kept = _kept(row, cluster)
        why = f"{_kilobytes(loaded)} per row on chip in a cluster of {cluster} blocks: one read"
        return _plan("cluster", _CLUSTER, layout, device, _THREADS, kept, cluster, why)
    if again and 1 < on_chip <= resident // _OVERLAPPING:
        blocks = max(blocks, on_chip)
    if blocks > 1:
        kept = _kept(row, blocks) if again else 0
        teams = min(row.rows, resident // blocks)
        read = "one read" if kept or not again else f"{row.sweeps} reads"
        why = f"{blocks} blocks per row, {teams} rows at a time: {read}"
        return _plan("grid", _GRID, layout, device, _THREADS, kept, blocks + 65536 * teams, why)
    kept = _kept(row, 1) if again else 0
    # where there are many rows, a reduction that only reads needs many vectors per thread more than many threads, and
    # small blocks more than large ones: fewer threads wait for their row's last
    vectors = row.size // row.vector
    each = 64 if row.rows >= 32 * device.sms else 8
    most = _THREADS if row.rows < 16 * device.sms or vectors >= 512 * _THREADS // 2 else _THREADS // 2
    threads = _THREADS if again else min(most, max(32, _power_of_two(vectors // each)))
    where = f"{_kilobytes(loaded)} on chip, one read" if kept else "one read" if not again else f"{row.sweeps} reads"
    return _plan("block", _BLOCK, layout, device, threads, kept, 1, f"a block of {threads} threads per row, {where}")


def _kept(row: _Row, blocks: int) -> int:
    """Bytes per block for what is kept, + 1 if the computed values are too; 0 where the loads do not fit."""
    step = _THREADS * row.vector  # elements
    share = -(-(row.size + row.vector) // (blocks * step)) * step
    loaded, computed = share * row.loaded, share * (row.loaded + row.computed)
    if computed <= row.limit and row.computed:
        return computed + 1
    return loaded if loaded <= row.limit else 0


def _side_by_side(layout: RowLayout, row: _Row, device: Device, neighbours: bool) -> Plan:
    """Neighbouring rows in neighbouring lanes. Without neighbours in memory: one row per block, element by element."""
    run = layout.outer[-1] if neighbours else 1  # rows that follow each other in memory
    across = min(_THREADS, _power_of_two(run), 32)
    # more of them where rows are short; where the device has work nevertheless, until a thread has 32 elements of a row,
    # and, for reductions that keep nothing, in any case
    while across < min(_THREADS, run) and (
        _THREADS // across * 8 > row.size
        or (_THREADS // across * 32 > row.size and row.rows >= 4 * across * device.sms)
        or (row.sweeps == 1 and row.rows >= 16 * across * device.sms)
    ):
        across *= 2
    along = _THREADS // across
    groups = -(-row.rows // across)
    third, half = (device.shared_per_block // n - 1024 - _THREADS * _PARTIAL - _SCRATCH for n in (3, 2))  # of an SM
    blocks = max(1, min(2 * device.sms // groups, row.size // (along * 64)))
    teams = min(groups, 2 * device.sms // blocks) if blocks > 1 else 0
    steps = -(-row.size // (along * blocks))
    kept = 0
    if row.sweeps > 1:
        computed, loaded = steps * _THREADS * (row.loaded + row.computed), steps * _THREADS * row.loaded
        kept = computed + 1 if row.computed and computed <= third else loaded if loaded <= half else 0
    where = "one read" if kept or row.sweeps == 1 else f"{row.sweeps} reads"
    what = (
        f"{across} neighbouring rows side by side in a block" if neighbours else "a block per row, element by element"
    )
    spread = f", each over {blocks} blocks" if blocks > 1 else ""
    why = f"{what}{spread}: {where}"
    return _plan("side by side", _SIDE_BY_SIDE, layout, device, across, kept, blocks + 65536 * teams, why)


def _plan(name: str, kind: int, layout: RowLayout, device: Device, a: int, b: int, c: int, why: str) -> Plan:
    numbers = [kind, device.index, layout.rows, len(layout.outer), len(layout.inner), a, b, c]
    numbers += [*layout.outer, *layout.inner]
    for outer, inner in zip(layout.outer_strides, layout.inner_strides):
        numbers += [*outer, *inner]
    blocks, teams = c % 65536, c // 65536
    return Plan(name, tuple(numbers), why, _workspace(blocks, teams, a if kind == _SIDE_BY_SIDE else 1))


def _workspace(blocks: int, teams: int, lanes: int) -> int:
    """Bytes for the partial results of rows that many blocks share (grid_group in group.cuh); 0 where none do."""
    return (8 * teams + 15) // 16 * 16 + teams * 2 * blocks * lanes * _PARTIAL


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, n - 1).bit_length()


def _kilobytes(count: int) -> str:
    return f"{count / 1024:.0f} KiB"
