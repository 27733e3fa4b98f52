"""One case at the file's own sizes, judged in slices of the batch.

Kernels address memory differently where a tensor has billions of elements. The float64 truth of such a tensor would not
fit in memory; where the rows of a batch do not depend on each other, that of some rows at a time is enough. Floating
inputs are drawn by both processes from the same seed, so that gigabytes are not handed over.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelnew import fakes, memory
from modelnew.check.observe import Answer, copy_tree, flat, flatten
from modelnew.check.report import CaseResult, case_of
from modelnew.check.sizes import Work
from modelnew.check.truth import Evaluation, Reference
from modelnew.check.verdict import Comparison, compare, rms
from modelnew.check.wide import Draws, Wide, tensors
from modelnew.check.wire import Drawn
from modelnew.errors import ModelnewError
from modelnew.problem import Problem

NAME = "whole sizes"
CATCHES = "offsets beyond 32 bits, launches that only the file's own sizes need"
MOST_ELEMENTS = {"cpu": 32_000_000, "cuda": 50_000_000_000}  # read and written by all ops of one forward
MOST_FLOPS = {"cpu": 20_000_000_000, "cuda": 10_000_000_000_000}
SLICE_ELEMENTS = {"cpu": 4_000_000, "cuda": 200_000_000}
SLICE_BYTES = 80  # for each of them: float64 values, noise and what lies between
ALIKE = 1e-9  # relative deviation of float64 results that may come from another order of additions


@dataclass(frozen=True)
class Whole:
    """inputs: of forward, `Drawn` where they can be. batch: size of dim 0 of what is sliced. rows: in a slice.
    result_bytes: of the outputs."""

    problem: Problem
    inputs: list[Any]
    batch: int
    rows: int
    result_bytes: int
    lock: threading.Lock

    def judge(self, reference: Reference, state: Mapping[str, torch.Tensor], seed: int, answer: Answer) -> CaseResult:
        """The verdict on an answer to the inputs. seed: of what forward draws at random."""
        if "OutOfMemoryError" in answer.error:
            return CaseResult(NAME, CATCHES, "skipped", "it ran out of memory", detail=answer.error_text)
        if answer.error or answer.facts:
            reason = f"it raises {answer.error.splitlines()[0]}" if answer.error else answer.facts[0]
            return CaseResult(NAME, CATCHES, "rejected", reason, detail=answer.error_text)
        found: list[Comparison] = []
        with self.lock:
            inputs = made(self.inputs, reference.device)
            for start in range(0, self.batch, self.rows):
                part = _rows(inputs, self.batch, start, start + self.rows)
                evaluation = reference.evaluate(part, state, seed=seed, training=reference.module.training)
                if evaluation.error:
                    return CaseResult(NAME, CATCHES, "skipped", f"the reference itself raises {evaluation.error}")
                found += self._compared(evaluation, answer, start)
                if found[-1].reason:
                    break
        return case_of(NAME, CATCHES, found)

    def _compared(self, evaluation: Evaluation, answer: Answer, start: int) -> list[Comparison]:
        found = []
        for name, truth in evaluation.truths.items():
            leaf = answer.leaves.get(name)
            wanted = (self.batch, *truth.exact.shape[1:])
            if leaf is None or tuple(leaf.shape) != wanted or leaf.dtype != truth.eager.dtype:
                got = "nothing" if leaf is None else f"{tuple(leaf.shape)}, {leaf.dtype}"
                found.append(Comparison(name, reason=f"{name} is {got}, the reference's {wanted}, {truth.eager.dtype}"))
                continue
            judged = compare(leaf[start : start + self.rows].to(truth.exact.device), truth)
            if judged.worst is not None and judged.worst.at:
                at = (judged.worst.at[0] + start, *judged.worst.at[1:])
                judged = replace(judged, worst=replace(judged.worst, at=at))
            found.append(judged)
        return sorted(found, key=lambda comparison: bool(comparison.reason))  # a reason comes last


def make(
    problem: Problem, work: Work, reference: Reference, sample: Evaluation, dtype: str | None, seed: int
) -> Whole | str:
    """The case, or why there is none. sample: the reference's side of a case at smaller sizes. seed: of the inputs."""
    kind = reference.device.type
    if work.elements > MOST_ELEMENTS[kind] or work.flops > MOST_FLOPS[kind]:
        return "the truth would take too long"
    if why := _dependent(reference, sample):
        return why
    abstract = problem.abstract(device=str(reference.device), dtype=dtype)
    batch = _batch(abstract.inputs)
    with abstract.mode, fakes.quiet_logs(), torch.no_grad():
        outputs = [(tuple(leaf.shape), leaf.nbytes) for leaf in flatten(abstract.model(*abstract.inputs))[0].values()]
    if batch is None or any(shape[:1] != (batch,) for shape, _ in outputs):
        return "there is no batch to slice it along"
    rows = max(1, min(batch, SLICE_ELEMENTS[kind] * batch // max(1, work.elements)))
    free, _ = memory.free_memory(reference.device)
    given = sum(leaf.nbytes for leaf in tensors(abstract.inputs))
    result = sum(size for _, size in outputs)
    peak = problem.footprint(device=str(reference.device), dtype=dtype).peak
    needed = given + peak + SLICE_BYTES * max(1, work.elements * rows // batch)
    host, _ = memory.free_memory(torch.device("cpu"))
    if needed > free or 2 * result > host:
        return f"{memory.readable(needed)} needed, {memory.readable(free)} free"
    try:
        inputs = _drawn_where_floating(problem, abstract.inputs, reference.device, dtype, seed)
    except ModelnewError as error:
        return error.problem
    return Whole(problem, inputs, batch, rows, result, threading.Lock())


def _dependent(reference: Reference, sample: Evaluation) -> str:
    """Why the rows of a batch cannot be judged by themselves; empty where they can."""
    setting = sample.setting
    if setting is None or setting.draws.recorded or sample.answer.state:
        return "its rows depend on each other, or on chance"
    batch = _batch(setting.inputs)
    if batch is None or batch < 2 or any(truth.exact.shape[:1] != (batch,) for truth in sample.truths.values()):
        return "there is no batch to slice it along"
    half = batch // 2
    part = replace(setting, inputs=_rows(setting.inputs, batch, 0, half), draws=Draws())
    try:
        found = reference.run(part, Wide())
    except Exception:  # sizes that forward does not take
        return "its rows cannot be computed by themselves"
    for name, truth in sample.truths.items():
        wanted, got = truth.exact[:half].double(), found[name].double()
        finite = wanted.isfinite() & got.isfinite()
        if got.shape != wanted.shape or rms((got - wanted)[finite]) > ALIKE * rms(wanted[finite]):
            return "its rows depend on each other"
    return ""


def _batch(inputs: Sequence[Any]) -> int | None:
    """The size of dim 0 that all tensors with dims share; None where they share none."""
    sizes = {int(tensor.shape[0]) for tensor in flat(inputs) if tensor.dim()}
    return sizes.pop() if len(sizes) == 1 else None


def _rows(inputs: list[Any], batch: int, start: int, stop: int) -> list[Any]:
    """Those rows in memory of their own: what runs on them copies whole storages."""
    part: list[Any] = copy_tree(inputs, lambda t: t[start:stop].clone() if t.dim() and t.shape[0] == batch else t)
    return part


def _drawn_where_floating(
    problem: Problem, fake: list[Any], device: torch.device, dtype: str | None, seed: int
) -> list[Any]:
    """A `Drawn` for each floating tensor; what else the file makes as it makes it, on the CPU."""
    draw = random.Random(seed)

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return Drawn(tuple(map(int, value.shape)), value.dtype, draw.getrandbits(62))
        return copy_tree(value, lambda tensor: tensor.cpu())

    if all(isinstance(value, torch.Tensor) and value.is_floating_point() for value in fake):
        return [one(value) for value in fake]  # nothing of their size needs to be made
    return [
        one(value) for value in fakes.made_on(device, lambda: problem.inputs(device=device, dtype=dtype, seed=seed))
    ]


def made(inputs: list[Any], device: torch.device) -> list[Any]:
    """The inputs as tensors on `device`."""
    return [
        value.on(device) if isinstance(value, Drawn) else copy_tree(value, lambda tensor: tensor.to(device))
        for value in inputs
    ]
