"""The acceptance rule: is an answer within the noise that honest arithmetic makes around the float64 truth?

There is no absolute or relative tolerance and no table per op. For a floating output, with t the truth, b eager's
answer in the working dtype, sigma the rms deviation of the Monte-Carlo runs from t, and u the unit roundoff:

    E    = max(rms(sigma), rms(b - t), u/2 · rms(t))
    r    = rms(a - t) / E                                                   accepted up to 8
    rmax = max |a - t| / (sigma + |b - t| + E/10 + 2u|t|)                   accepted up to 300
    r of every slice along every dim                                        accepted up to 32

Infinities and nan must be where the truth, or eager, has them. Integer and bool outputs must be equal wherever the runs
agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

from modelnew.check.noise import UNIT

RMS_LIMIT = 8.0
MAX_LIMIT = 300.0
SLICE_LIMIT = 4 * RMS_LIMIT
NOISE_LIMIT = 1e-3  # of rms(sigma) over the spread of the truth, in fp32: above it nothing can be said
UNSTABLE_LIMIT = 0.01  # share of a discrete output that may depend on rounding before nothing can be said


@dataclass(frozen=True)
class Truth:
    """One output of the reference.

    exact: float64 for a floating output, otherwise the reference's own integers or bools. eager: in the working dtype.
    sigma: rms deviation of the noisy runs from `exact` (float64, inf where a run was not finite), or None where it is
    not floating.
    unstable: elements of a discrete output on which runs disagree. integral: the run did nothing but sums and products.
    """

    name: str
    exact: torch.Tensor
    eager: torch.Tensor
    sigma: torch.Tensor | None
    unstable: torch.Tensor | None
    integral: bool = False
    coarsest: float = 0.0  # unit roundoff of the coarsest arithmetic that is allowed

    @property
    def unit(self) -> float:
        return UNIT[self.eager.dtype]

    @cached_property
    def clean(self) -> bool:
        """Whether truth, eager and noise are finite everywhere: then no element needs leaving out."""
        assert self.sigma is not None
        return all_finite(self.exact) and all_finite(self.eager) and all_finite(self.sigma)

    @cached_property
    def steady(self) -> torch.Tensor | None:
        """Where truth, eager and the noisy runs are finite; None for everywhere."""
        assert self.sigma is not None
        if self.clean:
            return None
        return self.exact.isfinite() & self.eager.isfinite() & self.sigma.isfinite()

    @cached_property
    def deviation(self) -> torch.Tensor:
        """|b - t|, 0 outside the steady elements."""
        return kept((self.eager.to(torch.float64) - self.exact).abs_(), self.steady)

    @cached_property
    def envelope(self) -> float:
        """E, over the steady elements."""
        assert self.sigma is not None
        levels = (
            rms(self.sigma, self.steady),
            rms(self.deviation, self.steady),
            self.unit / 2 * rms(self.exact, self.steady),
        )
        return max(*levels, smallest(self.eager.dtype))

    @cached_property
    def noise(self) -> float:
        """rms(sigma) over the spread of the truth's elements, or over their size where they hardly differ."""
        assert self.sigma is not None
        level = rms(self.sigma, self.steady)
        t = self.exact if self.steady is None else self.exact[self.steady]
        if not t.numel() or not level:
            return 0.0
        size, spread = rms(t), float(t.std(correction=0))
        return level / (spread if spread > 1e-3 * size else max(size, smallest(self.eager.dtype)))


@dataclass(frozen=True)
class Worst:
    """The element that is furthest out."""

    at: tuple[int, ...]
    got: float
    truth: float
    eager: float


@dataclass(frozen=True)
class Comparison:
    """How one output compares. `reason` is empty when it is accepted. `error`, `eager_error`: rms deviations from the
    truth.
    """

    name: str
    reason: str = ""
    undecided: str = ""
    r: float = 0.0
    rmax: float = 0.0
    error: float = 0.0
    eager_error: float = 0.0
    worst: Worst | None = None


def rms(x: torch.Tensor, where: torch.Tensor | None = None) -> float:
    """Root mean square of the elements, or of those where `where` is True; 0 for none."""
    x = x if where is None else x[where]
    return float(torch.linalg.vector_norm(x)) / math.sqrt(x.numel()) if x.numel() else 0.0


def kept(x: torch.Tensor, where: torch.Tensor | None) -> torch.Tensor:
    """`x` with 0 where `where` is False."""
    return x if where is None else torch.where(where, x, 0.0)


def all_finite(x: torch.Tensor) -> bool:
    """A sum is several times cheaper than a test of every element, and is made only where it does not settle it."""
    return bool(x.sum().isfinite()) or bool(x.isfinite().all())


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive number of a floating dtype: below it an error has no size."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def compare(got: torch.Tensor, truth: Truth) -> Comparison:
    """Judge one output; shape and dtype are known to match."""
    if truth.sigma is None:
        return _compare_discrete(got, truth)
    bad_class = _compare_classes(got, truth)
    if bad_class is not None:
        return bad_class
    coarse = max(truth.unit, truth.coarsest) / UNIT[torch.float32]
    limit = min(0.03, NOISE_LIMIT * coarse) if coarse > 1 else NOISE_LIMIT
    if (noise := truth.noise) > limit:
        return Comparison(truth.name, undecided=f"rounding alone moves the reference by {noise:.1%} of its own spread")
    return _compare_values(got, truth)


