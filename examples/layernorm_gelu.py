"""Layer norm followed by GELU (the exact one, by erf), on the activations of a language model."""

import torch
from torch import nn

tokens = 65536
width = 1024


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.gelu(self.norm(x))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(tokens, width)]


def get_init_inputs() -> list[object]:
    return [width]
