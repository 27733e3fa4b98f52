"""The models that `cpu.py` measures, with the least speed-up that each must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


class Pointwise(nn.Module):
    """One function of one tensor."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class GatedChain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(functional.gelu(torch.tanh(1.5 * x + 0.3) * torch.sigmoid(x)), -1, 1)


class SigmoidSum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x).sum(1, keepdim=True)


class LinearSigmoidSum(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.linear(x)).sum(1, keepdim=True)


class TransposedSigmoid(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x.t())


@dataclass(frozen=True)
class Case:
    """bars: baseline name → least speed-up over it. processes: times are medians over this many."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], list[torch.Tensor]]
    bars: Mapping[str, float]
    processes: int = 1
    moves_memory: bool = False  # out of the caches, and little else: the machine's floor is measured beside it


EAGER, COMPILE = "eager", "torch.compile"
SQUARE = 4096


def _uniform(*shape: int) -> Callable[[], list[torch.Tensor]]:
    return lambda: [torch.rand(*shape)]


def _normal(*shape: int) -> Callable[[], list[torch.Tensor]]:
    return lambda: [torch.randn(*shape)]


CASES = (
    Case("sigmoid, 2^14", lambda: Pointwise(torch.sigmoid), _uniform(1 << 14), {EAGER: 1.5}, 5),
    Case("hardsigmoid, 2^14", lambda: Pointwise(functional.hardsigmoid), _uniform(1 << 14), {EAGER: 1.5}, 5),
    Case(
        "sigmoid, 2^26", lambda: Pointwise(torch.sigmoid), _uniform(1 << 26), {EAGER: 3, COMPILE: 3}, moves_memory=True
    ),
    Case(
        "hardsigmoid, 2^26",
        lambda: Pointwise(functional.hardsigmoid),
        _uniform(1 << 26),
        {EAGER: 3, COMPILE: 3},
        moves_memory=True,
    ),
    Case(
        "clamp(gelu(tanh(1.5x + 0.3)·sigmoid(x)), -1, 1), 2^24",
        GatedChain,
        _normal(1 << 24),
        {EAGER: 8, COMPILE: 2},
        moves_memory=True,
    ),
    Case(
        "sigmoid(x).sum(1), 4096×4096", SigmoidSum, _normal(SQUARE, SQUARE), {EAGER: 10, COMPILE: 2}, moves_memory=True
    ),
    Case("softmax, 4096×4096", lambda: nn.Softmax(dim=1), _normal(SQUARE, SQUARE), {EAGER: 4}, moves_memory=True),
    Case("LayerNorm, 4096×4096", lambda: nn.LayerNorm(SQUARE), _normal(SQUARE, SQUARE), {EAGER: 4}, moves_memory=True),
    Case("linear+sigmoid+sum, 128×8192×8192", lambda: LinearSigmoidSum(8192), _normal(128, 8192), {EAGER: 1.3}),
    Case(
        "sigmoid of a transposed 4096×4096", TransposedSigmoid, _normal(SQUARE, SQUARE), {EAGER: 2}, moves_memory=True
    ),
)