def _at(flat: int, like: torch.Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), like.shape)) if like.dim() else ()


def _worst(score: torch.Tensor, got: torch.Tensor, truth: Truth) -> Worst:
    flat = int(score.flatten().argmax())
    values = (float(x.flatten()[flat]) for x in (got, truth.exact, truth.eager))
    return Worst(_at(flat, got), *values)


def _compare_discrete(got: torch.Tensor, truth: Truth) -> Comparison:
    assert truth.unstable is not None
    wrong = (got != truth.exact) & ~truth.unstable
    share = float(truth.unstable.double().mean()) if got.numel() else 0.0
    count = int(wrong.sum())
    if count:
        return Comparison(
            truth.name,
            reason=f"{count} of {got.numel()} values differ",
            worst=_worst(wrong.to(torch.uint8), got, truth),
        )
    if share > UNSTABLE_LIMIT:
        return Comparison(truth.name, undecided=f"{share:.0%} of its values depend on rounding")
    return Comparison(truth.name)


def _kind(x: torch.Tensor) -> torch.Tensor:
    """0 finite, 1 nan, 2 +inf, 3 -inf."""
    return x.isnan().to(torch.int8) + 2 * x.isposinf().to(torch.int8) + 3 * x.isneginf().to(torch.int8)


def _compare_classes(got: torch.Tensor, truth: Truth) -> Comparison | None:
    """nan and infinities: where the truth has them, or where eager has them because the dtype is too narrow for the
    truth.
    """
    if truth.clean and all_finite(got):
        return None
    kind, exact, eager = _kind(got), _kind(truth.exact), _kind(truth.eager)
    wrong = (kind != exact) & ~((kind == eager) & (eager != 0))
    if not bool(wrong.any()):
        return None
    worst = _worst(wrong.to(torch.uint8), got, truth)
    words = ("a finite value", "nan", "inf", "-inf")
    flat = int(wrong.to(torch.uint8).flatten().argmax())
    found, wanted = words[int(kind.flatten()[flat])], words[int(exact.flatten()[flat])]
    return Comparison(truth.name, reason=f"{found} where the truth is {wanted}", r=math.inf, rmax=math.inf, worst=worst)


def _compare_values(got: torch.Tensor, truth: Truth) -> Comparison:
    assert truth.sigma is not None
    steady = truth.steady
    if not all_finite(got):
        steady = got.isfinite() if steady is None else steady & got.isfinite()
    error = kept((got.to(torch.float64) - truth.exact).abs_(), steady)
    sigma, t = kept(truth.sigma, steady), kept(truth.exact, steady)
    exact_integers = truth.integral and not bool(truth.deviation.any())
    scale = truth.envelope
    size = rms(error, steady)
    local = (sigma + truth.deviation).add_(t.abs(), alpha=2 * truth.unit).add_(scale / 10)
    ratio = error / local
    r, rmax = size / scale, float(ratio.max()) if ratio.numel() else 0.0
    reason = ""
    if exact_integers and bool(error.any()):
        reason = "whole numbers that eager gets exactly right are not exact"
    elif r > RMS_LIMIT:
        reason = f"rms error {r:.3g} × the noise of honest arithmetic (limit {RMS_LIMIT:g})"
    elif rmax > MAX_LIMIT:
        reason = f"one element is off by {rmax:.3g} × its noise (limit {MAX_LIMIT:g})"
    else:
        reason = _slices(error, sigma, truth.deviation, t, scale, truth.unit)
    return Comparison(
        truth.name,
        reason=reason,
        r=r,
        rmax=rmax,
        error=size,
        eager_error=rms(truth.deviation, steady),
        worst=_worst(ratio, got, truth) if got.numel() else None,
    )


def _slices(
    error: torch.Tensor, sigma: torch.Tensor, eager_error: torch.Tensor, t: torch.Tensor, scale: float, unit: float
) -> str:
    """One bad tile, row or channel in a large output moves the overall rms little: every slice along every dim is
    judged too.
    """
    for dim in range(error.dim()):
        others = [d for d in range(error.dim()) if d != dim]
        if error.shape[dim] < 2 or not others or error.numel() == error.shape[dim]:
            continue
        count = error.numel() / error.shape[dim]
        top, low_sigma, low_eager, low_truth = (
            torch.linalg.vector_norm(x, dim=others).div_(math.sqrt(count)) for x in (error, sigma, eager_error, t)
        )
        floor = torch.maximum(torch.maximum(low_sigma, low_eager), low_truth * (unit / 2)).clamp_min(scale / 10)
        ratio = top / floor
        if float(ratio.max()) > SLICE_LIMIT:
            index = int(ratio.argmax())
            return f"slice {index} of dim {dim} is off by {float(ratio.max()):.3g} × its noise (limit {SLICE_LIMIT:g})"
    return ""
