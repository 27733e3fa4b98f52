"""One reference and the cases it is judged on; any number of candidates."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import torch

from modelnew.check import mutants
from modelnew.check.answers import result
from modelnew.check.cases import Case, Cases, Source, one_by_one, one_value, same_forms
from modelnew.check.diagnose import explain
from modelnew.check.generators import GENERATORS, redraw
from modelnew.check.literals import ranked
from modelnew.check.observe import Answer, same
from modelnew.check.precision import nearest
from modelnew.check.report import CaseResult
from modelnew.check.toolchain import fault
from modelnew.check.truth import STATE, Evaluation, Reference, put
from modelnew.check.verdict import RMS_LIMIT, rms
from modelnew.progress import Progress
from modelnew.targets import dtype_text

MOST_OF_REFERENCE, MOST_OF_CANDIDATE = 6, 12  # sizes that are tried around the numbers of their sources
SURROUNDINGS = {"recorded by autograd": "autograd", "frozen parameters": "frozen", "inference mode": "inference_mode"}
FEW_RUNS = 2  # of the noise at other sizes: it is as large there as where more of them measured it
MOVES = 1e-4  # relative change of the output below which the inputs do not matter


class Candidate(Protocol):
    """What is judged: a file in a process of its own, or a live module. name: what progress calls it."""

    name: str

    def load_state(self, state: Mapping[str, torch.Tensor], *, in_place: bool = False) -> Answer: ...

    def another(self, state: Mapping[str, torch.Tensor]) -> Answer | None: ...

    def call(
        self,
        inputs: list[Any],
        *,
        seed: int,
        poison: bool,
        training: bool,
        reuse: bool = False,
        gradients: bool = False,
        late: bool = False,
        quiet: bool = False,
        under: str = "no_grad",
    ) -> Answer: ...


class Judge:
    """Holds the reference, its cases and their truths, so that several candidates share them."""

    def __init__(
        self,
        reference: Reference,
        source: Source,
        *,
        seed: int,
        progress: Progress,
        gradients: bool = False,
    ) -> None:
        self.reference = reference
        self.source = source
        self.progress = progress
        self.seed = seed
        draw = random.Random(seed)
        self.call_seed = draw.getrandbits(31)  # known to the candidate's process: unrelated to the inputs
        shipped = reference.state()
        self.states = {
            "shipped": shipped,
            "redrawn": redraw(shipped, draw.getrandbits(62)),
            "integers": redraw(shipped, draw.getrandbits(62), integral=True),
        }
        self._maker = Cases(reference, source, draw, gradients)
        self.cases = list(self._maker.all())
        decided = [self._maker.resizer.decisions(), *ranked(source.text)[:1]]
        self.cases += self._maker.at_boundaries(decided, MOST_OF_REFERENCE, draw)
        reference.settle(self.cases[0].inputs)
        normal = self._named("normal")
        self.steps: list[Case] = []
        if normal is not None:
            again = random.Random(seed)
            self.steps = [*one_value(normal, again), *one_by_one(normal, self.cases[0].inputs, again)]
        self._evaluations: dict[str, Evaluation] = {}
        self._reference_in_use = threading.RLock()  # candidates may be judged side by side

    def evaluation(self, case: Case) -> Evaluation:
        """The reference's side of a case, found once."""
        with self._reference_in_use:
            if case.name not in self._evaluations:
                self.progress(f"truth: {case.name}")
                like = next((self.evaluation(other) for other in self.cases if other.name == case.same_values), None)
                reference = self.reference.with_gradients() if case.gradients else self.reference
                reference = reference.with_runs(FEW_RUNS) if case.few_runs else reference
                self._evaluations[case.name] = reference.evaluate(
                    case.inputs, self.states[case.state], seed=self.call_seed, training=case.training, like=like
                )
            return self._evaluations[case.name]

    def boundaries(self, text: str) -> list[Case]:
        """Further cases for a candidate: sizes around the numbers in its source."""
        with self._reference_in_use:
            named = {case.name for case in self.cases}
            found = self._maker.at_boundaries(ranked(text), MOST_OF_CANDIDATE, random.Random(self.seed))
            return [case for case in found if case.name not in named]

    def judge(self, candidate: Candidate, text: str = "") -> Iterator[CaseResult]:
        """Results, case by case. text: the candidate's source. Raises what the candidate raises for a process that is
        gone."""
        loaded = ""
        first: Answer | None = None
        for case in [*self.cases, *self.boundaries(text)]:
            if case.state != loaded:
                answer = candidate.load_state(self.states[case.state])
                if answer.error:
                    reason = f"the parameters cannot be loaded: {answer.error}"
                    yield CaseResult(case.name, case.catches, "rejected", reason)
                    return
                loaded = case.state
            self.progress(f"{candidate.name}: {case.name}")
            answer = self._call(candidate, case)
            if answer.error and (why := fault(answer.error + answer.error_text)):
                yield CaseResult(case.name, case.catches, "undecided", why, detail=answer.error_text)
                return
            evaluation = self.evaluation(case)
            found = result(case, evaluation, answer, self.states[case.state])
            yield self._explained(found, case, evaluation, answer)
            if case.name == "shipped" and not answer.error:
                first = answer
            if answer.error or answer.state or evaluation.answer.state:
                loaded = ""  # the call changed it, or may have before it failed
        if first is not None:
            yield from self._conduct(candidate, first)

    def _explained(self, found: CaseResult, case: Case, evaluation: Evaluation, answer: Answer) -> CaseResult:
        if found.outcome != "rejected" or case.gradients:
            return found
        with self._reference_in_use:
            put(self.reference.module, self.states[case.state])
            why = explain(self.reference, case, evaluation, answer, self.call_seed)
        return found.because(why) if why else found

    def _call(self, candidate: Candidate, case: Case, *, poison: bool = True, **how: Any) -> Answer:
        how["gradients"] = case.gradients
        return candidate.call(case.inputs, seed=self.call_seed, poison=poison, training=case.training, **how)

    def _conduct(self, candidate: Candidate, first: Answer) -> Iterator[CaseResult]:
        """How the candidate behaves from call to call; `first` is what it answered to the first case."""
        shipped = self.cases[0]
        candidate.load_state(self.states[shipped.state])
        catches = "results left in memory, races, answers that wear out, work that goes on between calls"
        again = shipped.named("again, other memory", catches)
        answer = self._call(candidate, again, poison=False, quiet=True)
        found = result(again, self.evaluation(shipped), answer, self.states[shipped.state])
        if found.outcome == "accepted" and any(not same(first.leaves[key], answer.leaves[key]) for key in first.leaves):
            found = found.noted("not the same bits twice")
        yield found
        if self.reference.device.type == "cuda":
            late = shipped.named("late inputs, own stream", "kernels on another stream, work left there after the call")
            candidate.load_state(self.states[shipped.state])
            answer = self._call(candidate, late, late=True)
            yield result(late, self.evaluation(shipped), answer, self.states[shipped.state])
        if (other := self._named("other parameters")) is not None:
            candidate.load_state(self.states[shipped.state])
            self._call(candidate, shipped)
            candidate.load_state(self.states[other.state], in_place=True)
            written = other.named("parameters changed in place", "the last answer kept, weights packed once")
            answer = self._call(candidate, written, reuse=True)
            yield result(written, self.evaluation(other), answer, self.states[other.state])
            yield from self._beside_another(candidate, shipped, other)
        normal = self._named("normal")
        yield from self._surroundings(candidate, normal or shipped)
        if normal is None or not same_forms(shipped.inputs, normal.inputs):
            return
        candidate.load_state(self.states[normal.state])
        answer = self._call(candidate, Case(shipped.name, "", shipped.inputs, normal.state, shipped.training))
        if answer.state:
            candidate.load_state(self.states[normal.state])
        moved = normal.named("new values, same address", "answers remembered by address or version")
        for case in (moved, *self.steps):
            evaluation = self.evaluation(normal if case is moved else case)
            answer = self._call(candidate, case, reuse=True)
            yield result(case, evaluation, answer, self.states[case.state])
            if answer.state:
                candidate.load_state(self.states[case.state])

    def _beside_another(self, candidate: Candidate, shipped: Case, other: Case) -> Iterator[CaseResult]:
        """The first case again, after a second module of the same class worked with other parameters."""
        case = shipped.named("beside another instance", "weights and answers that all instances share")
        candidate.load_state(self.states[shipped.state])
        second = candidate.another(self.states[other.state])
        if second is None:
            return
        if second.error:
            yield CaseResult(case.name, case.catches, "rejected", f"a second ModelNew raises {second.error}")
            return
        answer = self._call(candidate, case)
        yield result(case, self.evaluation(shipped), answer, self.states[shipped.state])

    def _named(self, name: str) -> Case | None:
        return next((case for case in self.cases if case.name == name), None)

    def _surroundings(self, candidate: Candidate, case: Case) -> Iterator[CaseResult]:
        """The same call where autograd records it, and where it could but need not; not where the reference does otherwise."""
        state, evaluation = self.states[case.state], self.evaluation(case)
        how: Any = {"seed": self.call_seed, "training": case.training, "like": evaluation}
        for name, under in SURROUNDINGS.items():
            with self._reference_in_use:
                if not self.reference.same_under(under, case.inputs, state, **how):
                    continue
            candidate.load_state(state)
            answer = self._call(candidate, case, under=under)
            yield result(case.named(name, "what holds only under no_grad"), evaluation, answer, state)

    @cached_property
    def unsteady(self) -> str:
        """Why no answer can be held against the reference's; empty where it can."""
        shipped = self.cases[0]
        how: Any = {"seed": self.call_seed, "like": self.evaluation(shipped)}
        if self.reference.steady(shipped.inputs, self.states[shipped.state], **how):
            return ""
        return "the reference answers differently to the same inputs, even with the same torch.manual_seed"

    @cached_property
    def vacuous(self) -> str:
        """Why nothing can be learnt from this reference; empty where something can."""
        found = [self.evaluation(case) for case in self._generated() if case.state == "redrawn"]
        # a state that counts calls depends on no inputs, and is compared all the same
        for name in (name for name in found[0].truths if not name.startswith(STATE)) if found else ():
            values = [item.truths[name].exact for item in found if name in item.truths]
            if len(values) > 1 and values[0].is_floating_point() and not _moves(values):
                why = "does not depend on its inputs" if values[0].numel() else "is empty"
                return f"the reference's {name} {why}"
        return ""

    @cached_property
    def unseen(self) -> tuple[int, list[str]]:
        """How many ops of the reference were left out, one at a time, and those whose absence no case shows."""
        self.progress("leaving out ops of the reference")
        special = [case for case in self.cases if case.name == "special values"]
        evaluations = [self.evaluation(case) for case in self._generated() + special]
        return mutants.unseen(self.reference, [item for item in evaluations if not item.error])

    def _generated(self) -> list[Case]:
        names = {generator.name for generator in GENERATORS}
        order = ["normal"]  # the one that shows most comes first
        cases = [case for case in self.cases if case.name in names]
        return sorted(cases, key=lambda case: case.name not in order)

    def accuracy_class(self, results: tuple[CaseResult, ...]) -> str:
        """The precision that the errors look like; empty where they look like none."""
        by_name = {case.name: case for case in self.cases if case.name in ("normal", "wide", "one-hot")}
        judged = [item for item in results if item.name in by_name and item.r > 0]
        if not judged or self.reference.product_unit or any(item.r > RMS_LIMIT for item in judged):
            return nearest(self.reference, [(self.evaluation(by_name[item.name]), item.r) for item in judged])
        return dtype_text(self.reference.dtype)


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
