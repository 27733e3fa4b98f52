"""Timing in this process: quick, for code that is trusted. `files.bench_file` takes processes of their own."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from time import monotonic

import torch

from modelnew.bench.clock import Clock, clock_for
from modelnew.bench.report import Report
from modelnew.bench.schedule import Times, measure_block, plan, reason
from modelnew.bench.seat import Seat
from modelnew.bench.summary import AGAIN, summarise
from modelnew.bench.tensors import can_copy, copy, deviation, padding, sample_values
from modelnew.errors import BenchError
from modelnew.progress import Progress, quiet

Variants = Mapping[str, Callable[..., object]]


def bench_modules(
    variants: Variants,
    inputs: Sequence[object],
    *,
    device: str = "cpu",
    seed: int | None = None,
    budget_s: float = 10.0,
    progress: Progress = quiet,
) -> Report:
    """Times `variants`, each called as `variant(*inputs)` under `torch.no_grad()`, interleaved in this process.

    variants: name → callable; the first is the baseline, and is also run against itself for the noise floor.
    inputs: what every variant is given; tensors on `device`. They are copied to fresh memory for each block
        while that leaves most of the memory free. They are never written to.
    budget_s: about how long the timing may take, in seconds; at least three rounds are run.
    A variant that raises becomes a row that says so. Raises BenchError when there is no variant, or the baseline
    itself fails.
    """
    if not variants:
        raise BenchError("there is nothing to time", doing="timing variants", hint="Give at least one variant.")
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    with torch.no_grad():
        times, seats, deviations = _measure(variants, inputs, device, random.Random(seed), budget_s, progress)
    return summarise(
        times,
        list(variants),
        {name: seat.first_call_seconds for name, seat in seats.items()},
        deviations,
        error_against=next(iter(variants)),
        subject="modules",
        device=device,
        dtype=None,
        seed=seed,
    )


def _measure(
    variants: Variants, inputs: Sequence[object], device: str, rng: random.Random, budget_s: float, tell: Progress
) -> tuple[Times, dict[str, Seat], dict[str, float]]:
    clock = clock_for(device)
    baseline = next(iter(variants))
    times, seats = Times(), _seats(variants, clock)
    deviations: dict[str, float] = {}
    truth: list[list[float]] = []
    for seat in seats.values():
        tell(f"warming up {seat.name}")
        try:
            seat.inputs = inputs
            seat.warm()
            values = sample_values(seat.turn() and seat.output, seed=0)
        except Exception as error:  # a candidate may raise anything
            _drop(seat, error, baseline, times)
            continue
        finally:
            seat.output = None
        truth = truth or values
        deviations[seat.name] = deviation(values, truth)
    entrants = [seat for name, seat in seats.items() if name not in times.failed]
    blocks, rounds = plan(sum(seat.turn_seconds for seat in entrants), budget_s)
    fresh = can_copy(inputs, device)
    launch: list[list[dict[str, float]]] = []
    times.launches.append(launch)
    stop = monotonic() + 2 * budget_s  # the estimate may be off; never more than twice what was asked
    for number in range(blocks):
        tell(f"timing block {number + 1} of {blocks}")
        kept = padding(rng)
        block_inputs = copy(list(inputs)) if fresh else inputs
        for seat in entrants:
            seat.inputs = block_inputs  # type: ignore[assignment]
        launch.append(measure_block(entrants, rounds, rng, times, stop))
        for seat in entrants:
            seat.inputs, seat.output = (), None
        del block_inputs, kept
        if number + 1 >= 3 and monotonic() > stop:
            break
    return times, seats, deviations


def _seats(variants: Variants, clock: Clock) -> dict[str, Seat]:
    baseline = next(iter(variants))
    seats = {name: Seat(name, function, clock) for name, function in variants.items()}
    return {**seats, AGAIN: Seat(AGAIN, variants[baseline], clock)}


def _drop(seat: Seat, error: Exception, baseline: str, times: Times) -> None:
    if seat.name == baseline:
        raise BenchError(
            reason(error), doing="timing the baseline", on=baseline, hint="Run it by itself: it must work."
        ) from error
    times.failed[seat.name] = reason(error)
