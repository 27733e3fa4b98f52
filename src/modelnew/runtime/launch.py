"""From tensors to a running kernel: check, plan, allocate, launch.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
A plan is made once per combination of dtypes, devices, sizes and strides; after that a call looks it up.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional, Protocol

import torch

from modelnew.runtime.call import Made, function_of, launcher
from modelnew.runtime.layout import (
    Layout,
    Plan,
    RowLayout,
    collapse,
    contiguous_strides,
    elementwise_strides,
    order_dims,
)
from modelnew.runtime.plan_cpu import plan_pointwise as cpu_pointwise
from modelnew.runtime.plan_cpu import plan_rows as cpu_rows
from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_cuda import plan_pointwise as cuda_pointwise
from modelnew.runtime.plan_cuda import plan_rows as cuda_rows
from modelnew.runtime.quick import checker, nothing_is_like

SCALARS = {
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
MOST_DIMS = 8  # after collapsing, in either part of a domain


class Uncovered(Exception):
    """These tensors are not what the kernel was written for: the caller runs the original forward instead."""


class KernelError(RuntimeError):
    """A launch failed; the message names the kernel, the tensors and the device's own words."""


class Operand(NamedTuple):
    """A tensor that a kernel reads or writes.

    `storage` is its C++ type, `T` for the dtype that the kernel is built for. `axes`: along which axis of the domain each of
    its dims runs; None for a dim of size 1.
    """

    storage: str
    axes: tuple[Optional[int], ...]


class Owner(Protocol):
    """Whose kernel it is: the dtypes that T may stand for, the sources, and the libraries that they are built into."""

    working: "tuple[torch.dtype, ...]"
    sources: "dict[str, str]"

    def library(self, target: str, working: Optional[torch.dtype]) -> ctypes.CDLL: ...

    def products(self, kind: str, working: torch.dtype, batch_tile: int, across: bool) -> ctypes.CDLL: ...


