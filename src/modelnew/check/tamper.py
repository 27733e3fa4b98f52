"""What a candidate must leave alone in the process: the functions that measure and compare, and PyTorch's global
settings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

QUIET_SECONDS = 0.4
_processor_seconds, _sleep = time.process_time, time.sleep  # as they are before a candidate is imported
_TORCH = str(Path(torch.__file__).parent)
OPS = {"add": 2, "mul": 2, "div": 2, "mm": 2, "sum": 1, "exp": 1, "tanh": 1, "sigmoid": 1, "relu": 1}  # with operands
NUMBERS = (0.7390851332, -1.6180339887, 2.7182818284, 0.5671432904)


def functions() -> dict[str, Any]:
    """Name → the functions that a harness relies on, as they are now."""
    return {
        "torch.allclose": torch.allclose,
        "torch.equal": torch.equal,
        "torch.isclose": torch.isclose,
        "torch.testing.assert_close": torch.testing.assert_close,
        "torch.manual_seed": torch.manual_seed,
        "torch.rand": torch.rand,
        "torch.randn": torch.randn,
        "torch.cuda.synchronize": torch.cuda.synchronize,
        "torch.cuda.Event.record": torch.cuda.Event.record,
        "torch.cuda.Event.elapsed_time": torch.cuda.Event.elapsed_time,
        "torch.Tensor.__eq__": torch.Tensor.__eq__,
        "torch.Tensor.sub": torch.Tensor.sub,
        "torch.Tensor.abs": torch.Tensor.abs,
        "torch.nn.Module.__call__": torch.nn.Module.__call__,
        "time.time": time.time,
        "time.perf_counter": time.perf_counter,
        "time.perf_counter_ns": time.perf_counter_ns,
        "time.monotonic": time.monotonic,
    }


def changed_functions(before: dict[str, Any]) -> list[str]:
    return [
        f"{name} is replaced" for name, function in functions().items() if _inner(function) is not _inner(before[name])
    ]


def _inner(function: Any) -> Any:
    """Without the wrappers that PyTorch itself puts around some of them when its compiler is first imported."""
    while hasattr(function, "__wrapped__") and _ours_to_trust(function):
        function = function.__wrapped__
    return function


def _ours_to_trust(function: Any) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH)


def threads() -> set[int]:
    """Identities of the Python threads that are alive."""
    return {thread.ident for thread in threading.enumerate() if thread.ident is not None}


def works_alone() -> bool:
    """Whether this process uses the processor while nobody asks it for anything: threads that no list shows."""
    before = _processor_seconds()
    _sleep(QUIET_SECONDS)
    return _processor_seconds() - before > QUIET_SECONDS / 8


def flags() -> dict[str, Any]:
    """Global settings that change what other code computes. (`cudnn.benchmark` only chooses among algorithms: not
    here.)
    """
    return {
        "the default dtype": torch.get_default_dtype(),
        "the number of threads": torch.get_num_threads(),
        "torch.backends.cuda.matmul.allow_tf32": _read(lambda: torch.backends.cuda.matmul.allow_tf32),
        "torch.backends.cudnn.allow_tf32": _read(lambda: torch.backends.cudnn.allow_tf32),
        "float32_matmul_precision": _read(torch.get_float32_matmul_precision),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "grad mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"),
        "the number of modes that PyTorch is in": torch._C._len_torch_function_stack()
        + torch._C._len_torch_dispatch_stack(),
        "a hook on every module": bool(torch.nn.modules.module._has_any_global_hook()),
        "flushing of subnormal numbers": _read(lambda: torch.full((), 1e-45).mul(1.0).item() == 0.0),
        **{f"what torch.{name} gives": _given(name) for name in OPS},
    }


def _given(name: str) -> Any:
    """What one of PyTorch's functions makes of a few numbers: whoever replaces it, or what it calls, changes that for all."""
    try:
        return getattr(torch, name)(*(torch.tensor(NUMBERS).view(2, 2) for _ in range(OPS[name]))).double().sum().item()
    except Exception as error:
        return type(error).__name__


def _read(get: Callable[[], Any]) -> Any:
    """PyTorch refuses to read a precision through the old names once it was set through the new ones: that is a change
    too.
    """
    try:
        return get()
    except RuntimeError:
        return "mixed"


def changed_flags(before: dict[str, Any]) -> list[str]:
    return [f"{name} is changed from {before[name]} to {now}" for name, now in flags().items() if now != before[name]]
