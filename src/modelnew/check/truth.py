"""The reference's side: its answer in float64, in the working dtype, and the noise around it."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from modelnew.check.gradients import WithGradients
from modelnew.check.noise import UNIT, Noise, Pool
from modelnew.check.observe import Answer, Observer, checksum, copy_tree, flatten, moved, same, twin
from modelnew.check.verdict import Truth, all_finite, compare, rms
from modelnew.check.wide import Draws, Recorder, Wide, tensors

RUNS = 5  # of Monte-Carlo arithmetic
STATE = "state "  # before the names of parameters and buffers that a call changes

Make = Callable[[torch.dtype | None], nn.Module]  # dtype → a fresh module on the device; None: as the file makes it


@dataclass(frozen=True)
class Setting:
    """What a run of the reference depends on. draws: what eager drew, to be drawn again. names: results to return."""

    inputs: list[Any]
    state: Mapping[str, torch.Tensor]
    training: bool
    draws: Draws
    names: tuple[str, ...]


@dataclass
class Evaluation:
    """What the reference says about one set of inputs. error: what eager raised, and then nothing else is set."""

    truths: dict[str, Truth] = field(default_factory=dict)
    answer: Answer = field(default_factory=Answer)
    facts: frozenset[str] = frozenset()
    error: str = ""
    setting: Setting | None = None


class Reference:
    """A model to compare with.

    make: builds it, on `device`; called once in the working dtype and once in float64. product_unit: unit roundoff of
    the inputs of products where less than the dtype's own precision is allowed. wide_parameters: False where float64
    copies of the parameters do not fit in memory: they are then widened as they are used.
    """

    def __init__(
        self,
        make: Make,
        *,
        device: torch.device,
        dtype: torch.dtype | None,
        seed: int,
        product_unit: float = 0.0,
        wide_parameters: bool = True,
        runs: int = RUNS,
    ) -> None:
        self.device = device
        self.runs = runs
        self.product_unit = product_unit
        self.module = make(dtype)
        self.observer = Observer(self.module)
        self.wide = make(torch.float64) if wide_parameters else self.module  # what runs in float64
        self.pool = Pool(seed, device)
        self.notes: list[str] = []
        self.dtype = dtype or _coarsest(self._state().values(), torch.float32)

    def settle(self, inputs: list[Any]) -> None:
        """Where neither a dtype was given nor the parameters have one: what the inputs are made of."""
        if not any(value.dtype in UNIT for value in self._state().values()):
            self.dtype = _coarsest(tensors(inputs), self.dtype)

    def with_gradients(self) -> Reference:
        """The same reference, whose answer is its outputs' gradients."""
        other = copy.copy(self)
        other.module, other.wide = WithGradients(self.module), WithGradients(self.wide)
        other.observer = Observer(other.module)
        return other

    def with_runs(self, runs: int) -> Reference:
        """The same reference, whose noise is measured by so many runs."""
        other = copy.copy(self)
        other.runs = runs
        return other

    def state(self) -> dict[str, torch.Tensor]:
        """The parameters and buffers as the reference makes them."""
        return {name: value.detach().clone() for name, value in self._state().items()}

    def buffers(self) -> dict[str, torch.Tensor]:
        """The part of the state that a forward may change."""
        names = {name for name, _ in self.module.named_buffers()}
        return {name: value.detach().clone() for name, value in self._state().items() if name in names}

    def checksums(self) -> dict[str, int]:
        """What tells whether another module has the same parameters and buffers."""
        return {name: int(checksum(value)) for name, value in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.module.state_dict().items() if isinstance(value, torch.Tensor)}

    def mode_matters(self, inputs: list[Any]) -> bool:
        """Whether eager answers differently when training and when not."""
        inputs = copy_tree(inputs, lambda tensor: moved(tensor, self.device))
        state = self.buffers()
        one, other = (self._eager(inputs, state, 0, training, Draws()) for training in (True, False))
        put(self.module, state)
        if one.error or other.error:
            return one.error != other.error
        alike = all(same(value, other.leaves[name]) for name, value in one.leaves.items() if name in other.leaves)
        return not alike or one.leaves.keys() != other.leaves.keys() or one.state.keys() != other.state.keys()

    def takes(self, inputs: list[Any]) -> bool:
        """Whether eager runs on these."""
        state = self.buffers()
        answer = self._eager(inputs, state, 0, self.module.training, Draws())
        put(self.module, state)
        return not answer.error

    def steady(self, inputs: list[Any], state: Mapping[str, torch.Tensor], *, seed: int, like: Evaluation) -> bool:
        """Whether eager answers to the same inputs as it did, but for rounding. Its random numbers are the same."""
        inputs = copy_tree(inputs, lambda tensor: moved(tensor, self.device))
        answer = self._eager(inputs, state, seed, self.module.training, Draws())
        before, now = _named(like.answer), _named(answer)
        return not answer.error and before.keys() == now.keys() and all(_near(now[n], before[n]) for n in before)

    def same_under(
        self,
        under: str,
        inputs: list[Any],
        state: Mapping[str, torch.Tensor],
        *,
        seed: int,
        training: bool,
        like: Evaluation,
    ) -> bool:
        """Whether eager answers as in `like`, which was under no_grad; with other answers, those truths do not hold."""
        copies = copy_tree(inputs, lambda tensor: twin(moved(tensor, self.device)))
        put(self.module, state)
        with _full_precision():
            answer = self.observer.call(copies, seed=seed, poison=False, training=training, under=under)
        self.observer.forget()
        return not answer.error and _agrees(_named(answer), like)

    def evaluate(
        self,
        inputs: list[Any],
        state: Mapping[str, torch.Tensor],
        *,
        seed: int,
        training: bool,
        like: Evaluation | None = None,
    ) -> Evaluation:
        """Everything about these inputs (CPU tensors) with these parameters.

        like: the evaluation of the same values in other memory. Its truth and noise hold here too where eager agrees: a
        model may look at its inputs' strides.
        """
        inputs = copy_tree(inputs, lambda tensor: moved(tensor, self.device))
        draws = Draws()
        answer = self._eager(inputs, state, seed, training, draws)
        if answer.error:
            return Evaluation(error=answer.error)
        eager = _named(answer)
        setting = Setting(inputs, state, training, draws, tuple(eager))
        if like is not None and _agrees(eager, like):
            truths = {name: replace(truth, eager=eager[name]) for name, truth in like.truths.items()}
        else:
            truths = self._truths(setting, eager)
        return Evaluation(truths, answer, frozenset(answer.facts), setting=setting)

    def _truths(self, setting: Setting, eager: Mapping[str, torch.Tensor]) -> dict[str, Truth]:
        exact = self._exact(setting, eager)
        noisy, integral = self._noisy(setting) if exact is not None else ([], False)
        unit = max(UNIT[self.dtype], self.product_unit)
        return {
            name: _truth(
                name, value, None if exact is None else exact[name], [run[name] for run in noisy], integral, unit
            )
            for name, value in eager.items()
        }

    def _eager(
        self, inputs: list[Any], state: Mapping[str, torch.Tensor], seed: int, training: bool, draws: Draws
    ) -> Answer:
        put(self.module, state)
        copies = copy_tree(inputs, twin)
        with _full_precision():
            answer = self.observer.call(copies, seed=seed, poison=False, training=training, modes=Recorder(draws))
        for i, (now, then) in enumerate(zip(copies, inputs, strict=True)):
            if not answer.error and not all(same(x, y) for x, y in zip(tensors(now), tensors(then), strict=True)):
                answer.facts.append(f"input {i} is changed")
        self.observer.forget()
        return answer

    def _exact(self, setting: Setting, eager: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        try:
            found = self.run(setting, Wide(setting.draws.rewind()))
            if any(found[name].shape != leaf.shape for name, leaf in eager.items()):
                raise RuntimeError("the float64 run returns other shapes")
        except Exception as error:
            self._note("the reference does not run in float64", error, "eager stands in for the truth")
            return None
        return found

    def _noisy(self, setting: Setting) -> tuple[list[dict[str, torch.Tensor]], bool]:
        magnitudes: dict[int, torch.Tensor] = {}
        found: list[dict[str, torch.Tensor]] = []
        integral = self.runs > 0
        try:
            for _ in range(self.runs):
                mode = Noise(self.dtype, self.pool, magnitudes, setting.draws.rewind(), self.product_unit)
                found.append(self.run(setting, mode))
                integral = integral and mode.integral
        except Exception as error:
            self._note("the noise cannot be measured", error, "the limits come from eager's own error alone")
            return [], False
        return found, integral

    def _note(self, what: str, error: Exception, consequence: str) -> None:
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
        note = f"{what} ({why}): {consequence}"
        if note not in self.notes:
            self.notes.append(note)

    def run(self, setting: Setting, mode: Wide) -> dict[str, torch.Tensor]:
        """One run in float64 under `mode`: name → output or changed state."""
        put(self.wide, setting.state)
        self.wide.train(setting.training)
        wide_inputs = copy_tree(setting.inputs, lambda tensor: twin(tensor, torch.float64))
        with torch.no_grad(), _default_dtype(torch.float64), mode:
            result = self.wide(*wide_inputs)
        leaves, _ = flatten(result)
        after = self.wide.state_dict()
        return {
            name: after[name.removeprefix(STATE)].detach().clone() if name.startswith(STATE) else leaves[name].detach()
            for name in setting.names
        }


def _named(answer: Answer) -> dict[str, torch.Tensor]:
    """Outputs and changed state by name."""
    return answer.leaves | {STATE + name: value for name, value in answer.state.items()}


def _near(now: torch.Tensor, before: torch.Tensor) -> bool:
    if now.shape != before.shape or now.dtype != before.dtype or not before.is_floating_point():
        return same(now, before)
    x, y = (value.to(torch.float64).nan_to_num(0.0) for value in (now, before))
    return rms(x - y) <= math.sqrt(UNIT[before.dtype]) * rms(y)


def _agrees(eager: Mapping[str, torch.Tensor], like: Evaluation) -> bool:
    """Whether eager's answer is one that the truths of `like` allow."""
    if eager.keys() != like.truths.keys():
        return False
    pairs = [(value, like.truths[name]) for name, value in eager.items()]
    return all(
        value.shape == truth.eager.shape and value.dtype == truth.eager.dtype and not compare(value, truth).reason
        for value, truth in pairs
    )


def put(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Sets the named parameters and buffers of `module` in place; the others stay as they are."""
    own = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def _truth(
    name: str,
    eager: torch.Tensor,
    exact: torch.Tensor | None,
    runs: list[torch.Tensor],
    integral: bool,
    unit: float,
) -> Truth:
    if not eager.is_floating_point():
        exact = eager if exact is None or exact.is_floating_point() else exact
        unstable = eager != exact
        for run in runs:
            unstable = unstable | (run.to(exact.dtype) != exact)
        return Truth(name, exact, eager, None, unstable)
    wide = eager.to(torch.float64) if exact is None else exact.to(torch.float64)
    squares = torch.zeros_like(wide)
    for run in runs:
        deviation = run.to(torch.float64) - wide
        squares.addcmul_(deviation, deviation)
    sigma = squares.div_(max(1, len(runs))).sqrt_()
    if not all_finite(sigma):
        sigma = torch.where(wide.isfinite(), sigma.nan_to_num(torch.inf, torch.inf), 0.0)
    return Truth(name, wide, eager, sigma, None, integral, unit)


def _coarsest(values: Iterable[torch.Tensor], otherwise: torch.dtype) -> torch.dtype:
    dtypes = [value.dtype for value in values if value.dtype in UNIT]
    return max(dtypes, key=lambda dtype: UNIT[dtype], default=otherwise)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No TF32 behind eager's fp32: it is the competitor."""
    if not torch.cuda.is_available():
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