class Kernel:
    """One kernel of the source. Calling it with its input tensors returns its output, or a tuple of them.

    rank, reduced: axes of the domain, and those that make up one row (none: a pointwise kernel).
    any_rank: all operands broadcast from the right, in any number of dims.
    layouts: for each output what decides its strides, in order: inputs by number, or the axes that it is contiguous along.
    passes, kept: sweeps over a row, and how many values per element they would like to find on chip again.
    """

    def __init__(
        self,
        owner: Owner,
        name: str,
        inputs: Sequence[Operand],
        outputs: Sequence[Operand],
        rank: int,
        reduced: Sequence[int] = (),
        any_rank: bool = False,
        layouts: "Optional[Sequence[Sequence[Any]]]" = None,
        passes: int = 1,
        kept: int = 1,
    ) -> None:
        self.owner, self.name = owner, name
        self.inputs = [Operand(*operand) for operand in inputs]
        self.outputs = [Operand(*operand) for operand in outputs]
        self.rank, self.reduced, self.any_rank = rank, tuple(reduced), any_rank
        self.layouts = layouts or [range(len(inputs))] * len(outputs)
        self.passes, self.kept = passes, kept
        self.launches: dict[Any, tuple[Callable[..., bool], Callable[..., Any]]] = {}
        self.latest: tuple[Callable[..., bool], Callable[..., Any]] = (nothing_is_like, nothing_is_like)
        self.calls = 0

    def __call__(self, *tensors: torch.Tensor) -> Any:
        is_like, launch = self.latest  # both at once: another thread may be changing them
        if not is_like(*tensors):
            key = tuple([part for t in tensors for part in (t.dtype, t.device, t.shape, t.stride())])
            found = self.launches.get(key)
            if found is None:
                found = self.launches[key] = (checker(tensors), self._prepare(tensors))
            self.latest = found
            launch = found[1]
        self.calls += 1
        return launch(*tensors)

    def plan(self, tensors: Sequence[torch.Tensor]) -> Optional[Plan]:
        """How these tensors would be walked; None where there is nothing to do. Raises Uncovered."""
        sizes = self._sizes(tensors)
        if 0 in sizes:
            return None
        shapes, strides = self._results(sizes, tensors)
        return self._plan(sizes, tensors, shapes, strides, self._working(tensors))

    def _prepare(self, tensors: Sequence[torch.Tensor]) -> Callable[..., Any]:
        working = self._working(tensors)
        device = tensors[0].device
        sizes = self._sizes(tensors)
        shapes, strides = self._results(sizes, tensors)
        dtypes = [dtype_of(operand.storage, working) for operand in self.outputs]
        made = [Made(*entry) for entry in zip(shapes, strides, dtypes)]
        if 0 in sizes:
            if any(sizes[axis] == 0 for axis in self.reduced):
                raise Uncovered("rows of no elements")
            return launcher(made, device, len(tensors))
        plan = self._plan(sizes, tensors, shapes, strides, working)
        function = function_of(self.owner.library(device.type, working), self.name, plan, made, tensors)
        return launcher(made, device, len(tensors), function, self._fail)

    def _fail(self, code: int, tensors: Sequence[torch.Tensor]) -> None:
        library = self.owner.library(tensors[0].device.type, self._working(tensors))
        library.mn_error.restype = ctypes.c_char_p
        said = library.mn_error(code).decode()
        given = ", ".join(f"{str(t.dtype)[6:]} {tuple(t.shape)}" for t in tensors)
        raise KernelError(f"kernel {self.name} on {given} ({tensors[0].device}) failed: {said} (error {code})")

    def _working(self, tensors: Sequence[torch.Tensor]) -> Optional[torch.dtype]:
        """What T stands for in this call, once dtypes and devices are found to be right."""
        device = tensors[0].device
        if device.type not in ("cpu", "cuda") or len(tensors) != len(self.inputs):
            raise Uncovered("a device without kernels")
        working = None
        for operand, tensor in zip(self.inputs, tensors):
            if tensor.device != device or tensor.layout != torch.strided:
                raise Uncovered("tensors on several devices, or not dense")
            if operand.storage == "T":
                working = working or tensor.dtype
                if tensor.dtype != working or working not in self.owner.working:
                    raise Uncovered("another dtype")
            elif SCALARS.get(tensor.dtype) != operand.storage:
                raise Uncovered("another dtype")
        return working

    def _sizes(self, tensors: Sequence[torch.Tensor]) -> list[int]:
        """The size of each axis of the domain."""
        if self.any_rank:
            return _broadcast_sizes([tensor.shape for tensor in tensors])
        sizes: list[int] = [-1] * self.rank
        for operand, tensor in zip(self.inputs, tensors):
            if len(operand.axes) != tensor.dim():
                raise Uncovered("another rank")
            for axis, size in zip(operand.axes, tensor.shape):
                if axis is None:
                    if size != 1:
                        raise Uncovered("a dim that is not 1")
                elif sizes[axis] not in (-1, size):
                    raise Uncovered("sizes that differ")
                else:
                    sizes[axis] = size
        return [1 if size == -1 else size for size in sizes]

    def _results(
        self, sizes: Sequence[int], tensors: Sequence[torch.Tensor]
    ) -> "tuple[list[tuple[int, ...]], list[tuple[int, ...]]]":
        """Shapes and strides of the outputs: laid out as eager lays them out."""
        if self.any_rank:
            shape = tuple(sizes)
            walked = [_broadcast_strides(tensor, len(shape)) for tensor in tensors]
            made = [elementwise_strides(shape, [walked[i] for i in order]) for order in self.layouts]
            return [shape] * len(self.outputs), made
        shapes, strides = [], []
        for operand, order in zip(self.outputs, self.layouts):
            shape = tuple(1 if axis is None else sizes[axis] for axis in operand.axes)
            shapes.append(shape)
            strides.append(self._like(operand, shape, sizes, tensors, order))
        return shapes, strides

    def _like(
        self,
        output: Operand,
        shape: "tuple[int, ...]",
        sizes: Sequence[int],
        tensors: Sequence[torch.Tensor],
        order: Sequence[Any],
    ) -> "tuple[int, ...]":
        """Strides of an output of `shape`: it follows the first of `order` that tells, as eager's last op would."""
        walked = []
        for which in order:
            if isinstance(which, tuple):
                lying = [1 if axis is None else sizes[axis] for axis in which]
                walked.append(self._strides(Operand("", which), contiguous_strides(lying), lying))
            else:
                walked.append(self._strides(self.inputs[which], tensors[which].stride(), tensors[which].shape))
        return elementwise_strides(shape, [[0 if a is None else w[a] for a in output.axes] for w in walked])

    def _strides(self, operand: Operand, strides: Sequence[int], shape: Sequence[int]) -> list[int]:
        """The operand's stride along each axis of the domain; 0 where it does not vary."""
        along = [0] * self.rank
        for axis, stride, size in zip(operand.axes, strides, shape):
            if axis is not None and size != 1:
                along[axis] = stride
        return along

    def _plan(
        self,
        sizes: Sequence[int],
        tensors: Sequence[torch.Tensor],
        shapes: Sequence[tuple[int, ...]],
        strides: Sequence[tuple[int, ...]],
        working: Optional[torch.dtype],
    ) -> Plan:
        dtypes = [dtype_of(operand.storage, working) for operand in self.outputs]
        itemsizes = tuple(_itemsize(dtype) for dtype in (*dtypes, *(tensor.dtype for tensor in tensors)))
        if self.any_rank:
            written = [tuple(0 if size == 1 else s for s, size in zip(made, sizes)) for made in strides]
            walked = [*written, *(_broadcast_strides(tensor, len(sizes)) for tensor in tensors)]
        else:
            walked = [tuple(self._strides(o, s, shape)) for o, s, shape in zip(self.outputs, strides, shapes)]
            walked += [tuple(self._strides(o, t.stride(), t.shape)) for o, t in zip(self.inputs, tensors)]
        if not self.reduced:
            order = order_dims(sizes, walked)
            kept, steps = collapse([sizes[d] for d in order], [[w[d] for d in order] for w in walked])
            _require_few(kept)
            return _planner(tensors[0].device).pointwise(Layout(kept, steps, itemsizes, len(self.outputs)))
        return self._plan_rows(sizes, walked, itemsizes, working, tensors[0].device)

    def _plan_rows(
        self,
        sizes: Sequence[int],
        walked: Sequence[Sequence[int]],
        itemsizes: tuple[int, ...],
        working: Optional[torch.dtype],
        device: torch.device,
    ) -> Plan:
        parts = []
        for axes in ([a for a in range(self.rank) if a not in self.reduced], list(self.reduced)):
            part = [sizes[a] for a in axes]
            steps = [[w[a] for a in axes] for w in walked]
            # a row is walked as its inputs lie; outputs that have one value per row say nothing of it
            order = order_dims(part, sorted(steps, key=lambda s: not any(s)))
            parts.append(collapse([part[d] for d in order], [[s[d] for d in order] for s in steps]))
            _require_few(parts[-1][0])
        (outer, outer_strides), (inner, inner_strides) = parts
        element = 8 if working == torch.float64 else 4
        read = list(zip(self.inputs, itemsizes[len(self.outputs) :]))
        # by the axes, as the kernel was compiled: an input may well be expanded along the row
        along = [size for operand, size in read if any(axis in self.reduced for axis in operand.axes)]
        widest = max(along or [size for _, size in read])
        counts = (len(self.outputs), self.passes, self.kept * element, widest)
        layout = RowLayout(outer, inner, outer_strides, inner_strides, itemsizes, *counts)
        return _planner(device).rows(layout)


