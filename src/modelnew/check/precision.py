"""What lower precision would look like here: names the class of a candidate's error, and grants one openly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from modelnew.check.noise import PRODUCTS, op_name
from modelnew.check.truth import Evaluation, Reference
from modelnew.check.verdict import rms
from modelnew.check.wide import Draws, Wide, chunked, combine_bias, split_product, widen
from modelnew.errors import UsageError
from modelnew.targets import dtype_text

UNITS = {"tf32": 2.0**-11, "fp16": 2.0**-11, "bf16": 2.0**-8}  # unit roundoff of a product's inputs
COARSER = 4.0  # times eager's error: below it a precision cannot be told from the dtype's own
NEAR = math.log(6.0)  # how far, as a ratio, a candidate's error may be from that of a class it is named after

Round = Callable[[torch.Tensor], torch.Tensor]


def product_unit(precision: str | None) -> float:
    """The unit roundoff that `precision` allows to the inputs of products; 0 for None. Raises UsageError."""
    if precision is None:
        return 0.0
    if precision not in UNITS:
        raise UsageError(f"there is no precision {precision!r}", hint=f"Choose one of {', '.join(UNITS)}.")
    return UNITS[precision]


def _tf32(x: torch.Tensor) -> torch.Tensor:
    bits = x.to(torch.float32).view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).to(torch.float64)


def _through(dtype: torch.dtype) -> Round:
    return lambda x: x.to(dtype).to(torch.float64)


CLASSES: tuple[tuple[str, Round, bool], ...] = (  # name, rounding, whether every result is rounded too
    ("TF32-like", _tf32, False),
    ("fp16-like", _through(torch.float16), False),
    ("bf16-like", _through(torch.bfloat16), False),
    ("fp16-like", _through(torch.float16), True),
    ("bf16-like", _through(torch.bfloat16), True),
)
OWN: tuple[str, Round | None, bool] = ("", None, False)  # the dtype's own


class Emulate(Wide):
    """Float64 but for the inputs of products, and, with `everything`, all results."""

    def __init__(self, rounding: Round, everything: bool, draws: Draws) -> None:
        super().__init__(draws)
        self.rounding = rounding
        self.everything = everything

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        if op_name(func) in PRODUCTS:
            args = [self._rounded(arg) for arg in args]
        out = func(*args, **kwargs)
        return self._rounded(out) if self.everything and not func.is_view else out

    def product(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        bias, a, b = split_product(func, args)
        out = chunked(torch.mm, self.rounding(widen(a)), b, self.rounding)
        return combine_bias(bias, out, kwargs)

    def _rounded(self, value: Any) -> Any:
        return self.rounding(value) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def nearest(reference: Reference, answers: Sequence[tuple[Evaluation, float]]) -> str:
    """The precision whose errors are like a candidate's in every case; empty where none is.

    answers: the reference's side of some cases, with the candidate's ratio r in each.
    """
    best, distance = "", NEAR
    for name, rounding, everything in (OWN, *CLASSES):
        apart = [_apart(reference, evaluation, r, rounding, everything) for evaluation, r in answers]
        if max(apart, default=math.inf) < distance:
            best, distance = name or dtype_text(reference.dtype), max(apart)
    return best


def _apart(reference: Reference, evaluation: Evaluation, r: float, rounding: Round | None, everything: bool) -> float:
    """How far the candidate's error is from that of a precision, as the logarithm of a ratio."""
    setting = evaluation.setting
    truths = {name: truth for name, truth in evaluation.truths.items() if truth.sigma is not None}
    if setting is None or not truths:
        return math.inf
    error = r * max(truth.envelope for truth in truths.values())
    own = max(max(rms(t.deviation, t.steady), t.unit / 2 * rms(t.exact, t.steady)) for t in truths.values())
    theirs = own
    if rounding is not None:
        found = reference.run(setting, Emulate(rounding, everything, setting.draws.rewind()))
        theirs = max(rms(found[leaf] - truth.exact, truth.steady) for leaf, truth in truths.items())
        if not COARSER * own < theirs < math.inf:
            return math.inf
    return abs(math.log(error / theirs)) if error > 0 and theirs > 0 else math.inf
