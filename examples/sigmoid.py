"""The logistic sigmoid of every element, 1 / (1 + exp(-x)). The input takes 6.4 GB."""

import torch
from torch import nn

batch_size = 4096
features = 393216


class Model(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)


def get_inputs() -> list[torch.Tensor]:
    return [torch.rand(batch_size, features)]


def get_init_inputs() -> list[object]:
    return []
