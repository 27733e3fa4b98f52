"""The feed-forward block of a 7-billion-parameter language model: down(silu(gate(x)) * up(x))."""

import torch
from torch import nn

batch_size = 4
tokens = 2048
width = 4096
hidden = 11008


class Model(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(batch_size, tokens, width)]


def get_init_inputs() -> list[object]:
    return [width, hidden]
