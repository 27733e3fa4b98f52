"""Sizes at which a reference can be judged in seconds.

The truth costs some ten evaluations in float64 per case. Constants that leave the parameters as they are come first: a
candidate whose kernels are made for its parameters' shapes then still runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from modelnew import constants, fakes
from modelnew.check.wide import tensors
from modelnew.errors import ModelnewError
from modelnew.problem import Problem
from modelnew.progress import Progress

ELEMENTS = 400_000  # read and written by all ops of one forward, in a case of some twenty
PARAMETERS = 2_500_000
FLOPS = 200_000_000
ELEMENTS_ONCE = 8_000_000  # the same, in the one case at larger sizes
FLOPS_ONCE = 20_000_000_000
SMALLEST = 4  # no constant is reduced below it
MOST_STEPS = 40


@dataclass(frozen=True)
class Work:
    """elements: operands and results of all ops of one forward. flops: of its products. parameters: their shapes."""

    elements: int
    flops: int
    parameters: tuple[tuple[int, ...], ...]

    def fits(self) -> bool:
        """For every case."""
        parameters = self._parameters()
        return parameters <= PARAMETERS and self.elements - 4 * parameters <= ELEMENTS and self.flops <= FLOPS

    def fits_once(self) -> bool:
        """For one case. Parameters are made float64 in pieces, so their size does not count."""
        return self.elements - 4 * self._parameters() <= ELEMENTS_ONCE and self.flops <= FLOPS_ONCE

    def _parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameters)


class Count(TorchDispatchMode):
    """Counts the elements of the operands and results of all ops."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            operands = [
                t for arg in args for t in (tensors(arg) if isinstance(arg, (torch.Tensor, list, tuple)) else ())
            ]
            self.elements += sum(t.numel() for t in operands) + sum(t.numel() for t in tensors(out))
        return out


def measure(problem: Problem, device: str, dtype: str | None) -> Work:
    """The work of one forward, on fake tensors."""
    abstract = problem.abstract(device=device, dtype=dtype)
    flops = FlopCounterMode(display=False)
    count = Count()
    with abstract.mode, fakes.quiet_logs(), torch.no_grad(), count, flops:
        abstract.model(*abstract.inputs)
    parameters = tuple(tuple(value.shape) for value in abstract.model.state_dict().values())
    return Work(count.elements, flops.get_total_flops(), parameters)


@dataclass(frozen=True)
class Reduced:
    """problem: with reduced constants. sizes: those that were changed. same_parameters: their shapes are the file's
    own.

    full: the work at the file's own sizes, where they were changed.
    larger: sizes with the parameters at their full shapes, as large as one case allows; None where `sizes` are that.
    """

    problem: Problem
    sizes: dict[str, int]
    same_parameters: bool
    larger: dict[str, int] | None = None
    full: Work | None = None


def reduce(problem: Problem, device: str, dtype: str | None, progress: Progress) -> Reduced:
    """The problem at sizes whose work fits; as it is where it fits already."""
    found = _try(problem, {}, device, dtype)
    if found is None or found[1].fits():
        return Reduced(problem, {}, True)
    progress("finding sizes that can be judged")
    full = found[1]
    kept, rest = _split(problem, full, device, dtype)
    shrink = _Shrink(problem, device, dtype)
    sizes: dict[str, int] = {}
    work = full
    for group in [*([name] for name in kept), rest]:
        work = shrink(sizes, group, work, Work.fits)
    same_parameters = work.parameters == full.parameters
    larger: dict[str, int] = {}
    work = full
    for name in kept:
        work = shrink(larger, [name], work, Work.fits_once)
    reduced = Problem.load(problem.path, {**problem.overrides, **sizes})
    return Reduced(reduced, sizes, same_parameters, None if larger == sizes else larger, full)


def _split(problem: Problem, full: Work, device: str, dtype: str | None) -> tuple[list[str], list[str]]:
    """The constants whose reduction lowers the work: those that leave the parameters alone, in the file's order, and
    the others. What `Model` itself reads is none of them: a candidate has a value of its own for that.
    """
    kept: list[str] = []
    rest: list[str] = []
    read = constants.read_by(problem.source, "Model")
    for name, value in problem.constants.items():
        if not isinstance(value, int) or isinstance(value, bool) or value <= SMALLEST or name in read:
            continue
        found = _try(problem, {name: _lower(value)}, device, dtype)
        if found is not None and found[1].elements < full.elements:
            (kept if found[1].parameters == full.parameters else rest).append(name)
        elif found is None:
            rest.append(name)  # tied to another one
    return kept, rest


@dataclass(frozen=True)
class _Shrink:
    """Halves constants together until the work fits."""

    problem: Problem
    device: str
    dtype: str | None

    def __call__(self, sizes: dict[str, int], names: list[str], work: Work, fits: Callable[[Work], bool]) -> Work:
        """The work at the end; `sizes` takes what was accepted."""
        for _ in range(MOST_STEPS):
            values = {name: sizes.get(name, self.problem.constants[name]) for name in names}
            trial = {
                name: _lower(value) for name, value in values.items() if isinstance(value, int) and value > SMALLEST
            }
            if fits(work) or not trial:
                break
            found = self._try(sizes | trial)
            if (
                found is None and len(trial) > 1
            ):  # one of them may be a kernel's size or a stride: drop what fails alone
                names = [name for name in names if name in trial and self._try({**sizes, name: trial[name]})]
                continue
            if found is None:
                break
            sizes.update(trial)
            work = found[1]
        return work

    def _try(self, sizes: dict[str, int]) -> tuple[Problem, Work] | None:
        return _try(self.problem, sizes, self.device, self.dtype)


def _lower(value: int) -> int:
    return max(SMALLEST, value // 2)


def _try(problem: Problem, sizes: dict[str, int], device: str, dtype: str | None) -> tuple[Problem, Work] | None:
    try:
        smaller = Problem.load(problem.path, {**problem.overrides, **sizes})
        return smaller, measure(smaller, device, dtype)
    except (ModelnewError, RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
