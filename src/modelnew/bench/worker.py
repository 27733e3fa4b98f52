"""A process that runs variants when it is told to: `python -m modelnew.bench.worker [compile] FD` (see `nursery`).

A worker loads the reference and its variants, and answers requests: make inputs, call once, time a sample, hand out
some values of the last output. It knows neither which calls are looked at nor what is expected of them.
"""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modelnew import fakes
from modelnew.bench import allocator, nursery, tensors, variants
from modelnew.bench.channel import Message
from modelnew.bench.clock import captured, clock_for
from modelnew.bench.schedule import reason
from modelnew.bench.seat import Seat
from modelnew.bench.usage import peak_memory
from modelnew.problem import Problem


class Desk:
    """The state of one worker; every public method answers the request of the same name."""

    def __init__(self) -> None:
        self._seats: dict[str, Seat] = {}
        self._inputs: Any = None
        self._kept: list[object] = []
        self._rng = random.Random()
        self._device = "cpu"

    def load(
        self,
        path: str,
        overrides: Message,
        device: str,
        dtype: str | None,
        seed: int,
        threads: int,
        entries: list[Message],
    ) -> Message:
        """Makes the variants; an entry has a name, and `baseline` or `file`, or `truth`: the original in float64, on
        the inputs in float64. Answers {name: reason} for those that could not be made."""
        torch.set_num_threads(threads)
        allocator.use("fresh")
        self._device = device
        self._rng = random.Random(seed)
        self._kept.append(mmap.mmap(-1, mmap.PAGESIZE * self._rng.randrange(1, 1 << 12)))  # shifts all later mappings
        clock = clock_for(device)
        problem = Problem.load(Path(path), overrides)
        model = fakes.made_on(device, lambda: problem.model(device=device, dtype=dtype, seed=seed))
        self._inputs = fakes.made_on(device, lambda: problem.inputs(device=device, dtype=dtype, seed=seed))
        failed = {}
        for entry in entries:
            try:
                self._seats[entry["name"]] = Seat(entry["name"], self._make(entry, problem, model), clock)
            except (Exception, SystemExit) as error:  # whatever the candidate's file raises
                failed[entry["name"]] = reason(error)
        return {"failed": failed}

    def _make(self, entry: Message, problem: Problem, model: torch.nn.Module) -> Callable[..., object]:
        if "file" in entry:
            return variants.candidate(Path(entry["file"]), problem, model, device=self._device)
        if "truth" in entry:
            self._inputs = tensors.wide(self._inputs)
            return model.double()
        return variants.baseline(entry["baseline"], model)

    def block(self) -> Message:
        """Puts the inputs into new memory, at new addresses, where that fits."""
        self._drop_outputs()
        self._kept[1:] = [tensors.padding(self._rng)]
        if tensors.can_copy(self._inputs, self._device):
            self._inputs = tensors.copy(self._inputs)
        for seat in self._seats.values():
            seat.inputs = self._inputs
        return {}

    def warm(self, name: str) -> Message:
        seat = self._seats[name]
        seat.inputs = self._inputs
        seat.warm()
        seat.output = None
        return {"seconds": seat.seconds, "usual": seat.usual_seconds, "first_call_s": seat.first_call_seconds}

    def outputs(self, how: allocator.Outputs) -> Message:
        """Says where outputs live: see `allocator.use`."""
        self._drop_outputs()
        allocator.use(how)
        return {}

    def refresh(self) -> Message:
        """Changes what is in the inputs; twice gives the first contents back."""
        tensors.swap_halves(self._inputs)
        for seat in self._seats.values():
            seat.clock.settle()
        return {}

    def sample(self, name: str, calls: int) -> Message:
        turn = self._seats[name].sample(calls)
        return {"seconds": turn.seconds[0], "off_stream": turn.off_stream, "told": turn.told}

    def replay(self, name: str, calls: int) -> Message:
        """What `sample` does, with the call captured as a CUDA graph."""
        seat = self._seats[name]
        return {"seconds": seat.clock.sample(captured(seat.call, torch.device(self._device)), calls).seconds}

    def empty(self, name: str, calls: int) -> Message:
        """What `sample` does, with a call that does nothing: what a request costs by itself."""
        return {"seconds": self._seats[name].clock.sample(lambda: None, calls).seconds}

    def values(self, name: str, seed: int) -> Message:
        """Some values of the last output, as text that keeps every bit."""
        sampled = tensors.sample_values(self._seats[name].output, seed)
        return {"values": [[v.hex() for v in leaf] for leaf in sampled]}

    def forget(self, name: str) -> Message:
        self._seats[name].output = None
        return {}

    def memory(self, name: str) -> Message:
        """Most memory that one call takes beyond what was in use before it, in bytes; null where the system does not
        tell."""
        self._drop_outputs()
        before = peak_memory(self._device)
        self._seats[name].sample(1)
        after = peak_memory(self._device, reset=False)
        self._drop_outputs()
        return {"bytes": None if before is None or after is None else after - before}

    def _drop_outputs(self) -> None:
        for seat in self._seats.values():
            seat.output = None


if __name__ == "__main__":
    nursery.main(Desk)
