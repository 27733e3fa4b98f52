"""Timing in this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from modelnew.bench import bench_modules
from modelnew.errors import BenchError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A thread pool that waits for a busy core would make these short times random."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sigmoid_tenfold(x: torch.Tensor) -> torch.Tensor:
    for _ in range(9):
        torch.sigmoid(x)
    return torch.sigmoid(x)


def out_of_memory(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(1 << 60)


def test_slower_work_is_slower_and_failures_are_rows() -> None:
    x = torch.rand(1 << 16)
    before = x.clone()
    variants = {
        "eager": torch.sigmoid,
        "tenfold": sigmoid_tenfold,
        "wrong": torch.tanh,
        "broken": lambda x: x.no_such_method(),
        "too large": out_of_memory,
    }
    report = bench_modules(variants, [x], seed=1, budget_s=0.5)
    assert torch.equal(x, before)
    assert [row.name for row in report.rows()] == list(variants)
    eager, tenfold = report.row("eager"), report.row("tenfold")
    assert tenfold.seconds is not None and eager.seconds is not None and tenfold.seconds > eager.seconds
    assert tenfold.ratio is not None and tenfold.ratio.value < 0.5
    assert tenfold.verdict in ("slower", "ambiguous")  # how sure it can be depends on who else uses the machine
    assert tenfold.error == 0
    assert report.row("wrong").error is not None and report.row("wrong").error > 0.01
    assert report.row("broken").reason.startswith("AttributeError")
    assert "memory" in report.row("too large").reason


def test_nothing_is_recorded_for_a_gradient() -> None:
    weight = torch.ones(4, requires_grad=True)
    seen = []

    def variant(x: torch.Tensor) -> torch.Tensor:
        result = x * weight
        seen.append(result.requires_grad)
        return result

    bench_modules({"eager": variant}, [torch.ones(4)], seed=1, budget_s=0.1)
    assert seen and not any(seen)


def test_slow_calls_are_repeated_little() -> None:
    import time

    calls = []

    def slow(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        time.sleep(0.12)
        return x

    report = bench_modules({"eager": slow}, [torch.ones(1)], seed=1, budget_s=0.5)
    assert report.row("eager").seconds >= 0.12
    assert len(calls) <= 16  # warm-up, and three rounds of the original and the original again


def test_what_cannot_be_timed_is_an_error() -> None:
    with pytest.raises(BenchError, match="nothing to time"):
        bench_modules({}, [])
    with pytest.raises(BenchError, match="ZeroDivisionError"):
        bench_modules({"eager": lambda: 1 / 0}, [], budget_s=0.1)
