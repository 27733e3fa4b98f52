"""What a call must leave as it is, values of tensors aside: its inputs' form, the module's parameters and mode, the
random state and the grad mode.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelnew.check.wide import tensors


@dataclass(frozen=True)
class Forms:
    """Everything by what it is called in a report."""

    inputs: dict[str, Any]
    parameters: dict[str, Any]
    modes: dict[str, bool]
    random: tuple[torch.Tensor, Any]
    grad: tuple[bool, bool]

    @staticmethod
    def of(module: nn.Module, inputs: list[Any]) -> Forms:
        return Forms(
            {f"input {i}": [_form(tensor) for tensor in tensors(value)] for i, value in enumerate(inputs)},
            {name: (id(value), value.requires_grad) for name, value in module.named_parameters()},
            {name: part.training for name, part in module.named_modules()},
            (torch.get_rng_state(), random.getstate()),
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        )

    def changed(self, now: Forms) -> list[str]:
        """The differences as facts. What the call made is no change: kernels may be built by the first."""
        facts = [f"{name} has another shape, memory or requires_grad" for name in _differ(self.inputs, now.inputs)]
        facts += [f"parameter {name} is replaced or frozen" for name in _differ(self.parameters, now.parameters)]
        if _differ(self.modes, now.modes):
            facts.append("the call changes whether the module trains")
        if not torch.equal(self.random[0], now.random[0]) or self.random[1] != now.random[1]:
            facts.append("the random state is changed")
        if self.grad != now.grad:
            facts.append("the grad mode is changed")
        return facts


def _form(tensor: torch.Tensor) -> tuple[Any, ...]:
    strided = tensor.layout == torch.strided
    memory = (tensor.data_ptr(), tensor.stride()) if strided else None
    return tensor.shape, tensor.dtype, tensor.requires_grad, memory


def _differ(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [name for name, value in before.items() if name in now and now[name] != value]
