"""Other inputs than the file's own: the random functions inside `get_inputs()` are substituted while it runs.

So an input keeps its shape, dtype and whatever `get_inputs()` does with it afterwards, but its values come from another
distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

Fill = Callable[[tuple[int, ...], torch.Generator], torch.Tensor]  # shape → float64 values


@dataclass(frozen=True)
class Generator:
    """name, what a wrong candidate does that it brings to light, and the values (None: the file's own)."""

    name: str
    catches: str
    fill: Fill | None
    integral: bool = False
    far: bool = False  # the values may leave the range in which the reference's dtype holds its results


def _normal(scale: float = 1.0, shift: float = 0.0) -> Fill:
    return lambda shape, generator: torch.randn(shape, generator=generator, dtype=torch.float64) * scale + shift


def _magnitudes(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """From 2^-20 to 2^15, which fp16 still holds, as many of each size and sign."""
    signs = torch.randint(0, 2, shape, generator=generator).mul_(2).sub_(1)
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul_(35).sub_(20).exp2_().mul_(signs)


def _integers(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.randint(-3, 4, shape, generator=generator).to(torch.float64)


def _one_hot(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """One element per row of the last dim, with a value that uses every bit of the mantissa."""
    values = torch.zeros(shape, dtype=torch.float64)
    if not shape or 0 in shape:
        return values
    rows = values.view(-1, shape[-1])
    places = torch.randint(0, shape[-1], (rows.shape[0], 1), generator=generator)
    signs = torch.randint(0, 2, (rows.shape[0], 1), generator=generator) * 2 - 1
    picked = (1 + torch.rand(rows.shape[0], 1, generator=generator, dtype=torch.float64)) * signs
    rows.scatter_(1, places, picked)
    return values


GENERATORS = (
    Generator("shipped", "anything, on the inputs the file makes", None),
    Generator(
        "normal", "work skipped because the shipped inputs have one sign, answers kept from other inputs", _normal()
    ),
    Generator("wide", "wrong saturation, overflow in exponentials", _normal(8.0)),
    Generator("small", "errors hidden by an absolute tolerance, flushed small values", _normal(1e-3)),
    Generator("integers", "wrong indices, halos and tails, without any tolerance", _integers, integral=True),
    Generator("one-hot", "products in lower precision than the dtype's", _one_hot),
    Generator("offset", "variances in one pass, exponentials without subtracting the maximum", _normal(1.0, 100.0)),
    Generator(
        "magnitudes", "limits that only large values reach, numbers that outgrow an integer", _magnitudes, far=True
    ),
)

_BY_SHAPE = {torch.rand, torch.randn}
_BY_TENSOR = {torch.rand_like, torch.randn_like}
_IN_PLACE = {torch.Tensor.uniform_, torch.Tensor.normal_}


class Substitute(TorchFunctionMode):
    """While it is on, torch's uniform and normal random functions give `fill`'s values. `used` tells whether any was
    called.
    """

    def __init__(self, fill: Fill, seed: int) -> None:
        super().__init__()
        self.fill = fill
        self.generator = torch.Generator().manual_seed(seed)
        self.used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _BY_SHAPE or func in _BY_TENSOR or func in _IN_PLACE:
            original = func(*args, **kwargs)  # keeps the shape, dtype, device and layout rules
            if not isinstance(original, torch.Tensor) or not original.is_floating_point():
                return original
            self.used = True
            with torch._C.DisableTorchFunction():
                return _fill_into(original, self.fill(tuple(original.shape), self.generator))
        if func is torch.normal:
            original = func(*args, **kwargs)
            self.used = True
            with torch._C.DisableTorchFunction():
                return _fill_into(original, self.fill(tuple(original.shape), self.generator))
        return func(*args, **kwargs)


def _fill_into(target: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return target.copy_(values)


def redraw(state: Mapping[str, torch.Tensor], seed: int, integral: bool = False) -> dict[str, torch.Tensor]:
    """New values for parameters and running statistics, of the same scale: a candidate that ignores a weight of 1 or a
    bias of 0 is right only until they are trained.

    state: a state_dict. Buffers other than running statistics (masks, tables, counters) keep their values.
    """
    generator = torch.Generator().manual_seed(seed)
    return {name: _redrawn(name, value, generator, integral) for name, value in state.items()}


def _redrawn(name: str, value: torch.Tensor, generator: torch.Generator, integral: bool) -> torch.Tensor:
    if not value.is_floating_point() or value.numel() == 0:
        return value.clone()
    leaf = name.rsplit(".", 1)[-1]
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
    if leaf == "running_var":
        return _cast(noise.abs_().mul_(0.5).add_(0.5), value)
    if leaf == "running_mean":
        return _cast(noise.mul_(0.5), value)
    if integral:
        return _cast(torch.randint(-3, 4, value.shape, generator=generator), value)
    center, spread = float(value.double().mean()), float(value.double().std(correction=0))
    if spread <= 1e-6 * abs(center) or spread == 0.0:  # all ones, all zeros
        return _cast(noise.mul_(0.25 * max(abs(center), 1.0)).add_(center), value)
    return _cast(noise.mul_(spread).add_(center), value)


def _cast(noise: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return noise.to(like.device, like.dtype)
