"""The reference's side: its answer in float64, in the working dtype, and the noise around it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from modelnew.check.noise import UNIT, Noise, Pool
from modelnew.check.observe import Answer, Observer, copy_tree, flatten, same, twin
from modelnew.check.verdict import Truth
from modelnew.check.wide import NARROW, Draws, Recorder, Wide, tensors

RUNS = 5  # of Monte-Carlo arithmetic

Make = Callable[[torch.dtype | None], nn.Module]  # dtype → a fresh module on the device; None: as the file makes it


@dataclass
class Evaluation:
    """What the reference says about one set of inputs. error: what eager raised, and then nothing else is set."""

    truths: dict[str, Truth] = field(default_factory=dict)
    answer: Answer = field(default_factory=Answer)
    facts: frozenset[str] = frozenset()
    error: str = ""
    random: bool = False


class Reference:
    """A model to compare with.

    make: builds it, on `device`; called once in the working dtype and once in float64. wide_parameters: False where float64 copies of the
    parameters do not fit in memory: they are then widened as they are used.
    """

    def __init__(self, make: Make, *, device: torch.device, dtype: torch.dtype | None, seed: int, wide_parameters: bool = True) -> None:
        self.device = device
        self.observer = Observer(make(dtype))
        self.module = self.observer.module
        self.wide = make(torch.float64) if wide_parameters else self.module
        self.pool = Pool(seed, device)
        self.notes: list[str] = []
        self.dtype = dtype or _dtype_of(self.module)

    def state(self) -> dict[str, torch.Tensor]:
        """The parameters and buffers as the reference makes them."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def evaluate(
        self, inputs: list[Any], state: Mapping[str, torch.Tensor], *, seed: int, training: bool, like: Evaluation | None = None
    ) -> Evaluation:
        """Everything about these inputs (CPU tensors) with these parameters.

        like: the evaluation of the same values in other memory, whose truth and noise hold here too.
        """
        inputs = copy_tree(inputs, lambda tensor: _placed(tensor, self.device))
        draws = Draws()
        answer = self._eager(inputs, state, seed, training, draws)
        if answer.error:
            return Evaluation(error=answer.error)
        names = [*answer.leaves, *(f"state {name}" for name in answer.state)]
        eager = answer.leaves | {f"state {name}": value for name, value in answer.state.items()}
        if like is not None and set(names) == set(like.truths):
            truths = {name: replace(truth, eager=eager[name]) for name, truth in like.truths.items()}
            return Evaluation(truths, answer, frozenset(answer.facts), random=like.random)
        exact = self._exact(inputs, state, training, draws, names, answer)
        noisy, integral = self._noisy(inputs, state, training, draws, names, RUNS if exact is not None else 0)
        truths = {
            name: _truth(name, eager[name], None if exact is None else exact[name], [run[name] for run in noisy], integral)
            for name in names
        }
        return Evaluation(truths, answer, frozenset(answer.facts), random=bool(draws.recorded))

    def _eager(self, inputs: list[Any], state: Mapping[str, torch.Tensor], seed: int, training: bool, draws: Draws) -> Answer:
        self.module.load_state_dict(dict(state))
        copies = copy_tree(inputs, twin)
        with _full_precision():
            answer = self.observer.call(copies, seed=seed, poison=False, training=training, modes=Recorder(draws))
        for i, (now, then) in enumerate(zip(copies, inputs, strict=True)):
            if not answer.error and not all(same(x, y) for x, y in zip(tensors(now), tensors(then), strict=True)):
                answer.facts.append(f"input {i} is changed")
        self.observer.previous = []
        return answer

    def _exact(
        self, inputs: list[Any], state: Mapping[str, torch.Tensor], training: bool, draws: Draws, names: list[str], answer: Answer
    ) -> dict[str, torch.Tensor] | None:
        try:
            found = self._run(inputs, state, training, Wide(draws.rewind()), names)
            if any(found[name].shape != leaf.shape for name, leaf in answer.leaves.items()):
                raise RuntimeError("the float64 run returns other shapes")
        except Exception as error:
            note = f"the reference does not run in float64 ({type(error).__name__}: {str(error).splitlines()[0][:120]}): eager stands in for the truth"
            if note not in self.notes:
                self.notes.append(note)
            return None
        return found

    def _noisy(
        self, inputs: list[Any], state: Mapping[str, torch.Tensor], training: bool, draws: Draws, names: list[str], runs: int
    ) -> tuple[list[dict[str, torch.Tensor]], bool]:
        magnitudes: dict[int, torch.Tensor] = {}
        found, integral = [], True
        for _ in range(runs):
            mode = Noise(self.dtype, self.pool, magnitudes, draws.rewind())
            found.append(self._run(inputs, state, training, mode, names))
            integral = integral and mode.integral
        return found, integral and bool(found)

    def _run(
        self, inputs: list[Any], state: Mapping[str, torch.Tensor], training: bool, mode: Wide, names: list[str]
    ) -> dict[str, torch.Tensor]:
        """One float64 run: name → output or changed state."""
        self.wide.load_state_dict(dict(state))
        self.wide.train(training)
        wide_inputs = copy_tree(inputs, lambda tensor: twin(tensor).to(torch.float64) if tensor.dtype in NARROW else twin(tensor))
        with torch.no_grad(), _default_dtype(torch.float64), mode:
            result = self.wide(*wide_inputs)
        leaves, _ = flatten(result)
        after = self.wide.state_dict()
        return {
            name: after[name[len("state ") :]].detach().clone() if name.startswith("state ") else leaves[name].detach() for name in names
        }


def _truth(name: str, eager: torch.Tensor, exact: torch.Tensor | None, runs: list[torch.Tensor], integral: bool) -> Truth:
    if not eager.is_floating_point():
        exact = eager if exact is None or exact.is_floating_point() else exact
        unstable = eager != exact
        for run in runs:
            unstable = unstable | (run.to(exact.dtype) != exact)
        return Truth(name, exact, eager, None, unstable)
    wide = eager.to(torch.float64) if exact is None else exact.to(torch.float64)
    sigma = torch.zeros_like(wide)
    for run in runs:
        deviation = run.to(torch.float64) - wide
        sigma += torch.where(deviation.isfinite(), deviation, torch.inf).square() / len(runs)
    sigma = torch.where(wide.isfinite(), sigma.sqrt(), torch.zeros_like(sigma))
    return Truth(name, wide, eager, sigma, None, integral)


def _placed(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type == "cpu":
        return tensor
    storage = tensor.untyped_storage().to(device)
    return torch.empty(0, dtype=tensor.dtype, device=device).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def _dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype a module computes in: the coarsest of its parameters; fp32 without any."""
    dtypes = {value.dtype for value in module.state_dict().values() if value.dtype in UNIT}
    return max(dtypes, key=lambda dtype: UNIT[dtype]) if dtypes else torch.float32


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
