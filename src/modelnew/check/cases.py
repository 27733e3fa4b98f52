"""The inputs a candidate is tried on, and what each of them is there to catch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import functional_call

from modelnew import fakes
from modelnew.check.generators import GENERATORS, Generator
from modelnew.check.observe import copy_tree, flat
from modelnew.check.truth import Reference

Shape = tuple[int, ...]
Group = list[tuple[int, int]]  # (input, dim) that change size together

SIZES = (1, 7, 31, 33)  # of a dim: one, prime, either side of a power of two

MOST_ELEMENTS = 200_000  # of inputs at another size, where the given ones are not more


@dataclass(frozen=True)
class Case:
    """name, what it catches, the inputs (CPU tensors), the set of parameters to use ("shipped", "redrawn", "integers").

    may_refuse: the candidate may raise an error on them. training: the module's mode. same_values: the case whose
    values these are, in other memory.
    """

    name: str
    catches: str
    inputs: list[Any]
    state: str
    training: bool
    may_refuse: bool = False
    same_values: str = ""
    layout: bool = False  # the memory is unusual, so the output's may be too
    gradients: bool = False

    def named(self, name: str, catches: str) -> Case:
        """The same inputs for another purpose."""
        return replace(self, name=name, catches=catches)


class Source(Protocol):
    """Where the inputs come from."""

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        """CPU tensors; None where the generator changes nothing."""
        ...


def all_cases(reference: Reference, source: Source, draw: random.Random, gradients: bool) -> Iterator[Case]:
    """Every case for a reference, the file's own inputs first."""
    module = reference.module
    training = module.training
    found: dict[str, list[Any]] = {}
    for generator in GENERATORS:
        inputs = source.inputs(generator, draw.getrandbits(62))
        if inputs is not None:
            state = "shipped" if generator.fill is None else ("integers" if generator.integral else "redrawn")
            found[generator.name] = inputs
            yield Case(generator.name, generator.catches, inputs, state, training)
    same_values = "normal" if "normal" in found else ""
    base = found.get("normal", found["shipped"])
    common = Case("", "", base, "redrawn", training)
    if reference.mode_matters(base):
        yield replace(common, name="other mode", catches="what only holds in one mode", training=not training)
    for name, inputs in resized(module, base, draw.getrandbits(62)):
        catches = "sizes built into the code, tails, empty blocks"
        yield replace(common, name=name, catches=catches, inputs=inputs, may_refuse=True)
    for name, inputs in layouts(base):
        catches = "strides and alignment that the code takes for granted"
        yield replace(
            common, name=name, catches=catches, inputs=inputs, may_refuse=True, layout=True, same_values=same_values
        )
    if (spread := expanded(base)) is not None:
        yield replace(common, name="expanded rows", catches="strides of 0", inputs=spread, may_refuse=True, layout=True)
    special, catches = with_specials(base, draw.getrandbits(62)), "nan, infinities, -0 and subnormal numbers"
    yield replace(common, name="special values", catches=catches, inputs=special)
    if gradients:
        yield replace(common, name="gradients", catches="a missing or wrong backward", gradients=True)


