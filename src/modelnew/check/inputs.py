"""The inputs of a reference file, and those of a caller, under the different generators."""

from __future__ import annotations

from typing import Any

import torch

from modelnew.check.generators import Generator, Substitute
from modelnew.check.observe import copy_tree, own_elements, twin
from modelnew.check.wide import tensors
from modelnew.problem import Problem


class FileInputs:
    """`get_inputs()` with the random functions inside it substituted."""

    def __init__(self, problem: Problem, dtype: str | None) -> None:
        self.problem = problem
        self.dtype = dtype
        self.text = problem.source

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        """CPU tensors; None where `get_inputs()` calls none of the functions that the generator stands for."""
        if generator.fill is None:
            return self.problem.inputs(dtype=self.dtype, seed=seed)
        mode = Substitute(generator.fill, seed)
        with mode:
            found = self.problem.inputs(dtype=self.dtype, seed=seed)
        return found if mode.used else None


class GivenInputs:
    """The inputs a caller gave; other generators fill their floating tensors."""

    text = ""

    def __init__(self, inputs: list[Any]) -> None:
        self.given = inputs

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        """CPU tensors; None where no input is floating."""
        fill = generator.fill
        if fill is None:
            return self.given
        if not any(tensor.is_floating_point() for tensor in tensors(self.given)):
            return None
        source = torch.Generator().manual_seed(seed)

        def one(tensor: torch.Tensor) -> torch.Tensor:
            if not tensor.is_floating_point():
                return tensor
            values = fill(tuple(tensor.shape), source).to(tensor.dtype)
            return twin(tensor).copy_(values) if own_elements(tensor) else values

        found: list[Any] = copy_tree(self.given, one)
        return found
