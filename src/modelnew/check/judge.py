"""One reference and the cases it is judged on; any number of candidates."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from modelnew.check import cases as makers
from modelnew.check.cases import Case
from modelnew.check.generators import GENERATORS, Generator, redraw
from modelnew.check.observe import Answer, same
from modelnew.check.report import CaseResult, Report, case_of, headline
from modelnew.check.truth import Evaluation, Reference
from modelnew.check.verdict import compare, rms
from modelnew.targets import dtype_text

MOVES = 1e-4  # relative change of the output below which the inputs do not matter


class Candidate(Protocol):
    """What is judged: a file in a process of its own, or a live module."""

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Answer: ...

    def call(
        self, inputs: list[Any], *, seed: int, poison: bool, training: bool | None = None, reuse: bool = False
    ) -> Answer: ...


class Source(Protocol):
    """Where the inputs come from."""

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        """CPU tensors; None where the generator changes nothing."""
        ...


class Judge:
    """Holds the reference, its cases and their truths, so that several candidates share them."""

    def __init__(self, reference: Reference, source: Source, *, seed: int, progress: Callable[[str], None]) -> None:
        self.reference = reference
        self.progress = progress
        self.seed = seed
        self.training = reference.module.training
        draw = random.Random(seed)
        self.call_seed = draw.getrandbits(31)  # known to the candidate's process: unrelated to the inputs
        shipped = reference.state()
        self.states = {
            "shipped": shipped,
            "redrawn": redraw(shipped, draw.getrandbits(62)),
            "integers": redraw(shipped, draw.getrandbits(62), integral=True),
        }
        self.cases = list(self._cases(source, draw))
        self._evaluations: dict[str, Evaluation] = {}

    def _cases(self, source: Source, draw: random.Random) -> Iterator[Case]:
        shipped = normal = None
        for generator in GENERATORS:
            inputs = source.inputs(generator, draw.getrandbits(62))
            if inputs is None:
                continue
            state = "shipped" if generator.fill is None else ("integers" if generator.integral else "redrawn")
            if generator.fill is None:
                shipped = inputs
            if generator.name == "normal":
                normal = inputs
            yield Case(generator.name, generator.catches, inputs, state, self.training)
        assert shipped is not None
        base = normal if normal is not None else shipped
        base_case = "normal" if normal is not None else ""
        if _mode_matters(self.reference.module):
            yield Case(
                "other mode", "kernels that fold what only holds in one mode", base, "redrawn", not self.training
            )
        for name, inputs in makers.resized(self.reference.module, base, draw.getrandbits(62)):
            yield Case(
                name,
                "sizes built into the code, tails, empty blocks",
                inputs,
                "redrawn",
                self.training,
                may_refuse=True,
            )
        for name, inputs in makers.layouts(base):
            yield Case(
                name,
                "strides and alignment that the code takes for granted",
                inputs,
                "redrawn",
                self.training,
                True,
                base_case,
            )
        if (spread := makers.expanded(base)) is not None:
            yield Case("expanded rows", "strides of 0", spread, "redrawn", self.training, may_refuse=True)
        special = makers.with_specials(base, draw.getrandbits(62))
        yield Case("special values", "nan, infinities, -0 and subnormal numbers", special, "redrawn", self.training)

    def evaluation(self, case: Case) -> Evaluation:
        if case.name not in self._evaluations:
            self.progress(f"truth: {case.name}")
            like = next((self.evaluation(other) for other in self.cases if other.name == case.same_values), None)
            self._evaluations[case.name] = self.reference.evaluate(
                case.inputs, self.states[case.state], seed=self.call_seed, training=case.training, like=like
            )
        return self._evaluations[case.name]

    def vacuous(self) -> str:
        """Why nothing can be learnt from this reference, or nothing."""
        found = [self.evaluation(case) for case in self.cases if case.state == "redrawn" and case.name in _GENERATED]
        for name in found[0].truths if found else ():
            values = [item.truths[name].exact for item in found if name in item.truths]
            if len(values) > 1 and values[0].is_floating_point() and not _moves(values):
                return f"the reference's {name} does not depend on its inputs"
        return ""

    def judge(self, candidate: Candidate) -> Iterator[CaseResult]:
        """Results, case by case. Raises what the candidate raises for a process that is gone."""
        loaded = ""
        first: tuple[Case, Answer] | None = None
        for case in self.cases:
            if case.state != loaded:
                answer = candidate.load_state(self.states[case.state])
                if answer.error:
                    yield CaseResult(
                        case.name, case.catches, "rejected", f"the parameters cannot be loaded: {answer.error}"
                    )
                    return
                loaded = case.state
            self.progress(f"candidate: {case.name}")
            answer = candidate.call(case.inputs, seed=self.call_seed, poison=True, training=case.training)
            evaluation = self.evaluation(case)
            yield result(case, evaluation, answer, self.states[case.state])
            if case.name == "shipped" and not answer.error:
                first = case, answer
            loaded = "" if answer.state or evaluation.answer.state else loaded  # it was changed by the call
        if first is not None:
            yield from self._conduct(candidate, *first)

    def _conduct(self, candidate: Candidate, case: Case, first: Answer) -> Iterator[CaseResult]:
        """How the candidate behaves from call to call."""
        other = next((item for item in self.cases if item.name == "normal"), None)
        expected = self.evaluation(case)
        candidate.load_state(self.states[case.state])
        again = candidate.call(case.inputs, seed=self.call_seed, poison=False, training=case.training)
        yield self._repeated(
            "again, other memory", "results left in memory, races, answers that wear out", case, expected, first, again
        )
        if other is not None:
            candidate.load_state(self.states[other.state])
            candidate.call(case.inputs, seed=self.call_seed, poison=True, training=other.training)
            candidate.load_state(self.states[other.state])
            moved = candidate.call(other.inputs, seed=self.call_seed, poison=True, training=other.training, reuse=True)
            catches = "answers remembered by address or version"
            renamed = Case("new values, same address", catches, other.inputs, other.state, other.training)
            yield result(renamed, self.evaluation(other), moved, self.states[other.state])

    def _repeated(
        self, name: str, catches: str, case: Case, expected: Evaluation, first: Answer, again: Answer
    ) -> CaseResult:
        renamed = Case(name, catches, case.inputs, case.state, case.training)
        found = result(renamed, expected, again, self.states[case.state])
        if found.outcome == "accepted" and any(not same(first.leaves[key], again.leaves[key]) for key in first.leaves):
            return CaseResult(**{**vars(found), "detail": "not the same bits twice"})
        return found


_GENERATED = {generator.name for generator in GENERATORS}


def result(case: Case, evaluation: Evaluation, answer: Answer, state: Mapping[str, torch.Tensor]) -> CaseResult:
    """The verdict on one answer. state: the parameters and buffers before the call."""

    def verdict(outcome: Any, reason: str, detail: str = "") -> CaseResult:
        return CaseResult(case.name, case.catches, outcome, reason, detail=detail)

    if evaluation.error:
        return verdict("skipped", f"the reference itself raises {_short(evaluation.error)}")
    if answer.error:
        return verdict(
            "refused" if case.may_refuse else "rejected", f"it raises {_short(answer.error)}", answer.error_text
        )
    if answer.structure != evaluation.answer.structure:
        return verdict("rejected", f"it returns {answer.structure}, the reference {evaluation.answer.structure}")
    for name, leaf in answer.leaves.items():
        if why := _mismatch(name, leaf, answer, evaluation.answer):
            return verdict("rejected", why)
    if facts := [fact for fact in answer.facts if fact not in evaluation.facts]:
        return verdict("rejected", facts[0])
    extra = [name for name in answer.state if name not in evaluation.answer.state]
    if extra:
        return verdict("rejected", f"the call changes {extra[0]}, which the reference leaves as it is")
    comparisons = [
        compare(_value(name, answer, state).to(truth.exact.device), truth) for name, truth in evaluation.truths.items()
    ]
    return case_of(case.name, case.catches, comparisons) if comparisons else verdict("accepted", "")


def _value(name: str, answer: Answer, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if not name.startswith("state "):
        return answer.leaves[name]
    key = name[len("state ") :]
    return answer.state[key] if key in answer.state else state[key]


def _moves(values: list[torch.Tensor]) -> bool:
    base = values[0]
    size = rms(base[base.isfinite()])
    for value in values[1:]:
        if value.shape != base.shape:
            return True
        keep = base.isfinite() & value.isfinite()
        if rms((value - base)[keep]) > MOVES * size or not torch.equal(base.isfinite(), value.isfinite()):
            return True
    return False


def _mode_matters(module: nn.Module) -> bool:
    kinds = (
        nn.modules.batchnorm._BatchNorm,
        nn.modules.dropout._DropoutNd,
        nn.RNNBase,
        nn.modules.instancenorm._InstanceNorm,
    )
    return any(isinstance(part, kinds) for part in module.modules())


def _mismatch(name: str, leaf: torch.Tensor, answer: Answer, expected: Answer) -> str:
    wanted = expected.leaves.get(name)
    if wanted is None:
        return f"it returns {name}, the reference does not"
    if leaf.shape != wanted.shape:
        return f"{name} has shape {tuple(leaf.shape)}, the reference's {tuple(wanted.shape)}"
    if leaf.dtype != wanted.dtype:
        return f"{name} is {dtype_text(leaf.dtype)}, the reference's {dtype_text(wanted.dtype)}"
    if answer.devices[name] != expected.devices[name]:
        return f"{name} is on {answer.devices[name]}, the reference's on {expected.devices[name]}"
    if _dense(leaf, expected.strides[name]) and not _dense(leaf, answer.strides[name]):
        strides = f"{answer.strides[name]}, the reference's {expected.strides[name]}"
        return f"{name} has strides {strides}: view() on it would fail"
    return ""


def _dense(leaf: torch.Tensor, strides: tuple[int, ...]) -> bool:
    step = 1
    for size, stride in reversed(list(zip(leaf.shape, strides, strict=True))):
        if size > 1 and stride != step:
            return False
        step *= max(1, size)
    return True


def _short(error: str) -> str:
    lines = error.splitlines()
    return lines[0][:300] if lines else error


def conclude(
    judge: Judge,
    results: tuple[CaseResult, ...],
    *,
    candidate: str,
    reference: str,
    started: float,
    sizes: dict[str, int],
    notes: tuple[str, ...] = (),
    kernels: dict[str, int] | None = None,
) -> Report:
    """The report over all cases."""
    undecidable = ""
    accepted: bool | None = not any(case.outcome == "rejected" for case in results)
    judged = sum(case.outcome == "accepted" for case in results)
    undecided = [case for case in results if case.outcome == "undecided"]
    if accepted and (vacuous := judge.vacuous()):
        accepted, undecidable = None, vacuous
    elif accepted and len(undecided) >= max(1, judged):
        accepted, undecidable = None, f"{undecided[0].reason} (case {undecided[0].name!r})"
    elif accepted and not judged:
        accepted, undecidable = None, results[0].reason if results else "there was no case to judge"
    return Report(
        candidate=candidate,
        reference=reference,
        accepted=accepted,
        headline=headline(results, accepted, undecidable),
        cases=results,
        accuracy_class="",
        seed=judge.seed,
        device=str(judge.reference.device),
        dtype=dtype_text(judge.reference.dtype),
        sizes=sizes,
        notes=(*notes, *judge.reference.notes),
        kernels=kernels or {},
        seconds=time.monotonic() - started,
    )
