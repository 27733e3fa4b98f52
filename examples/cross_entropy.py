"""The mean cross-entropy of a language model's logits over its vocabulary."""

import torch
from torch import nn

tokens = 8192
vocabulary = 50257


class Model(nn.Module):
    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, targets)


def get_inputs() -> list[torch.Tensor]:
    return [torch.randn(tokens, vocabulary), torch.randint(vocabulary, (tokens,))]


def get_init_inputs() -> list[object]:
    return []
