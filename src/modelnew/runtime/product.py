"""Matrix products on the CPU by the other library that PyTorch ships.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

from typing import Optional

import torch


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