class _Planner(NamedTuple):
    pointwise: Callable[[Layout], Plan]
    rows: Callable[[RowLayout], Plan]


def _planner(device: torch.device) -> _Planner:
    if device.type == "cpu":
        cache = _cache_bytes()
        return _Planner(lambda layout: cpu_pointwise(layout, cache), lambda layout: cpu_rows(layout, cache))
    card = card_of(device)
    return _Planner(lambda layout: cuda_pointwise(layout, card), lambda layout: cuda_rows(layout, card))


def _cache_bytes() -> int:
    """The last level's size; 32 MiB where the system does not say."""
    try:
        found = os.sysconf("SC_LEVEL3_CACHE_SIZE") or os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        found = 0
    return found if found > 0 else 32 << 20


def card_of(device: torch.device) -> Device:
    index = device.index or 0
    found = torch.cuda.get_device_properties(index)
    return Device(
        index=index,
        sms=found.multi_processor_count,
        capability=(found.major, found.minor),
        shared_per_block=int(getattr(found, "shared_memory_per_block_optin", 48 << 10)),
        l2_bytes=int(getattr(found, "L2_cache_size", 4 << 20)),
    )


def _require_few(sizes: Sequence[int]) -> None:
    if len(sizes) > MOST_DIMS:
        raise Uncovered("too many dims that do not collapse")


def dtype_of(storage: str, working: Optional[torch.dtype]) -> torch.dtype:
    if storage == "T":
        return working or torch.float32
    return next(dtype for dtype, scalar in SCALARS.items() if scalar == storage)


def _itemsize(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()


def _broadcast_sizes(shapes: "Sequence[Sequence[int]]") -> list[int]:
    """`torch.broadcast_shapes` would import SymPy, which takes longer than everything else before a first launch."""
    sizes = [1] * max(len(shape) for shape in shapes)
    for shape in shapes:
        for dim, size in enumerate(shape, start=len(sizes) - len(shape)):
            if size != 1 and sizes[dim] not in (1, size):
                raise Uncovered("shapes that do not broadcast")
            sizes[dim] = sizes[dim] if size == 1 else size
    return sizes


def _broadcast_strides(tensor: torch.Tensor, rank: int) -> "tuple[int, ...]":
    walked = [0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride())]
    return (0,) * (rank - len(walked)) + tuple(walked)
