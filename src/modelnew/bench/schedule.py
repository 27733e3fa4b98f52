"""Who is timed when: rounds in random order, grouped into blocks, grouped into processes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from modelnew.bench.seat import Turn

BLOCKS, ROUNDS, LEAST_ROUNDS = 12, 5, 3
_SETUP_SHARE = 2.0


class Entrant(Protocol):
    """A variant as the schedule sees it, in this process or in another."""

    name: str

    @property
    def turn_seconds(self) -> float:
        """About how long a turn takes."""

    def turn(self) -> Turn:
        """Takes some samples."""


@dataclass
class Times:
    """What was measured: launches × blocks × rounds, each round a median per variant that ran; and why variants
    dropped out.

    A launch is one process, or one set of processes that run together.
    """

    launches: list[list[list[dict[str, float]]]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    off_stream: dict[str, list[bool]] = field(default_factory=dict)  # of every turn
    reused: dict[str, list[float]] = field(default_factory=dict)  # medians with output memory that is already mapped
    replayed: dict[str, list[float]] = field(default_factory=dict)  # of the call as a captured CUDA graph

    def flags(self, name: str) -> tuple[str, ...]:
        """What a reader must know of a variant's times. A host that was interrupted makes some turns look longer than the
        stream says; work on another stream does that to most."""
        turns = self.off_stream.get(name, [])
        return ("works outside the caller's stream",) if 2 * sum(turns) > len(turns) else ()

    def seconds(self, name: str) -> list[float]:
        """Every round's median of one variant."""
        return [times[name] for launch in self.launches for block in launch for times in block if name in times]

    def log_ratios(self, name: str, baseline: str) -> list[list[list[float]]]:
        """log(baseline / variant) of every round in which both ran, as launches × blocks × rounds."""
        return [
            [
                [math.log(times[baseline] / times[name]) for times in block if name in times and baseline in times]
                for block in launch
            ]
            for launch in self.launches
        ]


def plan(seconds_per_round: float, budget_s: float, blocks: int = BLOCKS) -> tuple[int, int]:
    """(blocks, rounds per block) that fit the budget; never fewer than `LEAST_ROUNDS` rounds in all, however long a
    call takes."""
    total = max(LEAST_ROUNDS, min(blocks * ROUNDS, int(budget_s / max(seconds_per_round, 1e-9))))
    rounds = max(1, total // blocks)
    return max(1, min(blocks, total // rounds)), rounds


def sets(most: int, setup_s: float, budget_s: float) -> int:
    """How many sets of processes: setting up those after the first takes at most `_SETUP_SHARE` times the budget."""
    return min(most, 1 + int(_SETUP_SHARE * budget_s / max(setup_s, 1e-9)))


def measure_block(
    entrants: Sequence[Entrant], rounds: int, rng: random.Random, times: Times, stop: float = math.inf
) -> list[dict[str, float]]:
    """One block: every variant once per round, in a new random order each time.

    A variant that raises is out of this and later blocks. No round but the first begins later than `stop` (monotonic).
    """
    block: list[dict[str, float]] = []
    for _ in range(rounds):
        if block and monotonic() > stop:
            break
        order = [e for e in entrants if e.name not in times.failed]
        rng.shuffle(order)
        medians: dict[str, float] = {}
        for entrant in order:
            try:
                turn = entrant.turn()
            except Exception as error:  # a candidate may raise anything; it becomes a row that says so
                times.failed[entrant.name] = reason(error)
                continue
            medians[entrant.name] = turn.median
            times.off_stream.setdefault(entrant.name, []).append(turn.off_stream)
        block.append(medians)
    return block


def reason(error: BaseException) -> str:
    """One line that says what a variant died of."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
