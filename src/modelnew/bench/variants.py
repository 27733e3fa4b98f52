"""What is raced: the original, what PyTorch makes of it, and optimised files."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from modelnew import fakes, reference
from modelnew.constants import imported
from modelnew.errors import BenchError, UsageError
from modelnew.problem import Problem

COMPILE_MODES = {"torch.compile": None, "torch.compile max-autotune": "max-autotune"}
BASELINES = ("eager", *COMPILE_MODES)
PREPARED = "compile"


def require_options(baselines: Sequence[str], *limits_s: float) -> None:
    """Raises UsageError for a baseline that there is not, or a number of seconds in which nothing can be done."""
    for name in baselines:
        if name not in BASELINES:
            hint = f"Choose from {', '.join(BASELINES)}."
            raise UsageError(f"there is no baseline {name!r}", doing="timing", hint=hint)
    for seconds in limits_s:
        if not 0 < seconds < math.inf:
            hint = "Give a number of seconds above 0."
            raise UsageError(f"nothing can be timed in {seconds:g} s", doing="timing", hint=hint)


def baseline(name: str, model: nn.Module) -> Callable[..., object]:
    """The variant of that name, one of `BASELINES`, made from the original."""
    if name == "eager":
        return model
    compiled: Callable[..., object] = torch.compile(model, mode=COMPILE_MODES[name])
    return compiled


def prepared(baselines: Sequence[str], device: str) -> tuple[str, ...]:
    """What a nursery's command is told, so that it does beforehand what its workers would each do: see
    `prepare_compiling`. Nothing for a GPU, whose kernels are compiled by processes of their own."""
    compiles = any(name in COMPILE_MODES for name in baselines)
    return (PREPARED,) if compiles and torch.device(device).type == "cpu" else ()


def prepare_compiling() -> None:
    """Does once what every new process that compiles would do by itself: import the compiler, ask what the CPU can do.

    For a process that forks others. Nothing may start a thread here: threads do not survive a fork.
    """
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    with contextlib.suppress(Exception):  # these are PyTorch's own parts, which move; later it does this by itself
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")
        importlib.import_module("torch._inductor.cpu_vec_isa").pick_vec_isa()


def candidate(path: Path, problem: Problem, model: nn.Module, *, device: str) -> nn.Module:
    """The `ModelNew` of an optimised file, made with the reference's constructor arguments, with the very parameters
    of `model`.

    Raises BenchError when the file defines no ModelNew or its parameters are not the original's.
    """
    module = imported(path, f"candidate_{abs(hash(path.resolve())):x}", problem.overrides)
    make = getattr(module, "ModelNew", None)
    if make is None:
        raise BenchError("the file defines no ModelNew", doing="timing a candidate", on=str(path))
    args, kwargs = reference.constructor_arguments(problem.path, problem.module)
    new: nn.Module = fakes.made_on(device, lambda: make(*args, **kwargs))
    new.load_state_dict(model.state_dict(), assign=True)  # shares memory: huge weights exist once
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return new.to(device, floating) if floating is not None else new.to(device)
