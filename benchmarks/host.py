"""What a user waits for besides the kernels: building them, and the Python around a launch."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
BUILD_BARS = (5.0, 0.3)  # seconds: cold cache, warm cache
OVERHEAD_BAR_S = 10e-6
_SMALL = {
    "sigmoid": {"batch_size": "64", "features": "1024"},
    "linear_sigmoid_sum": {"batch_size": "16", "in_features": "256", "out_features": "256"},
}

_FIRST_CALL = """
import sys, time, torch, importlib.util
spec = importlib.util.spec_from_file_location("optimised", sys.argv[1])
module = importlib.util.module_from_spec(spec)
torch.set_grad_enabled(False)
torch.ones(1 << 16).sigmoid()
start = time.perf_counter()
spec.loader.exec_module(module)
model, inputs = module.ModelNew(*module.get_init_inputs()), module.get_inputs()
model(*inputs)
first = time.perf_counter() - start
start = time.perf_counter()
module.ModelNew(*module.get_init_inputs())(*module.get_inputs())
print(first - (time.perf_counter() - start))
"""


def build_seconds() -> tuple[float, float]:
    """(cold, warm): seconds that the first call of an optimised file takes longer than the second, the slowest of
    some examples.

    The file is run as its owner would: in a new process, cold with an empty cache folder, then again with the folder
    as it was left.
    """
    from modelnew import api

    cold, warm = 0.0, 0.0
    for example, overrides in _SMALL.items():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{example}_new.py"
            api.optimize_file(
                EXAMPLES / f"{example}.py",
                output=file,
                overrides=overrides,
                device="cpu",
                check=False,
                bench=False,
            )
            environment = {**os.environ, "MODELNEW_CACHE_DIR": str(Path(folder) / "cache")}
            times = [float(_run(file, environment)) for _ in range(4)]
            cold, warm = max(cold, times[0]), max(warm, sorted(times[1:])[1])
    return cold, warm


def _run(file: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", _FIRST_CALL, str(file)]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def overhead_seconds() -> float:
    """Seconds of one call of an optimised module on 8 elements, less those of its launch called directly."""
    from modelnew import optimize

    x = torch.rand(8)
    module = optimize(nn.Sigmoid(), x)
    with torch.no_grad():
        module(x)
        launches = [_launch(kernel, x) for kernel in module.kernels.by_name.values()]
        return _median_seconds(lambda: module(x)) - sum(_median_seconds(launch) for launch in launches)


def _launch(kernel: Any, x: torch.Tensor) -> Callable[[], object]:
    """The built function that computes a result like `x` from `x`, with its arguments."""
    numbers = kernel.plan([x]).numbers
    y = torch.empty_like(x)
    function = getattr(kernel.owner.library("cpu", x.dtype), "launch_" + kernel.name)
    pointers = (y.data_ptr(), x.data_ptr(), (ctypes.c_int64 * len(numbers))(*numbers), torch.get_num_threads())

    def call(function: Any = function, pointers: tuple[Any, ...] = pointers, kept: torch.Tensor = y) -> object:
        return function(*pointers)

    return call


def _median_seconds(call: Callable[[], object], samples: int = 101, calls: int = 200) -> float:
    times = []
    for _ in range(samples):
        start = perf_counter()
        for _ in range(calls):
            call()
        times.append((perf_counter() - start) / calls)
    return sorted(times)[samples // 2]
