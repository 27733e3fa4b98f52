"""What a check could have seen: the reference with one op left out, judged like a candidate.

An op whose absence no case notices is one that a candidate could leave out too: the report names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from modelnew.check.noise import op_name
from modelnew.check.truth import Evaluation, Reference
from modelnew.check.verdict import compare
from modelnew.check.wide import Draws, Wide

MOST = 48  # ops that are left out, one at a time
COPIES = frozenset("clone copy _to_copy detach contiguous lift_fresh empty_like _unsafe_view".split())


class Drop(Wide):
    """Float64 with the op at `position` left out: its first operand passes through. Counts what could be left out."""

    def __init__(self, position: int, draws: Draws) -> None:
        super().__init__(draws)
        self.position = position
        self.names: list[str] = []

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        first: Any = args[0] if args else None
        if func.is_view or op_name(func) in COPIES or not _floating(first):
            return func(*args, **kwargs)
        before = first.clone() if func._schema.is_mutable else first
        out = func(*args, **kwargs)
        result = out[0] if isinstance(out, tuple) else out
        if not _floating(result) or result.shape != first.shape or result.dtype != first.dtype:
            return out
        self.names.append(op_name(func))
        if len(self.names) - 1 != self.position:
            return out
        if result is first:
            return first.copy_(before)
        return (before, *out[1:]) if isinstance(out, tuple) else before.clone()


def _floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def unseen(reference: Reference, evaluations: Sequence[Evaluation]) -> tuple[int, list[str]]:
    """How many ops were left out, and those whose absence shows in none of the evaluations."""
    usable = [found for found in evaluations if found.setting is not None and found.truths]
    if not usable:
        return 0, []
    counter = Drop(-1, _draws(usable[0]))
    reference.run(_setting(usable[0]), counter)
    total = min(len(counter.names), MOST)
    missed = [
        f"{counter.names[i]} (op {i + 1} of {len(counter.names)})"
        for i in range(total)
        if not any(_shows(reference, found, i) for found in usable)
    ]
    return total, missed


def _setting(evaluation: Evaluation) -> Any:
    return evaluation.setting


def _draws(evaluation: Evaluation) -> Draws:
    assert evaluation.setting is not None
    return evaluation.setting.draws.rewind()


def _shows(reference: Reference, evaluation: Evaluation, position: int) -> bool:
    try:
        found = reference.run(_setting(evaluation), Drop(position, _draws(evaluation)))
    except Exception:  # without the op the model does not even run
        return True
    for name, truth in evaluation.truths.items():
        if found[name].shape != truth.exact.shape:
            return True
        if compare(found[name].to(truth.eager.dtype), truth).reason:
            return True
    return False
