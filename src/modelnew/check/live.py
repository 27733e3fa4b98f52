"""Checking a live module against another, in this process."""

from __future__ import annotations

import contextlib
import copy
import inspect
import os
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelnew.check.conclude import conclude
from modelnew.check.gradients import WithGradients
from modelnew.check.inputs import GivenInputs
from modelnew.check.judge import Judge
from modelnew.check.observe import Answer, Observer, copy_tree, flat, launches, moved, same, twin, wrote
from modelnew.check.precision import product_unit
from modelnew.check.report import Report
from modelnew.check.streams import call_late
from modelnew.check.truth import Reference
from modelnew.check.wide import tensors
from modelnew.errors import CheckError
from modelnew.progress import Progress, quiet


class LiveCandidate:
    """A module of this process. Its parameters are those it has, changed in place and restored by `restore`."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.name = type(module).__name__
        self.module = module
        self.device = device
        self.observer = Observer(module)
        self.gradients = Observer(WithGradients(module))
        self.held: list[Any] = []
        self._modes = [(part, part.training) for part in module.modules()]
        self._state = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def load_state(self, state: Mapping[str, torch.Tensor], *, in_place: bool = False) -> Answer:
        try:
            if not (in_place and wrote(self.module, state)):
                self.module.load_state_dict(dict(state))
        except Exception as error:
            return Answer(error=f"{type(error).__name__}: {error}")
        return Answer()

    def another(self, state: Mapping[str, torch.Tensor]) -> None:
        """None: what makes a live module is not known."""

    def call(
        self,
        inputs: list[Any],
        *,
        seed: int,
        poison: bool,
        training: bool,
        reuse: bool = False,
        gradients: bool = False,
        late: bool = False,
        quiet: bool = False,
        under: str = "no_grad",
    ) -> Answer:
        given = copy_tree(inputs, lambda tensor: moved(twin(tensor), self.device))
        if reuse:
            for old, new in zip(flat(self.held), flat(given), strict=True):
                old.untyped_storage().copy_(new.untyped_storage())
            given = self.held
        self.held = given
        observer = self.gradients if gradients else self.observer
        how = call_late if late else None
        answer = observer.call(given, seed=seed, poison=poison, training=training, how=how, under=under)
        if not answer.error:
            for i, (now, then) in enumerate(zip(given, inputs, strict=True)):
                if not all(same(x.cpu(), y) for x, y in zip(tensors(now), tensors(then), strict=True)):
                    answer.facts.append(f"input {i} is changed")
        return answer

    def restore(self) -> None:
        self.module.load_state_dict(self._state)
        for part, training in self._modes:
            part.training = training


def _source(module: nn.Module) -> str:
    """The text that defines its class, where there is one; an optimised module holds its own."""
    text = getattr(type(module), "source", None)
    with contextlib.suppress(OSError, TypeError):
        text = text if isinstance(text, str) else inspect.getsource(type(module))
    return textwrap.dedent(text) if isinstance(text, str) else ""


def check_module(
    model: nn.Module,
    candidate: nn.Module,
    inputs: Sequence[object],
    *,
    seed: int | None = None,
    precision: str | None = None,
    gradients: bool = False,
    progress: Progress = quiet,
) -> Report:
    """Judges `candidate` against `model` on inputs like `inputs`, in this process.

    model, candidate: modules with the same state_dict keys; they may share parameters. Both come back as they were.
    inputs: positional arguments of forward; their shapes are the sizes at which the modules are judged.
    seed: repeats a check; None draws one. precision: "tf32", "fp16" or "bf16" allows products that precision; None only
    the dtype's own. gradients: compares those too. Raises CheckError when the model itself does not run on the inputs.
    """
    started = time.monotonic()
    seed = int.from_bytes(os.urandom(6), "big") if seed is None else seed
    device = next((value.device for value in model.state_dict().values()), None) or next(
        (tensor.device for tensor in tensors(list(inputs))), torch.device("cpu")
    )
    random_state = torch.get_rng_state()
    runner = LiveCandidate(candidate, device)
    try:
        reference = Reference(
            lambda dtype: copy.deepcopy(model).to(dtype),
            device=device,
            dtype=None,
            seed=seed,
            product_unit=product_unit(precision),
        )
        given = copy_tree(
            list(inputs), lambda tensor: twin(tensor).cpu() if tensor.device.type == "cpu" else tensor.cpu()
        )
        judge = Judge(reference, GivenInputs(given), seed=seed, progress=progress, gradients=gradients)
        first = judge.evaluation(judge.cases[0])
        if first.error:
            raise CheckError(
                f"the model raises {first.error}", doing="checking", on=type(model).__name__, hint="Check its inputs."
            )
        before = launches(candidate)
        results = tuple(judge.judge(runner, _source(candidate)))
        kernels = {name: count - before.get(name, 0) for name, count in launches(candidate).items()}
        return conclude(
            judge,
            results,
            candidate=type(candidate).__name__,
            reference=type(model).__name__,
            started=started,
            sizes={},
            notes=(),
            kernels=kernels,
        )
    finally:
        runner.restore()
        torch.set_rng_state(random_state)
