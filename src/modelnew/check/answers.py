"""One answer of a candidate beside the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from modelnew.check.cases import Case
from modelnew.check.observe import WRITTEN, Answer
from modelnew.check.report import CaseResult, case_of
from modelnew.check.truth import STATE, Evaluation
from modelnew.check.verdict import Truth, compare
from modelnew.targets import dtype_text


def result(case: Case, evaluation: Evaluation, answer: Answer, state: Mapping[str, torch.Tensor]) -> CaseResult:
    """The verdict on one answer. state: the parameters and buffers before the call."""

    def verdict(outcome: Any, reason: str, detail: str = "") -> CaseResult:
        return CaseResult(case.name, case.catches, outcome, reason, detail=detail)

    if evaluation.error:
        return verdict("skipped", f"the reference itself raises {_first_line(evaluation.error)}")
    if case.far and any(_overflows(truth) for truth in evaluation.truths.values()):
        return verdict("skipped", "the reference leaves the range of its dtype")
    if answer.error:
        reason = f"it raises {_first_line(answer.error)}"
        return verdict("refused" if case.may_refuse else "rejected", reason, answer.error_text)
    if why := _different_form(answer, evaluation.answer, case.layout):
        return verdict("rejected", why)
    if facts := [fact for fact in answer.facts if fact not in evaluation.facts]:
        return verdict("rejected", min(facts, key=lambda fact: fact.endswith(WRITTEN)))  # that it is changed says more
    comparisons = [
        compare(_value(name, answer, state).to(truth.exact.device), truth) for name, truth in evaluation.truths.items()
    ]
    return case_of(case.name, case.catches, comparisons) if comparisons else verdict("accepted", "")


def _overflows(truth: Truth) -> bool:
    """Whether eager is not finite somewhere where the truth is."""
    return truth.sigma is not None and bool((truth.exact.isfinite() & ~truth.eager.isfinite()).any())


def _value(name: str, answer: Answer, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if not name.startswith(STATE):
        return answer.leaves[name]
    key = name.removeprefix(STATE)
    return answer.state[key] if key in answer.state else state[key]


def _different_form(answer: Answer, expected: Answer, any_strides: bool) -> str:
    if answer.structure != expected.structure:
        return f"it returns {answer.structure}, the reference {expected.structure}"
    for name, leaf in answer.leaves.items():
        if why := _mismatch(name, leaf, answer, expected, any_strides):
            return why
    missing = [name for name in expected.leaves if name not in answer.leaves]
    if missing:
        return f"it does not return {missing[0]}, the reference does"
    for name, value in answer.state.items():
        if name in expected.state and (value.shape, value.dtype) != (
            expected.state[name].shape,
            expected.state[name].dtype,
        ):
            return f"the call changes the form of {name}"
    extra = [name for name in answer.state if name not in expected.state]
    return f"the call changes {extra[0]}, which the reference leaves as it is" if extra else ""


def _mismatch(name: str, leaf: torch.Tensor, answer: Answer, expected: Answer, any_strides: bool) -> str:
    wanted = expected.leaves.get(name)
    if wanted is None:
        return f"it returns {name}, the reference does not"
    if leaf.shape != wanted.shape:
        return f"{name} has shape {tuple(leaf.shape)}, the reference's {tuple(wanted.shape)}"
    if leaf.dtype != wanted.dtype:
        return f"{name} is {dtype_text(leaf.dtype)}, the reference's {dtype_text(wanted.dtype)}"
    if answer.devices[name] != expected.devices[name]:
        return f"{name} is on {answer.devices[name]}, the reference's on {expected.devices[name]}"
    if (
        not any_strides
        and leaf.numel()
        and _dense(leaf, expected.strides[name])
        and not _dense(leaf, answer.strides[name])
    ):
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


def _first_line(error: str) -> str:
    return (error.splitlines() or [error])[0][:300]
