"""A few cases at larger sizes, with the parameters at their full shapes.

The other cases run at sizes that cost little. Kernels made for the shapes of the parameters, and code that large
tensors alone reach, are seen here. Both processes make the parameters from the same seed, so none of them is copied;
float64 is made of them as they are used.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import cached_property

import torch

from modelnew import memory
from modelnew import reference as reference_file
from modelnew.check import whole
from modelnew.check.answers import result
from modelnew.check.candidate import Candidate
from modelnew.check.cases import Case, Cases
from modelnew.check.inputs import FileInputs
from modelnew.check.report import CaseResult
from modelnew.check.sizes import Work
from modelnew.check.truth import Evaluation, Reference
from modelnew.check.whole import Whole
from modelnew.problem import Problem
from modelnew.progress import Progress
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
        self,
        problem: Problem,
        sizes: dict[str, int],
        device: str,
        dtype: str | None,
        seed: int,
        product_unit: float,
        work: Work | None = None,
    ) -> None:
        self.product_unit = product_unit
        self.full = problem  # at the file's own sizes
        self.work = work
        self.problem = Problem.load(problem.path, {**problem.overrides, **sizes})
        self.sizes = sizes
        self.device = device
        self.dtype = dtype
        self.seed = seed
        self.cases: list[tuple[Case, Evaluation]] = []
        self.state: dict[str, torch.Tensor] = {}
        self.checksums: dict[str, int] = {}
        self.parameters = 0
        self.whole: Whole | str = ""  # the case at the file's own sizes, or why there is none
        self.reference: Reference | None = None  # that the whole case is judged with

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
        """Evaluates the reference, and lets its parameters go where nothing more is to be asked of it."""
        reference = self._reference(self.problem)
        self.checksums, self.state = reference.checksums(), reference.buffers()
        for case in self._wanted(reference):
            reference.settle(case.inputs)
            like = self.cases[0][1] if self.cases and case.same_values else None  # "normal", whose values these are
            found = reference.evaluate(case.inputs, self.state, seed=self.seed, training=case.training, like=like)
            self.cases.append((case, found))
            if found.answer.state:  # the candidate could not be put back for another
                break
        if self.sizes and self.work is not None and self.cases:
            reference = reference if self._same_model else self._reference(self.full)
            reference.settle(self.cases[0][0].inputs)
            self.whole = whole.make(self.full, self.work, reference, self.cases[0][1], self.dtype, self.seed)
            self.reference = reference if isinstance(self.whole, Whole) else None

    def _reference(self, problem: Problem) -> Reference:
        return Reference(
            lambda dtype: problem.model(device=self.device, dtype=dtype, seed=self.seed),
            device=torch.device(self.device),
            dtype=dtype_named(self.dtype),
            seed=self.seed,
            product_unit=self.product_unit,
            wide_parameters=False,
            runs=RUNS,
        )

    @cached_property
    def _same_model(self) -> bool:
        """Whether the constructor gets the same arguments at the file's own sizes."""
        one, other = (repr(reference_file.constructor_arguments(p.path, p.module)) for p in (self.problem, self.full))
        return one == other

    def _wanted(self, reference: Reference) -> Iterator[Case]:
        source = FileInputs(self.problem, self.dtype)
        cases = Cases(reference, source, random.Random(self.seed), only=SEVERAL)
        found = {case.name: case for case in cases.all()}
        few = self.parameters > MANY
        for name in ("normal" if "normal" in found else "shipped",) if few else SEVERAL:
            if name in found:
                yield found[name].named(NAME if name == "normal" else f"{NAME}, {name}", CATCHES)

    def judge(self, candidate: Candidate) -> Iterator[CaseResult]:
        """The verdict on the candidate's answers. Raises DiedError where its process is gone."""
        if (obstacle := self._load(candidate, self.problem, self.checksums)) is not None:
            yield obstacle
            return
        for case, evaluation in self.cases:
            answer = candidate.call(case.inputs, seed=self.seed, poison=True, training=case.training)
            yield result(case, evaluation, answer, self.state)
        if isinstance(self.whole, Whole) and self.reference is not None:
            if not self._same_model:
                obstacle = self._load(candidate, self.full, self.reference.checksums())
                if obstacle is not None:
                    yield obstacle
                    return
            if 1.1 * self.whole.result_bytes > candidate.room():  # a file that outgrows its disk would end the process
                yield CaseResult(whole.NAME, whole.CATCHES, "skipped", "there is no room for its outputs")
                return
            training = self.reference.module.training
            answer = candidate.call(self.whole.inputs, seed=self.seed, poison=True, training=training)
            yield self.whole.judge(self.reference, self.state, self.seed, answer)

    def _load(self, candidate: Candidate, problem: Problem, checksums: dict[str, int]) -> CaseResult | None:
        """Makes `ModelNew`; the result where the parameters are not the reference's."""
        args, kwargs = reference_file.constructor_arguments(problem.path, problem.module)
        loaded = candidate.load(args, kwargs, dtype_named(self.dtype), self.seed)
        if loaded.error:
            return CaseResult(NAME, CATCHES, "rejected", f"it raises {loaded.error}", detail=loaded.error_text)
        if candidate.checksums() != checksums:
            why = "the same seed gives it other parameters, and these are too large to be handed over"
            return CaseResult(NAME, CATCHES, "skipped", why)
        return None


def make(
    problem: Problem,
    sizes: dict[str, int] | None,
    device: str,
    dtype: str | None,
    seed: int,
    product_unit: float,
    progress: Progress,
    work: Work | None = None,
) -> Larger | str | None:
    """The cases, or why there are none, or None where the other cases are at these sizes already. work: of a forward at
    the file's own sizes."""
    if sizes is None:
        return None
    larger = Larger(problem, sizes, device, dtype, seed, product_unit, work)
    if why := larger.obstacle():
        return why
    text = ", ".join(f"{name}={value}" for name, value in sizes.items()) or "the file's own sizes"
    progress(f"truth: {NAME} ({text})")
    larger.prepare()
    return larger