def layouts(inputs: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The same values in other memory: transposed, in a wider row, misaligned, every second element, channels last."""
    for name, change in (
        ("transposed memory", _transposed),
        ("rows of a wider tensor", _wider),
        ("one element off alignment", _misaligned),
        ("every second element", _every_second),
        ("channels last", _channels_last),
    ):
        changed: list[bool] = []

        def one(tensor: torch.Tensor, change: Any = change, changed: list[bool] = changed) -> torch.Tensor:
            new = change(tensor)
            changed.append(new is not None)
            return tensor if new is None else new

        varied = copy_tree(inputs, one)
        if any(changed):
            yield name, varied


def _transposed(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() < 2 or min(tensor.shape[-2:]) < 2:
        return None
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def _wider(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() < 2:
        return None
    wide = tensor.new_zeros((*tensor.shape[:-1], tensor.shape[-1] + 3))
    wide[..., 1:-2] = tensor
    return wide[..., 1:-2]


def _misaligned(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() == 0:
        return None
    flat = tensor.new_zeros(tensor.numel() + 1)
    flat[1:] = tensor.reshape(-1)
    return flat[1:].view(tensor.shape)


def _every_second(tensor: torch.Tensor) -> torch.Tensor | None:
    if tensor.dim() == 0:
        return None
    wide = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1]))
    wide[..., ::2] = tensor
    return wide[..., ::2]


def _channels_last(tensor: torch.Tensor) -> torch.Tensor | None:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else None


def expanded(inputs: list[Any]) -> list[Any] | None:
    """The first row of every floating input, expanded over dim 0 with stride 0; None where no input has rows."""
    changed = False

    def one(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal changed
        if not tensor.is_floating_point() or tensor.dim() < 2 or tensor.shape[0] < 2:
            return tensor
        changed = True
        return tensor[:1].clone().expand(tensor.shape)

    varied: list[Any] = copy_tree(inputs, one)
    return varied if changed else None


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
        return new

    varied: list[Any] = copy_tree(inputs, one)
    return varied


def resized(model: nn.Module, inputs: list[Any], seed: int) -> Iterator[tuple[str, list[Any]]]:
    """Inputs of other sizes that the model accepts, found by running it on fake tensors: nothing is allocated.

    Dims that must change together (a batch of two inputs) are changed together.
    """
    tensors = flat(inputs)
    accepts = _probe(model, inputs)
    if accepts is None:
        return
    for label, group in _groups(tensors, accepts):
        for size in SIZES:
            if any(tensors[i].shape[d] == size for i, d in group):
                continue
            shapes = _changed([tuple(t.shape) for t in tensors], group, size)
            elements = sum(math.prod(shape) for shape in shapes)
            if elements <= max(MOST_ELEMENTS, sum(t.numel() for t in tensors)) and accepts(shapes):
                yield f"{label} {size}", _redrawn(inputs, shapes, seed)


def _groups(tensors: list[torch.Tensor], accepts: Callable[[list[Shape]], bool]) -> Iterator[tuple[str, Group]]:
    """Sets of (input, dim) that can change size together."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    done: set[tuple[int, int]] = set()
    for i, tensor in enumerate(tensors):
        for d in range(tensor.dim()):
            if (i, d) in done or tensor.shape[d] < 2:
                continue
            equal = [(j, e) for j, shape in enumerate(shapes) for e in range(len(shape)) if shape[e] == tensor.shape[d]]
            same_dim = [(j, e) for j, e in equal if e == d]
            for group in ([(i, d)], same_dim, equal):
                if accepts(_changed(shapes, group, tensor.shape[d] + 1)):
                    done |= set(group)
                    yield ("batch" if d == 0 else f"dim {d} of input {i} ="), group
                    break


def _changed(shapes: list[Shape], group: Group, size: int) -> list[Shape]:
    return [tuple(size if (i, d) in group else old for d, old in enumerate(shape)) for i, shape in enumerate(shapes)]


def _probe(model: nn.Module, inputs: list[Any]) -> Callable[[list[Shape]], bool] | None:
    """A function that says whether the model accepts inputs of given shapes; None where it cannot run on fake tensors
    at all.
    """
    mode = fakes.new_mode()
    state: dict[str, torch.Tensor] = {
        name: mode.from_tensor(value.detach()) for name, value in (*model.named_parameters(), *model.named_buffers())
    }

    def accepts(shapes: list[Shape]) -> bool:
        remaining = iter(shapes)
        with mode, fakes.quiet_logs(), torch.no_grad():
            empty = copy_tree(inputs, lambda t: torch.empty(next(remaining), dtype=t.dtype, device=_device(model, t)))
            try:
                functional_call(model, state, tuple(empty))
            except Exception:
                return False
        return True

    return accepts if accepts([tuple(tensor.shape) for tensor in flat(inputs)]) else None


def _device(model: nn.Module, tensor: torch.Tensor) -> torch.device:
    return next((value.device for value in model.state_dict().values()), tensor.device)


def _redrawn(inputs: list[Any], shapes: list[Shape], seed: int) -> list[Any]:
    """Normal values for floating inputs, values that occur in the original for others."""
    generator = torch.Generator().manual_seed(seed)
    remaining = iter(shapes)

    def one(tensor: torch.Tensor) -> torch.Tensor:
        shape = next(remaining)
        if tensor.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
        picks = torch.randint(0, max(1, tensor.numel()), shape, generator=generator)
        return tensor.reshape(-1)[picks]

    varied: list[Any] = copy_tree(inputs, one)
    return varied
