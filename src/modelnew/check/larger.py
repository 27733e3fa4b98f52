"""One case at larger sizes, with the parameters at their full shapes.

The other cases run at sizes that cost little. Kernels made for the shapes of the parameters, and code that large
tensors alone reach, are seen here. Both processes make the parameters from the same seed, so none of them is copied;
float64 is made of them as they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from modelnew import memory
from modelnew import reference as reference_file
from modelnew.check.answers import result
from modelnew.check.candidate import Candidate
from modelnew.check.cases import Case
from modelnew.check.generators import GENERATORS
from modelnew.check.inputs import FileInputs
from modelnew.check.report import CaseResult
from modelnew.check.truth import Evaluation, Reference
from modelnew.problem import Problem
from modelnew.targets import dtype_named

NAME = "larger sizes"
CATCHES = "kernels made for the full parameters, code that only large tensors reach"
RUNS = 2
RESERVE = 3 << 30  # bytes for the products that are widened in pieces and for the results


class Larger:
    """The reference's side, made once for several candidates."""

    def __init__(
        self, problem: Problem, sizes: dict[str, int], device: str, dtype: str | None, seed: int, product_unit: float
    ) -> None:
        self.product_unit = product_unit
        self.problem = Problem.load(problem.path, {**problem.overrides, **sizes})
        self.sizes = sizes
        self.device = device
        self.dtype = dtype
        self.seed = seed
        self.case: Case | None = None
        self.evaluation = Evaluation()
        self.checksums: dict[str, int] = {}

    def obstacle(self) -> str:
        """Why there is no such case: memory; or nothing."""
        abstract = self.problem.abstract(device=self.device, dtype=self.dtype)
        state = abstract.model.state_dict().values()
        parameters = sum(math.prod(value.shape) * value.element_size() for value in state)
        free, _ = memory.free_memory(torch.device(self.device))
        needed = 2 * parameters + RESERVE
        if needed > free:
            return f"{memory.readable(needed)} needed for the parameters of both models, {memory.readable(free)} free"
        return ""

    def prepare(self) -> None:
        """Evaluates the reference, and lets its parameters go."""
        reference = Reference(
            lambda dtype: self.problem.model(device=self.device, dtype=dtype, seed=self.seed),
            device=torch.device(self.device),
            dtype=dtype_named(self.dtype),
            seed=self.seed,
            product_unit=self.product_unit,
            wide_parameters=False,
            runs=RUNS,
        )
        source = FileInputs(self.problem, self.dtype)
        normal = next(generator for generator in GENERATORS if generator.name == "normal")
        inputs = source.inputs(normal, self.seed) or source.inputs(GENERATORS[0], self.seed)
        assert inputs is not None
        reference.settle(inputs)
        self.checksums = reference.checksums()
        state = reference.buffers()
        self.case = Case(NAME, CATCHES, inputs, "larger", reference.module.training)
        self.evaluation = reference.evaluate(inputs, state, seed=self.seed, training=self.case.training)

    def judge(self, candidate: Candidate) -> CaseResult:
        """The verdict on the candidate's one answer. Raises DiedError where its process is gone."""
        assert self.case is not None
        args, kwargs = reference_file.constructor_arguments(self.problem.path, self.problem.module)
        loaded = candidate.load(args, kwargs, dtype_named(self.dtype), self.seed)
        if loaded.error:
            return CaseResult(NAME, CATCHES, "rejected", f"it raises {loaded.error}", detail=loaded.error_text)
        if candidate.checksums() != self.checksums:
            why = "the same seed gives it other parameters, and these are too large to be handed over"
            return CaseResult(NAME, CATCHES, "skipped", why)
        answer = candidate.call(self.case.inputs, seed=self.seed, poison=True, training=self.case.training)
        return result(self.case, self.evaluation, answer, {})


def make(
    problem: Problem,
    sizes: dict[str, int] | None,
    device: str,
    dtype: str | None,
    seed: int,
    product_unit: float,
    progress: Callable[[str], None],
) -> Larger | str | None:
    """The case, or why there is none, or None where the other cases are at these sizes already."""
    if sizes is None:
        return None
    larger = Larger(problem, sizes, device, dtype, seed, product_unit)
    if why := larger.obstacle():
        return why
    text = ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the file's own sizes"
    progress(f"truth: {NAME} ({text})")
    larger.prepare()
    return larger
