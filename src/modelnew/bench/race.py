"""The course of a measurement: sets of processes come and go, each variant is loaded, warmed up, timed and watched."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import torch

from modelnew.bench import allocator, stats
from modelnew.bench.channel import Message
from modelnew.bench.clocks import gpu_state
from modelnew.bench.fleet import Nursery, VariantFailedError, Worker
from modelnew.bench.honesty import CHANGED, RESTLESS, Expected, Values, Watch
from modelnew.bench.remote import RemoteSeat
from modelnew.bench.report import Report
from modelnew.bench.schedule import Times, measure_block, plan, sets
from modelnew.bench.summary import AGAIN, summarise
from modelnew.bench.tensors import deviation
from modelnew.errors import BenchError
from modelnew.problem import Problem
from modelnew.progress import Progress

EAGER = "eager"
PROCESSES, BLOCKS_PER_PROCESS = {"cpu": 8, "cuda": 3}, 3
_LAUNCH_BOUND = 200e-6  # seconds; calls on a GPU that are shorter are also timed as a captured graph
_DRIFT = 8.0  # times its error before the timed runs that an answer after them may have …
_ROUNDING = 1e-6  # … or this, where the order of additions changes from call to call
_SETTLE_TIME = 2.0  # seconds; threads of a first call may take this long to go to sleep
_LOAD_TIMEOUT, _WARM_TIMEOUT = 900.0, 1800.0  # seconds; huge inputs are made, kernels are built
_TRUTH = "float64"


@dataclass
class Race:
    """One measurement: its processes come and go, its results stay."""

    problem: Problem
    entries: list[Message]
    device: str
    dtype: str | None
    rng: random.Random
    tell: Progress
    times: Times = field(default_factory=Times)
    watches: dict[str, Watch] = field(default_factory=dict)
    first_calls: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    clocks: list[dict[str, Any]] = field(default_factory=list)  # of the GPU, after each block
    error_against: str = EAGER
    threads: int = field(default_factory=torch.get_num_threads)  # another thread would not be told the same
    seed: int = 0  # of the parameters and inputs of the present set of processes
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])  # processes that wanted a core just before
    isolated: bool = True
    looked_again: bool = True
    looks: int = 1  # at the verdicts: while one is open, measuring goes on until there were so many

    def run(self, nursery: Nursery, budget_s: float) -> None:
        footprint = self.problem.footprint(device=self.device, dtype=self.dtype)
        self.problem.require_memory(footprint.peak, "timing", device=self.device, dtype=self.dtype)
        files = sum("file" in entry for entry in self.entries)
        self.isolated = (2 + files) * footprint.peak < 0.8 * footprint.free
        most, number = PROCESSES[torch.device(self.device).type], 0
        wanted, allowed_s, first_done, looks = most, budget_s, 0.0, 1
        while number < wanted:
            self.tell(f"starting process set {number + 1} of {wanted}")
            seats, setup_s = self._start(nursery)
            if number == 0:
                most = wanted = sets(most, setup_s, budget_s)
                self._measure_memory(seats)
                if 3 * footprint.peak < 0.5 * footprint.free:
                    self._judge(nursery, seats)
            self._launch(seats, number, wanted, budget_s / most)
            nursery.end_workers()
            number += 1
            first_done = first_done or monotonic()
            if sets(2, monotonic() - first_done, allowed_s) < 2:  # it takes longer than the first set let hope
                wanted = number
            if number == wanted and most > 1 and looks < self.looks and self._is_open(self.looks / looks):
                wanted, allowed_s, looks = wanted + most, allowed_s + budget_s, looks + 1

    def _is_open(self, growth: float) -> bool:
        """Whether `growth` times as many samples may change what is said of a file."""
        noise = self._ratio(AGAIN)
        floor = stats.noise_floor(noise) if noise else stats.LEAST_CLAIM
        found = [self._ratio(entry["name"]) for entry in self.entries if "file" in entry]
        return any(ratio is not None and stats.is_open(ratio, floor, growth) for ratio in found)

    def _ratio(self, name: str) -> stats.Ratio | None:
        timed = name not in self.times.failed and self.times.seconds(name)
        return stats.estimate(self.times.log_ratios(name, EAGER), self._level) if timed else None

    @property
    def _level(self) -> float:
        """Every look is another chance to be wrong: they share what may be wrong."""
        return stats.LEVEL / self.looks

    def report(self, seed: int) -> Report:
        protocol: Mapping[str, object] = {
            "outputs": "fresh",
            "looks": self.looks,
            "isolation": "a process per file" if self.isolated else "one process: not enough memory for more",
            "outputs_checked_while_timed": self.looked_again,
            "load_before": self.load_before,
            "gpu_clocks": self.clocks,
        }
        return summarise(
            self.times,
            [entry["name"] for entry in self.entries],
            self.first_calls,
            self.errors,
            error_against=self.error_against,
            memory=self.memory,
            subject=str(self.problem.path),
            device=self.device,
            dtype=self.dtype,
            seed=seed,
            protocol=protocol,
            level=self._level,
        )

    def _start(self, nursery: Nursery) -> tuple[list[RemoteSeat], float]:
        """A set of workers with everything loaded, built and warm; and the seconds that the next set will take for
        it, without the builds and without what has failed."""
        again: Message = {"name": AGAIN, "baseline": EAGER}
        here = [e for e in self.entries if "file" not in e]
        files = [e for e in self.entries if "file" in e and e["name"] not in self.times.failed]
        groups = [here, [again], *([entry] for entry in files)] if self.isolated else [[*here, again, *files]]
        self.seed = self.rng.getrandbits(31)
        begun = monotonic()
        wanted = [(nursery.worker(), [e for e in group if e["name"] not in self.times.failed]) for group in groups]
        with ThreadPoolExecutor(len(wanted)) as pool:  # nothing is timed yet
            seats = [seat for found in pool.map(lambda pair: self._load(*pair), wanted) for seat in found]
        seconds = {"loading": monotonic() - begun}
        for seat in seats:
            seat.rivals = [rival for rival in seats if rival.worker is not seat.worker]
            if self.isolated and self.device != "cpu":  # overwriting a cache before each call is most of a short sample
                seat.trusted = next((other for other in seats if other.name == EAGER), None)
            self.tell(f"warming up {seat.name}")
            begun = monotonic()
            if self._try(seat, lambda seat=seat: seat.warm(_WARM_TIMEOUT)):  # type: ignore[misc]
                self.first_calls.setdefault(seat.name, seat.first_call_s)
                seconds[seat.name] = monotonic() - begun - seat.first_call_s
            if not seat.worker.becomes_quiet(_SETTLE_TIME):
                seat.watch.faults.add(RESTLESS)
        self._drop_offenders(seats)
        repeated_s = sum(took for name, took in seconds.items() if name not in self.times.failed)
        return [seat for seat in seats if seat.name not in self.times.failed], repeated_s

    def _load(self, worker: Worker, entries: Sequence[Message]) -> list[RemoteSeat]:
        request = {"device": self.device, "dtype": self.dtype, "seed": self.seed, "threads": self.threads}
        try:
            answer = worker.ask(
                "load",
                path=str(self.problem.path),
                overrides=dict(self.problem.overrides),
                entries=list(entries),
                timeout_s=_LOAD_TIMEOUT,
                **request,
            )
            failed = answer["failed"]
        except VariantFailedError as error:
            failed = {entry["name"]: str(error) for entry in entries}
        for name, why in failed.items():
            self._fail(name, why)
        names = [entry["name"] for entry in entries if entry["name"] not in failed]
        return [RemoteSeat(name, worker, self.watches.setdefault(name, Watch()), self.rng) for name in names]

    def _launch(self, seats: Sequence[RemoteSeat], number: int, processes: int, budget_s: float) -> None:
        blocks, rounds = plan(sum(seat.turn_seconds for seat in seats), budget_s, BLOCKS_PER_PROCESS)
        launch: list[list[dict[str, float]]] = []
        self.times.launches.append(launch)
        stop = monotonic() + 1.25 * budget_s  # the estimate may be off
        for block in range(blocks):
            self.tell(f"timing: process set {number + 1} of {processes}, block {block + 1} of {blocks}")
            for worker in {seat.worker.pid: seat.worker for seat in seats}.values():
                self._ask_all(worker, seats, "block")
            self._expect(seats)
            if not block:
                self._look(seats, lambda seat: setattr(seat, "error_before", seat.error()))
            measured = measure_block(seats, rounds, self.rng, self.times, stop)
            if not self._drop_offenders(seats):  # a block with somebody else at work in it says nothing
                launch.append(measured)
            if (state := gpu_state(self.device)) is not None:
                self.clocks.append(state)
        self._look(seats, _still_right(self.errors.get(EAGER, 0.0)))
        self._drop_offenders(seats)
        if self.device == "cpu" and allocator.available():
            self._reuse(seats)
        if self.device != "cpu":
            self._replay(seats)

    def _drop_offenders(self, seats: Sequence[RemoteSeat]) -> bool:
        """Ends the workers of variants whose times cannot be believed; True when one was at work while others were
        timed."""
        disturbed = False
        trusted = {AGAIN, *(entry["name"] for entry in self.entries if "file" not in entry)}
        for seat in seats:
            if seat.name not in trusted | self.times.failed.keys() and (why := seat.watch.verdict()):
                self._fail(seat.name, why)
                disturbed |= seat.watch.disturbs
                if self.isolated:
                    seat.worker.end()
        return disturbed

    def _reuse(self, seats: Sequence[RemoteSeat]) -> None:
        """One more turn of every variant, with output memory that is already mapped."""
        seats = [seat for seat in seats if seat.name not in self.times.failed]
        for worker in {seat.worker.pid: seat.worker for seat in seats}.values():
            self._ask_all(worker, seats, "outputs", how="reused")
        for name, seconds in measure_block(seats, 1, self.rng, self.times)[0].items():
            self.times.reused.setdefault(name, []).append(seconds)

    def _replay(self, seats: Sequence[RemoteSeat]) -> None:
        """Short calls once more as a captured graph: without the host's time for launching. What cannot be captured
        is left out."""
        for seat in seats:
            if seat.name not in self.times.failed and seat.seconds < _LAUNCH_BOUND:
                with contextlib.suppress(VariantFailedError):
                    self.times.replayed.setdefault(seat.name, []).append(seat.replay())

    def _look(self, seats: Sequence[RemoteSeat], look: Callable[[RemoteSeat], object]) -> None:
        """`look` at every variant whose answers can be compared with the original's."""
        for seat in seats:
            if seat.expected is not None and seat.name not in self.times.failed:
                self._try(seat, lambda seat=seat: look(seat))  # type: ignore[misc]

    def _ask_all(self, worker: Worker, seats: Sequence[RemoteSeat], do: str, **request: Any) -> None:
        """A request to a worker, whose variants all fail when it does."""
        try:
            worker.ask(do, **request)
        except VariantFailedError as error:
            for seat in seats:
                if seat.worker is worker:
                    self._fail(seat.name, str(error))

    def _expect(self, seats: Sequence[RemoteSeat]) -> None:
        """What the original answers in this block; later turns are compared with it."""
        values_seed = self.rng.getrandbits(31)
        for seat in seats:
            seat.values_seed, seat.expected = values_seed, None
        original = next(seat for seat in seats if seat.name == EAGER)
        answers = {}
        for _ in range(2):
            original.worker.ask("refresh")
            answers[original.worker.swapped] = original.answer()
        expected = Expected(answers[False], answers[True])
        again = next((seat for seat in seats if seat.name == AGAIN and seat.name not in self.times.failed), None)
        if again is None or expected.moved == 0 or not _agrees(again, expected):
            self.looked_again = False  # the original is random, or does not depend on its inputs
            return
        for seat in seats:
            seat.expected = expected

    def _measure_memory(self, seats: Sequence[RemoteSeat]) -> None:
        for seat in seats:
            answer: Message = {}
            self._try(seat, lambda seat=seat, answer=answer: answer.update(seat.worker.ask("memory", name=seat.name)))  # type: ignore[misc]
            if answer.get("bytes") is not None:
                self.memory[seat.name] = answer["bytes"]

    def _judge(self, nursery: Nursery, seats: Sequence[RemoteSeat]) -> None:
        """Every variant's error at sampled outputs, against the original in float64 (in eager's own dtype where that
        fails)."""
        answers: dict[str, Values] = {}
        for seat in seats:
            self._try(seat, lambda seat=seat: answers.update({seat.name: seat.answer()}))  # type: ignore[misc]
        truth = answers[EAGER]
        worker = nursery.worker()
        for seat in self._load(worker, [{"name": _TRUTH, "truth": True}]):
            try:
                seat.warm(_WARM_TIMEOUT)
                truth, self.error_against = seat.answer(), _TRUTH
            except VariantFailedError:
                self.times.failed.pop(_TRUTH, None)
        worker.end()
        self.errors = {name: deviation(values, truth) for name, values in answers.items()}

    def _try(self, seat: RemoteSeat, action: Callable[[], object]) -> bool:
        try:
            action()
        except VariantFailedError as error:
            self._fail(seat.name, str(error))
            return False
        return True

    def _fail(self, name: str, why: str) -> None:
        if name in (EAGER, AGAIN):
            raise BenchError(
                why, doing="timing the original", on=str(self.problem.path), hint="Run it by itself: it must work."
            )
        self.times.failed.setdefault(name, why)


def _agrees(again: RemoteSeat, expected: Expected) -> bool:
    """Whether the original, in a process of its own, answers what is expected of it. Asked twice: where as many random
    numbers were drawn there as here, one answer is the same by chance."""
    return not any(expected.contradicts(again.answer(), again.worker.swapped) for _ in range(2))


def _still_right(eager_error: float) -> Callable[[RemoteSeat], None]:
    """Whether the timed runs have changed a variant's answers: one that wears out is not believed."""

    def look(seat: RemoteSeat) -> None:
        if seat.error() > _DRIFT * max(seat.error_before, eager_error, _ROUNDING):
            seat.watch.faults.add(CHANGED)

    return look
