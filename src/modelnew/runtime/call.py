"""What a call does once all is prepared: allocate the outputs, launch, return them.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import torch

from modelnew.runtime.layout import Plan


class Made(NamedTuple):
    """An output to allocate."""

    shape: "tuple[int, ...]"
    strides: "tuple[int, ...]"
    dtype: torch.dtype


def launcher(
    made: "list[Made]", tensors: Sequence[torch.Tensor], function: Any, numbers: Any, fail: Any
) -> Callable[..., Any]:
    """A function of input tensors like `tensors` that allocates the outputs, runs `function`, and returns them.

    It is the whole cost of a call on the host, so it does nothing else; `function` None: there is nothing to compute.
    """
    device = tensors[0].device
    queue = queue_of(device)
    makers = [_maker(entry, tensors) for entry in made]

    def several(*given: torch.Tensor) -> "tuple[torch.Tensor, ...]":
        outputs = tuple([make(given) for make in makers])
        if function is not None:
            code = function(*[t.data_ptr() for t in (*outputs, *given)], numbers, queue())
            if code:
                fail(code, given)
        return outputs

    if len(made) > 1 or function is None:
        return several if len(made) > 1 else lambda *given: several(*given)[0]
    (make,) = makers

    def one(*given: torch.Tensor) -> torch.Tensor:
        output = make(given)
        code = function(output.data_ptr(), *[t.data_ptr() for t in given], numbers, queue())
        if code:
            fail(code, given)
        return output

    def one_of_one(given: torch.Tensor) -> torch.Tensor:
        output = empty_like(given)
        code = function(output.data_ptr(), given.data_ptr(), numbers, queue())
        if code:
            fail(code, (given,))
        return output

    empty_like = torch.empty_like
    return one_of_one if len(tensors) == 1 and _like(made[0], tensors) == 0 else one


def _maker(made: Made, tensors: Sequence[torch.Tensor]) -> "Callable[[Sequence[torch.Tensor]], torch.Tensor]":
    """Allocates an output, in the way that takes least time, given the inputs of a call."""
    like, device = _like(made, tensors), tensors[0].device
    if like is not None:
        return lambda given: torch.empty_like(given[like])
    return lambda given: torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device=device)


def _like(made: Made, tensors: Sequence[torch.Tensor]) -> Optional[int]:
    """The input that `empty_like` makes such an output from; None where there is none."""
    for number, tensor in enumerate(tensors):
        same = tensor.dtype == made.dtype and tensor.shape == made.shape
        if same and torch.empty_like(tensor, device="meta").stride() == made.strides:
            return number
    return None


def with_workspace(function: Any, plan: Plan, device: torch.device) -> Callable[..., int]:
    """The launcher, given memory for the time of a call where its plan asks for some: the address follows the numbers.

    PyTorch's allocator gives it, on the current stream: CUDA's own would return it to the system at each synchronisation.
    """
    if not plan.workspace:
        return function  # type: ignore[no-any-return]
    array = ctypes.c_int64 * (len(plan.numbers) + 1)

    def call(*arguments: Any) -> int:
        *pointers, _, queue = arguments
        memory = torch.empty(plan.workspace, dtype=torch.uint8, device=device)
        code: int = function(*pointers, array(*plan.numbers, memory.data_ptr()), queue)
        return code

    return call


def queue_of(device: torch.device) -> Callable[[], int]:
    """What a launch is queued on: the caller's stream on this device; on the CPU the number of threads."""
    if device.type == "cpu":
        return torch.get_num_threads
    index = device.index or 0
    raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if raw is not None:
        return lambda: int(raw(index))
    return lambda: int(torch.cuda.current_stream(index).cuda_stream)
