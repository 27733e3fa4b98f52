"""Inputs of other sizes that a model accepts, found by running it on fake tensors: nothing is allocated.

Dims that must change together (a batch of two inputs) are changed together.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import sympy
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from modelnew import fakes
from modelnew.check.layouts import ordered_like
from modelnew.check.observe import copy_tree, flat
from modelnew.check.sizes import ELEMENTS, FLOPS, Count

Shape = tuple[int, ...]
Group = list[tuple[int, int]]  # (input, dim) that change size together

MOST_ELEMENTS = 200_000  # of inputs at another size, where the given ones are not more


class Resizer:
    """groups: (label, dims that change size together)."""

    def __init__(self, model: nn.Module, inputs: list[Any], seed: int) -> None:
        self.model = model
        self.inputs = inputs
        self.seed = seed
        self.shapes = [tuple(tensor.shape) for tensor in flat(inputs)]
        self._device = next((value.device for value in model.state_dict().values()), None)
        self._mode = fakes.new_mode()
        self._state = self._fake_state(self._mode)
        self._taken: dict[tuple[Shape, ...], bool] = {}  # whether the model takes such shapes, where that was tried
        self._parameters = sum(value.numel() for value in self._state.values())

    def row(self, group: Group) -> int:
        """Elements of the group's first tensor for each step of its size."""
        i, d = group[0]
        return max(1, math.prod(self.shapes[i]) // max(1, self.shapes[i][d]))

    def at(self, group: Group, size: int) -> list[Any] | None:
        """Inputs of that size; None where the model does not take them, or where they are too many."""
        if size < 0 or any(self.shapes[i][d] == size for i, d in group):
            return None
        shapes = _changed(self.shapes, group, size)
        elements = sum(math.prod(shape) for shape in shapes)
        if elements > max(MOST_ELEMENTS, sum(math.prod(shape) for shape in self.shapes)) or not self._accepts(shapes):
            return None
        return self._redrawn(shapes)

    def light(self, group: Group, size: int) -> bool:
        """Whether a forward at that size is no more work than the one that the sizes were chosen for, or twice it."""
        flops = FlopCounterMode(display=False)
        count = Count()
        if not self._accepts(_changed(self.shapes, group, size), count, flops):
            return False
        return count.elements - 4 * self._parameters <= 2 * ELEMENTS and flops.get_total_flops() <= 2 * FLOPS

    @cached_property
    def groups(self) -> list[tuple[str, Group]]:
        """Empty where the model does not run on fake tensors at all."""
        return list(self._groups()) if self._accepts(self.shapes) else []

    def _groups(self) -> Iterator[tuple[str, Group]]:
        done: set[tuple[int, int]] = set()
        for i, shape in enumerate(self.shapes):
            for d, size in enumerate(shape):
                if (i, d) in done or size < 2:
                    continue
                equal = [(j, e) for j, other in enumerate(self.shapes) for e in range(len(other)) if other[e] == size]
                same_dim = [(j, e) for j, e in equal if e == d]
                for group in ([(i, d)], same_dim, equal):
                    if self._accepts(_changed(self.shapes, group, size + 1)):
                        done |= set(group)
                        yield ("batch" if d == 0 else f"dim {d} of input {i} ="), group
                        break

    def decisions(self) -> set[int]:
        """The numbers in what forward decides about its inputs' sizes, found by a run with open sizes."""
        mode = fakes.new_mode()
        found: set[int] = set()
        try:
            with fakes.quiet_logs(), torch.no_grad():
                state = self._fake_state(mode)
                with mode:
                    given = copy_tree(self.inputs, lambda t: mode.from_tensor(t).to(self._device or t.device))
                    functional_call(self.model, state, tuple(given))
        except Exception:  # data decides, or an operator takes no open sizes: what was decided before it counts
            pass
        assert mode.shape_env is not None
        for guard in mode.shape_env.guards:
            found |= {abs(int(number)) for number in guard.expr.atoms(sympy.Integer)}
        return found - {0, 1, *(size for shape in self.shapes for size in shape)}

    def _fake_state(self, mode: FakeTensorMode) -> dict[str, torch.Tensor]:
        """The parameters and buffers, whose sizes stay as they are."""
        return {
            name: mode.from_tensor(value.detach(), static_shapes=True)
            for name, value in (*self.model.named_parameters(), *self.model.named_buffers())
        }

    def _accepts(self, shapes: list[Shape], *modes: Any) -> bool:
        if modes or tuple(shapes) not in self._taken:
            self._taken[tuple(shapes)] = self._runs(shapes, *modes)
        return self._taken[tuple(shapes)]

    def _runs(self, shapes: list[Shape], *modes: Any) -> bool:
        remaining = iter(shapes)
        with contextlib.ExitStack() as stack:
            for mode in (self._mode, fakes.quiet_logs(), torch.no_grad()):
                stack.enter_context(mode)
            empty = copy_tree(
                self.inputs, lambda t: torch.empty(next(remaining), dtype=t.dtype, device=self._device or t.device)
            )
            for mode in modes:
                stack.enter_context(mode)
            try:
                functional_call(self.model, self._state, tuple(empty))
            except Exception:
                return False
        return True

    def _redrawn(self, shapes: list[Shape]) -> list[Any]:
        """Normal values for floating inputs, values that occur in the original for others."""
        generator = torch.Generator().manual_seed(self.seed)
        remaining = iter(shapes)

        def one(tensor: torch.Tensor) -> torch.Tensor:
            shape = next(remaining)
            if tensor.is_floating_point():
                new = torch.randn(shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
            else:
                new = tensor.reshape(-1)[torch.randint(0, max(1, tensor.numel()), shape, generator=generator)]
            return ordered_like(new, tensor)

        varied: list[Any] = copy_tree(self.inputs, one)
        return varied


def _changed(shapes: list[Shape], group: Group, size: int) -> list[Shape]:
    return [tuple(size if (i, d) in group else old for d, old in enumerate(shape)) for i, shape in enumerate(shapes)]
