"""The same values in other memory, and values that arithmetic treats apart.

What lies between and around the values is nan: a kernel that reads it shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch

from modelnew.check.observe import copy_tree

Change = Callable[[torch.Tensor], torch.Tensor | None]
IGNORED = -100  # torch.nn.functional.cross_entropy and nll_loss leave such labels out
MARGIN = 16  # elements around a slice: it stays as aligned as the memory is


def ordered_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`tensor` in dense memory whose dims lie in the order of those of `other`, channels last for example."""
    order = sorted(range(other.dim()), key=other.stride, reverse=True)  # stable: equal strides stay in order
    back = sorted(range(other.dim()), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


def laid_out(inputs: list[Any], change: Change) -> list[Any] | None:
    """`inputs` with their tensors laid out anew; None where that changes none of them."""
    changed = False

    def one(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal changed
        new = change(tensor)
        changed = changed or new is not None
        return tensor if new is None else new

    varied: list[Any] = copy_tree(inputs, one)
    return varied if changed else None


def _gaps(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Memory for the values of `like` and what lies between them; whole numbers stay such as the model takes."""
    if like.is_floating_point():
        return like.new_full(shape, torch.nan)
    return like.reshape(-1)[:1].clone().expand(shape).clone() if like.numel() else like.new_zeros(shape)


def _transposed(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() < 2 or min(tensor.shape[-2:]) < 2:
        return None
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def _wider(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() < 2:
        return None
    wide = _gaps(tensor, *tensor.shape[:-1], tensor.shape[-1] + 3)
    wide[..., 1:-2] = tensor
    return wide[..., 1:-2]


def _misaligned(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() == 0:
        return None
    row = _gaps(tensor, tensor.numel() + 1)
    row[1:] = tensor.reshape(-1)
    return row[1:].view(tensor.shape)


def _slice(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() == 0:
        return None
    row = _gaps(tensor, tensor.numel() + 2 * MARGIN)
    row[MARGIN:-MARGIN] = tensor.reshape(-1)
    return row[MARGIN:-MARGIN].view(tensor.shape)


def _swapped(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() < 3 or min(tensor.shape[:2]) < 2:
        return None
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def _every_second(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() == 0:
        return None
    wide = _gaps(tensor, *tensor.shape[:-1], 2 * tensor.shape[-1])
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor | None:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else None


LAYOUTS: dict[str, Change] = {
    "transposed memory": _transposed,
    "rows of a wider tensor": _wider,
    "one element off alignment": _misaligned,
    "a slice of a longer tensor": _slice,
    "every second element": _every_second,
    "channels last": _channels_last,
    "first dims swapped": _swapped,
}


def expanded(inputs: list[Any], dim: int) -> list[Any] | None:
    """The first element along `dim` of every floating input, expanded over it with stride 0; None where no input has
    such a dim."""

    def one(tensor: torch.Tensor) -> torch.Tensor | None:
        if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[dim] < 2:
            return None
        return tensor.narrow(dim, 0, 1).clone().expand(tensor.shape)

    return laid_out(inputs, one)


def with_ignored(inputs: list[Any], seed: int) -> list[Any] | None:
    """One element of every integer input becomes the label that losses ignore; None where there is no such input."""
    draw = random.Random(seed)

    def one(tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.dtype not in (torch.int64, torch.int32) or not tensor.numel():
            return None
        new = tensor.clone().contiguous()
        new.view(-1)[draw.randrange(new.numel())] = IGNORED
        return new

    return laid_out(inputs, one)


def with_specials(inputs: list[Any], seed: int) -> list[Any]:
    """nan, infinities, -0 and the smallest numbers in the first half of dim 0 of every floating input.

    Not the largest: where a square or a sum overflows is not the same in every honest implementation.
    """
    generator = torch.Generator().manual_seed(seed)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or not tensor.numel():
            return tensor
        info = torch.finfo(tensor.dtype)
        tiny = info.smallest_normal
        values = [torch.nan, torch.inf, -torch.inf, -0.0, 0.0, tiny, -tiny / 2]
        new = tensor.clone().contiguous()
        elements = new.view(-1)
        rows = tensor.shape[0] if tensor.dim() else 1
        reach = elements.numel() // rows * max(1, rows // 2)
        count = min(len(values), max(1, reach // 2))
        elements[torch.randperm(reach, generator=generator)[:count]] = torch.tensor(values[:count], dtype=tensor.dtype)
        return ordered_like(new, tensor)

    varied: list[Any] = copy_tree(inputs, one)
    return varied
