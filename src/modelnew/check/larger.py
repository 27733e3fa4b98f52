"""A few cases at larger sizes, with the parameters at their full shapes.

The other cases run at sizes that cost little. Kernels made for the shapes of the parameters, and code that large
tensors alone reach, are seen here. Both processes make the parameters from the same seed, so none of them is copied;
float64 is made of them as they are used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch

from modelnew import memory
from modelnew import reference as reference_file
from modelnew.check.answers import result
from modelnew.check.candidate import Candidate
from modelnew.check.cases import Case, all_cases
from modelnew.check.inputs import FileInputs
from modelnew.check.report import CaseResult
from modelnew.check.truth import Evaluation, Reference
from modelnew.problem import Problem
from modelnew.targets import dtype_named

NAME = "larger sizes"
CATCHES = "kernels made for the full parameters, code that only large tensors reach"
SEVERAL = ("normal", "shipped", "special values", "batch 1", "transposed memory")
MANY = 20_000_000  # parameters above which there is one case, not several
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
        self.cases: list[tuple[Case, Evaluation]] = []
        self.state: dict[str, torch.Tensor] = {}
        self.checksums: dict[str, int] = {}
        self.parameters = 0

    def obstacle(self) -> str:
        """Why there are no such cases: memory; or nothing."""
        abstract = self.problem.abstract(device=self.device, dtype=self.dtype)
        state = abstract.model.state_dict().values()
        self.parameters = sum(math.prod(value.shape) for value in state)
        size = sum(math.prod(value.shape) * value.element_size() for value in state)
        free, _ = memory.free_memory(torch.device(self.device))
        needed = 2 * size + RESERVE
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
        self.checksums, self.state = reference.checksums(), reference.buffers()
        for case in self._wanted(reference):
            reference.settle(case.inputs)
            found = reference.evaluate(case.inputs, self.state, seed=self.seed, training=case.training)
            self.cases.append((case, found))
            if found.answer.state:  # the candidate could not be put back for another
                break

    def _wanted(self, reference: Reference) -> Iterator[Case]:
        source = FileInputs(self.problem, self.dtype)
        found = {case.name: case for case in all_cases(reference, source, random.Random(self.seed), False)}
        few = self.parameters > MANY
        for name in ("normal" if "normal" in found else "shipped",) if few else SEVERAL:
            if name in found:
                yield found[name].named(NAME if name == "normal" else f"{NAME}, {name}", CATCHES)

    def judge(self, candidate: Candidate) -> Iterator[CaseResult]:
        """The verdict on the candidate's answers. Raises DiedError where its process is gone."""
        args, kwargs = reference_file.constructor_arguments(self.problem.path, self.problem.module)
        loaded = candidate.load(args, kwargs, dtype_named(self.dtype), self.seed)
        if loaded.error:
            yield CaseResult(NAME, CATCHES, "rejected", f"it raises {loaded.error}", detail=loaded.error_text)
            return
        if candidate.checksums() != self.checksums:
            why = "the same seed gives it other parameters, and these are too large to be handed over"
            yield CaseResult(NAME, CATCHES, "skipped", why)
            return
        for case, evaluation in self.cases:
            answer = candidate.call(case.inputs, seed=self.seed, poison=True, training=case.training)
            yield result(case, evaluation, answer, self.state)


def make(
    problem: Problem,
    sizes: dict[str, int] | None,
    device: str,
    dtype: str | None,
    seed: int,
    product_unit: float,
    progress: Callable[[str], None],
) -> Larger | str | None:
    """The cases, or why there are none, or None where the other cases are at these sizes already."""
    if sizes is None:
        return None
    larger = Larger(problem, sizes, device, dtype, seed, product_unit)
    if why := larger.obstacle():
        return why
    text = ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the file's own sizes"
    progress(f"truth: {NAME} ({text})")
    larger.prepare()
    return larger
