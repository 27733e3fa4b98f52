"""Changing inputs behind a candidate's back, and looking at some of its outputs."""

from __future__ import annotations

import math
import random

import pytest
import torch

from modelnew.bench import tensors
from modelnew.bench.honesty import Expected, Watch
from modelnew.bench.schedule import BLOCKS, LEAST_ROUNDS, ROUNDS, plan, sets


@pytest.mark.parametrize("size", [2, 7, 1000])
def test_swapping_halves_changes_and_restores_without_a_trace(size: int) -> None:
    x, index = torch.arange(float(size)), torch.arange(size)
    version, address = x._version, x.data_ptr()
    tensors.swap_halves([x, [index]])
    assert not torch.equal(x, index.float())
    assert torch.equal(x.sort().values, index.float())
    assert torch.equal(index, torch.arange(size))
    tensors.swap_halves([x])
    assert torch.equal(x, index.float())
    assert (x._version, x.data_ptr()) == (version, address)


def test_swapping_reaches_behind_views() -> None:
    base = torch.arange(12.0)
    tensors.swap_halves([base.view(3, 4).t()])
    assert base.tolist() == [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]


def test_sampled_values_are_those_of_the_flattened_output() -> None:
    x = torch.randn(6, 5, 4).permute(2, 0, 1)
    rng = random.Random(3)
    places = [rng.randrange(120) for _ in range(9)] + [119]
    assert tensors.sample_values([x], 3, 10) == [x.double().flatten()[places].tolist()]


@pytest.mark.parametrize("output", [torch.tensor(2.5), torch.empty(0, 3), {"a": torch.tensor([True, False])}])
def test_sampling_takes_any_output(output: object) -> None:
    sampled = tensors.sample_values(output, 0)
    assert len(sampled) == 1
    assert all(isinstance(v, float) for v in sampled[0])


def test_last_element_is_always_sampled() -> None:
    x = torch.zeros(10**6)
    x[-1] = 5
    assert tensors.sample_values(x, 11, 4)[0][-1] == 5


@pytest.mark.parametrize(
    ("values", "truth", "expected"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[0.0, 0.0]], [[3.0, 4.0]], 1.0),
        ([[math.nan, math.inf]], [[math.nan, math.inf]], 0.0),
        ([[math.nan, 1.0]], [[0.0, 1.0]], math.inf),
        ([[1.0]], [[1.0, 2.0]], math.inf),
        ([[1.0]], [[0.0]], math.inf),
    ],
)
def test_deviation(values: list[list[float]], truth: list[list[float]], expected: float) -> None:
    assert tensors.deviation(values, truth) == expected


def test_old_answers_are_told_from_inexact_ones() -> None:
    expected = Expected([[1.0, 2.0, 3.0]], [[3.0, 2.0, 1.0]])
    assert not expected.contradicts([[1.004, 2.0, 3.0]], swapped=False)
    assert expected.contradicts([[1.0, 2.0, 3.0]], swapped=True)
    assert expected.contradicts([[0.0, 0.0, 0.0]], swapped=False)
    unmoved = Expected([[1.0, 2.0]], [[1.0, 2.0]])
    assert unmoved.moved == 0
    assert not unmoved.contradicts([[1.1, 2.0]], swapped=True)


@pytest.mark.parametrize(
    ("watch", "part"),
    [
        (Watch(told=[0.95] * 20), ""),
        (Watch(told=[0.95] * 16 + [0.3] * 4), ""),  # delays, not lies
        (Watch(told=[0.33] * 20), "its clock says"),
        (Watch(told=[0.33] * 11 + [1.0] * 9), "its clock says"),
        (Watch(told=[0.0] * 20), "its clock says"),
        (Watch(turns=10, restless=6), "goes on working"),
        (Watch(turns=10, restless=2), ""),
        (Watch(cpu_inside=2.0, cpu_outside=1.0), "while others were timed"),
        (Watch(cpu_inside=2.0, cpu_outside=0.05), ""),
    ],
)
def test_watch(watch: Watch, part: str) -> None:
    assert part in watch.verdict()
    assert bool(watch.verdict()) == bool(part)


def test_plans_fit_the_budget_and_keep_a_least() -> None:
    assert plan(1e-3, 10.0) == (BLOCKS, ROUNDS)
    for seconds in (0.05, 0.3, 1.0, 7.0):
        blocks, rounds = plan(seconds, 10.0)
        assert blocks * rounds * seconds <= 10.0 or blocks * rounds == LEAST_ROUNDS
    assert plan(60.0, 10.0) == (LEAST_ROUNDS, 1)


@pytest.mark.parametrize(
    ("setup_s", "budget_s", "expected"),
    [(0.0, 20.0, 8), (5.0, 20.0, 8), (10.0, 20.0, 5), (39.0, 20.0, 2), (41.0, 20.0, 1), (600.0, 20.0, 1)],
)
def test_sets_of_processes_after_the_first_take_at_most_twice_the_budget(
    setup_s: float, budget_s: float, expected: int
) -> None:
    assert sets(8, setup_s, budget_s) == expected
    assert (expected - 1) * setup_s <= 2 * budget_s
