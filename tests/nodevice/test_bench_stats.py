"""Ratios, intervals and verdicts from paired times."""

from __future__ import annotations

import math
import random

import pytest

from modelnew.bench.stats import Ratio, estimate, is_open, noise_floor, t_quantile, verdict


def ratio(value: float, half_width: float) -> Ratio:
    return Ratio(value, value * math.exp(-half_width), value * math.exp(half_width))


def launches(rng: random.Random, speed_up: float, process_noise: float, round_noise: float) -> list[list[list[float]]]:
    """Five processes of three blocks of five rounds, with noise that is constant within a process."""
    made = []
    for _ in range(5):
        bias = rng.gauss(math.log(speed_up), process_noise)
        made.append([[rng.gauss(bias, round_noise) for _ in range(5)] for _ in range(3)])
    return made


def test_ratio_of_exact_pairs_is_exact() -> None:
    found = estimate([[[math.log(2.0)] * 5] * 3] * 5)
    assert found.value == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0)
    assert found.high == pytest.approx(2.0)


def test_interval_covers_the_truth_when_processes_differ() -> None:
    """An interval over rounds alone would be far too narrow here: the noise between processes is ten times theirs."""
    rng = random.Random(1)
    covered = 0
    for _ in range(400):
        found = estimate(launches(rng, 1.3, 0.02, 0.002))
        covered += found.low <= 1.3 <= found.high
    assert 0.92 * 400 <= covered <= 0.99 * 400


def test_equal_variants_are_rarely_told_apart_and_five_percent_is() -> None:
    rng = random.Random(2)
    claims = {1.0: 0, 1.05: 0}
    for speed_up in claims:
        for _ in range(200):
            floor = noise_floor(estimate(launches(rng, 1.0, 0.005, 0.02)))
            found = estimate(launches(rng, speed_up, 0.005, 0.02))
            claims[speed_up] += verdict(found, floor) in ("faster", "slower")
    assert claims[1.0] <= 10
    assert claims[1.05] >= 190


def test_few_samples_give_wide_intervals() -> None:
    two = estimate([[[0.1], [0.2]]])
    assert two.low < 0.7 and two.high > 1.9
    one = estimate([[[0.1]]])
    assert one.half_width == math.inf
    assert verdict(one, 0.01) == "ambiguous"
    with pytest.raises(ValueError, match="no paired times"):
        estimate([[[]]])


@pytest.mark.parametrize(
    ("value", "half_width", "floor", "expected"),
    [
        (1.10, 0.02, 0.01, "faster"),
        (0.90, 0.02, 0.01, "slower"),
        (1.005, 0.004, 0.01, "same"),
        (1.00, 0.05, 0.01, "ambiguous"),
        (1.10, 0.20, 0.01, "ambiguous"),
        (1.02, 0.01, 0.025, "same"),  # clear, but below what the original shows against itself
        (1.03, 0.01, 0.05, "ambiguous"),  # the floor could hide 5 %
        (1.03, 0.01, 0.60, "ambiguous"),  # with such noise nothing can be said
        (1.005, 0.001, 0.01, "same"),  # clear, but below one percent
        (math.inf, math.inf, 0.01, "ambiguous"),
    ],
)
def test_verdicts(value: float, half_width: float, floor: float, expected: str) -> None:
    found = ratio(value, half_width) if math.isfinite(value) else Ratio(1.5, 0.0, math.inf)
    assert verdict(found, floor) == expected


def test_noise_floor_never_goes_below_one_percent() -> None:
    assert noise_floor(ratio(1.001, 0.0)) == 0.01
    assert noise_floor(ratio(0.9, 0.0)) == pytest.approx(-math.log(0.9))
    assert noise_floor(ratio(1.001, 0.03)) == pytest.approx(0.03)
    assert noise_floor(Ratio(1.001, 0.0, math.inf)) == 0.01  # too few samples: no verdict is given anyway


@pytest.mark.parametrize(
    ("freedom", "expected"), [(1, 12.706), (4, 2.776), (20, 2.086), (30, 2.042), (60, 2.000), (1000, 1.9623)]
)
def test_t_quantiles(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, rel=3e-4)


@pytest.mark.parametrize(("freedom", "expected"), [(1, 25.452), (2, 6.205), (7, 2.841), (15, 2.490)])
def test_t_quantiles_of_another_level(freedom: int, expected: float) -> None:
    assert t_quantile(freedom, 0.025) == pytest.approx(expected, rel=3e-4)


def test_rounds_that_a_neighbour_spoils_do_not_move_the_ratio() -> None:
    rng = random.Random(4)
    spoiled = [
        [[rng.gauss(0.05, 0.02) if rng.random() < 0.8 else rng.gauss(0, 0.5) for _ in range(5)] for _ in range(3)]
        for _ in range(8)
    ]
    found = estimate(spoiled)
    assert math.log(found.value) == pytest.approx(0.05, abs=0.01)
    assert found.half_width < 0.03


def test_three_looks_at_equal_variants_claim_no_more_than_one_in_twenty() -> None:
    """What is measured again because its verdict was open gets more chances to be wrong: each look takes its share of the
    level."""
    rng = random.Random(5)
    missed = 0
    for _ in range(400):
        made: list[list[list[float]]] = []
        looks = []
        for _ in range(3):
            made += launches(rng, 1.0, 0.01, 0.02)
            looks.append(estimate(made, 0.05 / 3))
        missed += any(abs(math.log(found.value)) > found.half_width for found in looks)
    assert missed <= 0.05 * 400


@pytest.mark.parametrize(
    ("value", "half_width", "floor", "expected"),
    [
        (1.1, 0.02, 0.01, False),
        (1.0, 0.005, 0.01, False),
        (1.0, 0.05, 0.01, True),  # could be 5 %
        (1.03, 0.04, 0.01, True),
        (1.015, 0.02, 0.01, True),  # a difference that more samples could show
        (1.0, 0.02, 0.01, False),  # small, and not small enough to be called the same after any of them
        (1.0, 0.015, 0.01, True),  # the same, perhaps
        (1.04, 0.01, 0.05, True),  # only the floor hides it
        (1.0, 0.02, 0.05, False),
    ],
)
def test_which_verdicts_more_samples_may_change(value: float, half_width: float, floor: float, expected: bool) -> None:
    assert is_open(ratio(value, half_width), floor, 3) == expected
