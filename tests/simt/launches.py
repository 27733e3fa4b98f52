"""Launches of the test programs on numpy arrays, planned as the runtime plans them."""

from collections.abc import Sequence

import numpy as np

from modelnew.runtime.layout import Layout, Plan, RowLayout, collapse
from modelnew.runtime.plan_cuda import Device, plan_pointwise, plan_rows
from modelnew.runtime.plan_product import AMPERE, MOST_BATCH_DIMS, STRIDES_AT, Factors, across, launch_of
from tests.simt.harness import ORDERS, Program

H200 = Device(index=0, sms=132, capability=(9, 0), shared_per_block=227 << 10, l2_bytes=50 << 20)
# Devices that are small enough for every kind of plan to be chosen for rows that a CPU gets through.
SMALL = Device(index=0, sms=4, capability=(9, 0), shared_per_block=8 << 10, l2_bytes=1 << 20)
WAITING = Device(index=0, sms=2, capability=(9, 0), shared_per_block=79 << 10, l2_bytes=1 << 20)  # 3 chunks
OLD = Device(index=0, sms=4, capability=(7, 5), shared_per_block=20 << 10, l2_bytes=1 << 20)
SPREAD = Device(index=0, sms=8, capability=(8, 0), shared_per_block=100 << 10, l2_bytes=1 << 20)

Array = np.ndarray


def strides_of(array: Array) -> list[int]:
    return [0 if size == 1 else step // array.itemsize for size, step in zip(array.shape, array.strides, strict=True)]


def pointwise(
    program: Program,
    name: str,
    outputs: Sequence[Array],
    inputs: Sequence[Array],
    device: Device = H200,
    orders: Sequence[int] = ORDERS,
) -> Plan:
    """Runs a pointwise kernel over the first output's shape in several thread orders, which must agree bit by bit."""
    shape = outputs[0].shape
    walked = [strides_of(np.broadcast_to(each, shape)) for each in (*outputs, *inputs)]
    sizes, strides = collapse(shape, walked)
    itemsizes = tuple(each.itemsize for each in (*outputs, *inputs))
    plan = plan_pointwise(Layout(sizes, strides, itemsizes, len(outputs)), device)
    in_orders(program, name, outputs, inputs, plan, orders)
    return plan


def rows(
    program: Program,
    name: str,
    outputs: Sequence[Array],
    inputs: Sequence[Array],
    axes: Sequence[int],
    sweeps: int,
    on_chip: int,
    device: Device = H200,
    orders: Sequence[int] = ORDERS,
    widest: int = 0,
) -> Plan:
    """Runs a row program whose rows are made up of `axes` of the first input; operands broadcast to its shape. `widest`: item
    size of the widest input along the row, if that is not the widest of all."""
    shape = inputs[0].shape
    outer = [axis for axis in range(len(shape)) if axis not in axes]
    walked = [strides_of(np.broadcast_to(each, shape)) for each in (*outputs, *inputs)]
    parts = [collapse([shape[a] for a in part], [[w[a] for a in part] for w in walked]) for part in (outer, list(axes))]
    itemsizes = tuple(each.itemsize for each in (*outputs, *inputs))
    (outer_sizes, outer_strides), (inner_sizes, inner_strides) = parts
    counts = (len(outputs), sweeps, on_chip, widest or max(each.itemsize for each in inputs))
    layout = RowLayout(outer_sizes, inner_sizes, outer_strides, inner_strides, itemsizes, *counts)
    plan = plan_rows(layout, device)
    in_orders(program, name, outputs, inputs, plan, orders)
    return plan


def products(
    program: Program,
    name: str,
    outputs: Sequence[Array],
    inputs: Sequence[Array],
    more: Sequence[Array] = (),
    splits: int = 1,
    device: Device = SPREAD,
    orders: Sequence[int] = (0, 1),
) -> Plan:
    """Runs products by Ampere's instructions. inputs: x, w, and operands along their batches, m and n, or the last of these;
    outputs of one dim less are one value per row. `more`: what the launcher takes besides. The tile is 64 where the
    weight's columns are contiguous, 16 where its rows are: so the programs are compiled."""
    x, w = inputs[:2]
    batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    rank = len(batch) + 2
    reduces = outputs[0].ndim < rank
    walked = [(0,) * (rank - each.ndim) + tuple(strides_of(each)) for each in inputs]
    lie = ((each.strides[-2] // 4, each.strides[-1] // 4) for each in (x, w))
    factors = Factors(x.shape[-2], w.shape[-2], x.shape[-1], *lie, batch, *(steps[:-2] for steps in walked[:2]))
    results = [tuple(strides_of(y)) + (0,) * reduces for y in outputs]
    tile = 64 if across(factors) else 16
    plan = launch_of(factors, [results[0], *walked[2:]], device, reduces, tile, splits, AMPERE)
    second = [step for result in results[1:] for step in ((0,) * (MOST_BATCH_DIMS - len(batch)) + result)]
    plan = plan._replace(numbers=(*plan.numbers[: STRIDES_AT + 4], *second, *plan.numbers[STRIDES_AT + 4 :]))
    in_orders(program, name, outputs, [*inputs, *more], plan, orders)
    return plan


def in_orders(
    program: Program, name: str, outputs: Sequence[Array], inputs: Sequence[Array], plan: Plan, orders: Sequence[int]
) -> None:
    first: list[bytes] = []
    for order in orders:
        program.launch("launch_" + name, outputs, inputs, plan, order)
        got = [each.tobytes() for each in outputs]
        assert not first or got == first, f"thread order {order} gives other results: {plan}"
        first = got


def misaligned(array: Array, elements: int) -> Array:
    """A copy that begins `elements` elements after a 64-byte boundary."""
    buffer = np.empty(array.size + elements + 64 // array.itemsize, array.dtype)
    start = -buffer.ctypes.data % 64 // array.itemsize + elements
    view = buffer[start : start + array.size].reshape(array.shape)
    view[...] = array
    return view
