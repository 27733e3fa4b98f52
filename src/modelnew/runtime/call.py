"""What a call does once all is prepared: allocate the outputs, launch, return them.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import ctypes
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from modelnew.runtime.layout import Plan
from modelnew.runtime.quick import allocator, direct

_SMALL = 1 << 17  # elements of all tensors that a CPU is through with before another thread of Python would get a turn


class Made(NamedTuple):
    """An output to allocate."""

    shape: "tuple[int, ...]"
    strides: "tuple[int, ...]"
    dtype: torch.dtype


def launcher(
    made: "list[Made]", device: torch.device, inputs: int, function: Any = None, fail: Any = None
) -> Callable[..., Any]:
    """A function of so many inputs that allocates the outputs, runs `function` on outputs and inputs, and returns the outputs.

    It is most of the cost of a call on the host, so it does nothing else; `function` None: there is nothing to compute.
    """
    queue, empty = queue_of(device), allocator(device)
    shape, strides, dtype = made[0]

    def several(*given: torch.Tensor) -> "tuple[torch.Tensor, ...]":
        outputs = tuple([empty(*entry) for entry in made])
        if function is not None:
            code = function(*outputs, *given, queue())
            if code:
                fail(code, given)
        return outputs

    def one(*given: torch.Tensor) -> torch.Tensor:
        output = empty(shape, strides, dtype)
        code = function(output, *given, queue())
        if code:
            fail(code, given)
        return output

    def one_of_one(given: torch.Tensor) -> torch.Tensor:
        output = empty(shape, strides, dtype)
        code = function(output, given, queue())
        if code:
            fail(code, (given,))
        return output

    if len(made) > 1:
        return several
    if function is None:
        return lambda *given: empty(shape, strides, dtype)
    return one_of_one if inputs == 1 else one


def function_of(
    library: ctypes.CDLL, name: str, plan: Plan, outputs: "list[Made]", inputs: Sequence[torch.Tensor]
) -> Callable[..., int]:
    """The launcher of kernel `name` with its plan, as a function of outputs, inputs and the queue."""
    device = inputs[0].device
    if not plan.workspace:
        elements = sum(t.numel() for t in inputs) + sum(map(_elements, outputs))
        found = direct(library, "call_" + name, plan.numbers, device.type != "cpu" or elements > _SMALL)
        if found is not None:
            return found
    launch = getattr(library, "launch_" + name)
    launch.argtypes = [ctypes.c_void_p] * (len(outputs) + len(inputs) + 1) + [ctypes.c_int64]
    launch.restype = ctypes.c_int
    launch = with_workspace(launch, plan, device)
    numbers = (ctypes.c_int64 * len(plan.numbers))(*plan.numbers)

    def call(*arguments: Any) -> int:
        *tensors, queue = arguments
        code: int = launch(*[t.data_ptr() for t in tensors], numbers, queue)
        return code

    return call


def _elements(made: Made) -> int:
    return functools.reduce(operator.mul, made.shape, 1)


def with_workspace(function: Any, plan: Plan, device: torch.device) -> Callable[..., int]:
    """The launcher, given memory for the time of a call where its plan asks for some: the address follows the numbers.

    PyTorch's allocator gives it, on the current stream: CUDA's own would return it to the system at each synchronisation.
    """
    if not plan.workspace:
        return function  # type: ignore[no-any-return]
    array = ctypes.c_int64 * (len(plan.numbers) + 1)
    prepared, last = bytes(array(*plan.numbers)), len(plan.numbers)

    def call(*arguments: Any) -> int:
        *pointers, _, queue = arguments
        memory = torch.empty(plan.workspace, dtype=torch.uint8, device=device)
        numbers = array.from_buffer_copy(prepared)
        numbers[last] = memory.data_ptr()
        code: int = function(*pointers, numbers, queue)
        return code

    return call


def queue_of(device: torch.device) -> Callable[[], int]:
    """What a launch is queued on: the caller's stream on this device; on the CPU the number of threads."""
    if device.type == "cpu":
        return torch.get_num_threads
    index = device.index or 0
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if raw is not None:
        return functools.partial(raw, index)
    return lambda: int(torch.cuda.current_stream(index).cuda_stream)
