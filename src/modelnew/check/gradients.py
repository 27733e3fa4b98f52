"""A module whose outputs are the gradients of another's: so gradients are judged by the same rule as outputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from modelnew.check.observe import copy_tree, flat, flatten


class NotDifferentiableError(RuntimeError):
    """None of the outputs depends on anything that takes a gradient."""


class WithGradients(nn.Module):
    """Called like `inner`; returns a dict: the gradient of every floating input and parameter.

    The outputs are weighted with fixed random numbers, the same for every module that is compared.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.load_state_dict(*args, **kwargs)

    def named_buffers(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.named_buffers(*args, **kwargs)

    def forward(self, *inputs: Any) -> dict[str, torch.Tensor]:
        with torch.enable_grad():
            given = copy_tree(list(inputs), lambda t: t.detach().requires_grad_(t.is_floating_point()))
            leaves = {f"gradient of input {i}": t for i, t in enumerate(flat(given)) if t.requires_grad}
            leaves |= {f"gradient of {name}": p for name, p in self.inner.named_parameters() if p.requires_grad}
            outputs, _ = flatten(self.inner(*given))
            roots = [value for value in outputs.values() if value.requires_grad]
            if not roots:
                raise NotDifferentiableError("its outputs take no gradient: it is for inference only")
            weights = [_weights(root, i) for i, root in enumerate(roots)]
            found = torch.autograd.grad(roots, list(leaves.values()), weights, allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }


def _weights(like: torch.Tensor, index: int) -> torch.Tensor:
    """Normal numbers that every floating dtype holds exactly."""
    with _disable_current_modes():
        generator = torch.Generator().manual_seed(index)
        values = torch.randn(like.shape, generator=generator, dtype=torch.float32).to(torch.bfloat16)
        return values.to(like.device, like.dtype)
