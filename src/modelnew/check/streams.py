"""A call on a stream of its own whose inputs arrive late: what does not follow the caller's stream is seen there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modelnew.check.observe import flat, flatten, own_elements, same

LATE_CYCLES = 40_000_000  # of the GPU's clock, some 20 ms: work that does not wait is done by then
UNFINISHED = "its work goes on after the call, on another stream than the caller's"


def call_late(call: Callable[..., Any], inputs: list[Any]) -> tuple[Any, list[str]]:
    """(result, facts) of `call(*inputs)`, with its values as the caller's stream sees them.

    The floating inputs are nan until the stream has slept, so a kernel on another stream that does not wait for this one
    computes nan. The outputs are copied in stream order, so work that this stream does not wait for is missing in the
    copies. inputs: tensors on one CUDA device.
    """
    device = next((tensor.device for tensor in flat(inputs)), torch.device("cuda"))
    late = [tensor for tensor in flat(inputs) if tensor.is_floating_point() and own_elements(tensor)]
    kept = [tensor.clone() for tensor in late]
    for tensor in late:
        tensor.fill_(torch.nan)
    stream = torch.cuda.Stream(device)
    torch.cuda.synchronize(device)
    with torch.cuda.stream(stream):
        sleep: Any = torch.cuda._sleep
        sleep(LATE_CYCLES)
        for tensor, values in zip(late, kept, strict=True):
            tensor.copy_(values)
        result = call(*inputs)
        seen = {name: value.clone() for name, value in flatten(result)[0].items()}
    torch.cuda.synchronize(device)
    behind = [name for name, value in flatten(result)[0].items() if not same(value, seen[name])]
    return result, [UNFINISHED] if behind else []
