"""The acceptance rule on answers whose error is known."""

import math

import pytest
import torch

from modelnew.check.noise import Noise, Pool
from modelnew.check.report import CaseResult, headline
from modelnew.check.verdict import Truth, compare
from modelnew.check.wide import Wide


def truth_of(function, x: torch.Tensor, runs: int = 5) -> Truth:
    with Wide():
        exact = function(x)
    pool, magnitudes, found = Pool(0, torch.device("cpu")), {}, []
    for _ in range(runs):
        with Noise(x.dtype, pool, magnitudes) as noise:
            found.append(function(x) - 0)
    sigma = (sum((run - exact).square() for run in found) / runs).sqrt()
    return Truth("output", exact, function(x), sigma, None, noise.integral)


@pytest.fixture(scope="module")
def softmax() -> Truth:
    x = torch.randn(64, 300, generator=torch.Generator().manual_seed(0))
    return truth_of(lambda v: torch.softmax(v, -1), x)


def test_eager_is_accepted_with_a_ratio_near_or_below_one(softmax):
    result = compare(softmax.eager, softmax)
    assert result.reason == "" and 0 < result.r < 2


def test_another_order_of_summation_is_accepted():
    x = torch.rand(16, 4096)
    truth = truth_of(lambda v: v.sum(1), x)
    sequential = x.cumsum(1)[:, -1]
    assert compare(sequential, truth).reason == ""


def wrong_answers(eager: torch.Tensor) -> dict[str, torch.Tensor]:
    one_element, one_row, tail = eager.clone(), eager.clone(), eager.clone()
    one_element[13, 77] *= 1.001
    one_row[20] *= 1.0001
    tail[-1, -1] = 0
    return {
        "zeros": torch.zeros_like(eager),
        "mean": torch.full_like(eager, eager.mean()),
        "one element": one_element,
        "one row": one_row,
        "tail unwritten": tail,
        "fp16": eager.half().float(),
        "rolled rows": eager.roll(1, 0),
    }


@pytest.mark.parametrize("name", list(wrong_answers(torch.zeros(64, 300))))
def test_wrong_answers_are_rejected(softmax, name):
    result = compare(wrong_answers(softmax.eager)[name], softmax)
    assert result.reason
    assert result.worst is not None


def test_the_worst_element_is_named(softmax):
    got = softmax.eager.clone()
    got[3, 17] = 0.5
    worst = compare(got, softmax).worst
    assert worst.at == (3, 17) and worst.got == 0.5
    assert worst.truth == pytest.approx(worst.eager, rel=1e-5)


def test_one_bad_slice_in_many_is_rejected_by_its_slice():
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(1))
    truth = truth_of(torch.sigmoid, x)
    got = truth.eager.clone()
    got[100] += 3e-6  # some 50 ulp: little beside 4096 rows
    result = compare(got, truth)
    assert result.r < 8 and result.rmax < 300
    assert "slice 100 of dim 0" in result.reason


@pytest.mark.parametrize(
    ("truth_value", "eager_value", "got", "good"),
    [
        (math.nan, math.nan, math.nan, True),
        (math.nan, math.nan, math.inf, False),
        (math.inf, math.inf, math.inf, True),
        (math.inf, math.inf, -math.inf, False),
        (1e39, math.inf, math.inf, True),  # too large for fp32: eager overflows, and so may the candidate
        (1.0, 1.0, math.nan, False),
        (math.nan, math.nan, 1.0, False),
    ],
)
def test_infinities_and_nan_must_be_where_the_truth_has_them(truth_value, eager_value, got, good):
    exact = torch.tensor([1.0, truth_value], dtype=torch.float64)
    truth = Truth("output", exact, torch.tensor([1.0, eager_value]), torch.full((2,), 1e-8).double(), None)
    assert (compare(torch.tensor([1.0, got]), truth).reason == "") is good


def test_whole_numbers_must_be_exact_where_eager_is():
    a, b = (torch.randint(-3, 4, (40, 50)).float() for _ in range(2))
    truth = truth_of(lambda v: v @ b.t().to(v.dtype), a)
    assert truth.integral
    assert compare(truth.eager, truth).reason == ""
    assert "whole numbers" in compare(truth.eager * (1 + 2.0**-23), truth).reason


def test_discrete_outputs_must_agree_where_rounding_does_not_decide():
    exact = torch.tensor([3, 1, 2, 0] * 100)
    unstable = torch.zeros(400, dtype=torch.bool)
    unstable[7] = True
    truth = Truth("output", exact, exact, None, unstable)
    tie, wrong = exact.clone(), exact.clone()
    tie[7], wrong[8] = 9, 9
    assert compare(tie, truth).reason == ""
    assert "1 of 400" in compare(wrong, truth).reason


def test_a_reference_that_rounding_alone_decides_is_undecided():
    x = torch.randn(100, 8) * 1e-7 + 1
    truth = truth_of(lambda v: (v - 1) * 1e7 + v.sum() * 0, x)
    assert compare(truth.eager, truth).undecided


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_have_their_own_noise(dtype):
    x = torch.randn(32, 200).to(dtype)
    truth = truth_of(lambda v: torch.softmax(v, -1), x)
    assert compare(truth.eager, truth).reason == ""
    assert compare((truth.eager.double() * (1 + 100 * truth.unit)).to(dtype), truth).reason


def test_an_acceptance_of_kernels_that_never_ran_says_so():
    assert "none of its kernels ran" in headline((), True, "", "fp32", idle=True)
    assert "none of its kernels" not in headline((), True, "", "fp32")


def test_a_headline_has_no_ratio_to_an_error_that_eager_hardly_makes():
    def case(r, error, eager_error):
        return CaseResult("", "", "accepted", r=r, error=error, eager_error=eager_error)

    lucky, plain = case(0.5, 5e-8, 2.4e-11), case(0.9, 9e-8, 8e-8)
    assert headline((lucky, plain), True, "", "fp32") == "accepted: error 1.1 × eager's at worst, 2 cases"
    assert headline((lucky,), True, "", "fp32") == "accepted: error within the noise, 1 cases"
    assert "2.1e+03 ×" in headline((case(2.0, 5e-8, 2.4e-11),), True, "", "fp32")
    assert headline((case(0.0, 0.0, 1e-8),), True, "", "fp32").startswith("accepted: error 0 ×")
    assert headline((case(0.0, 0.0, 0.0),), True, "", "fp32").startswith("accepted: exact")
