"""Matrix products by other means than PyTorch's default: oneDNN on the CPU, kernels of family 3 on the GPU.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

from collections.abc import Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.plan_product import Factors

NOT_COVERED = -1  # what the launcher of a product says before it has done anything
MOST_WEIGHTS = 256  # whose rows' magnitudes are remembered


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
    """`torch.nn.functional.linear` by oneDNN for fp32 on the CPU, where PyTorch itself would call MKL; else PyTorch's way."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    plain = (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() >= 2
        and x.numel()
        and weight.numel()
    )
    if found is None or not plain:
        return torch.nn.functional.linear(x, weight, bias)
    made: torch.Tensor = found(x, weight, bias, "none", [], "")
    return made


def fp32_is_asked_for() -> bool:
    """Whether fp32 products are to be as accurate as fp32, or PyTorch has been allowed TF32."""
    try:
        return bool(torch.get_float32_matmul_precision() == "highest")
    except RuntimeError:  # set by the newer names
        return False


def factors_of(x: torch.Tensor, weight: torch.Tensor) -> Optional[Factors]:
    """Of `linear(x, weight)`; None where x's leading dims do not collapse into one, or nothing is multiplied."""
    if x.dim() < 2 or weight.dim() != 2 or x.shape[-1] != weight.shape[1] or 0 in (*x.shape, *weight.shape):
        return None
    pitch = collapsed_stride(x.shape[:-1], x.stride()[:-1])
    if pitch is None:
        return None
    k = x.shape[-1]
    return Factors(x.numel() // k, weight.shape[0], k, (pitch, x.stride(-1)), (weight.stride(0), weight.stride(1)))


def collapsed_stride(sizes: Sequence[int], strides: Sequence[int]) -> Optional[int]:
    """The stride of these dims taken as one; None where there is none."""
    pitch, expected = 0, None
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size == 1:
            continue
        if expected is None:
            pitch = stride
        elif stride != expected:
            return None
        expected = stride * size
    return pitch


class Hints:
    """What a launch leaves behind about a weight for the next one: n floats on its device, zero at first.

    A weight that is written to, as far as PyTorch knows, begins again; the result is right whatever the floats are.
    """

    def __init__(self) -> None:
        self.kept: dict[Any, tuple[int, torch.Tensor]] = {}

    def of(self, weight: torch.Tensor, rows: int) -> torch.Tensor:
        key = (weight.data_ptr(), weight.device, rows)
        version = 0 if weight.is_inference() else weight._version
        found = self.kept.get(key)
        if found is None or found[0] != version:
            if len(self.kept) >= MOST_WEIGHTS:
                self.kept.clear()
            found = (version, torch.zeros(rows, dtype=torch.float32, device=weight.device))
            self.kept[key] = found
        return found[1]
