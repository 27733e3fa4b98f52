"""fp32 products with what follows them: ours, PyTorch's, and Triton's `tf32x3` with the same epilogue in one kernel.

    python benchmarks/products.py [--rounds N] [--batches 16,128]

Triton's kernel is compiled in every configuration of a grid, the fastest of which is timed, in turn with the others.
Prints a table, with errors against float64, and writes results/products-MACHINE.json when all batches were run. Exit
code 1 where ours is not 1.2 times as fast as Triton's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import triton
import triton.language as tl
from torch import nn

from benchmarks.cases import EAGER, LinearSigmoidSum
from benchmarks.cuda import OURS, time_all
from modelnew.bench import machine

TRITON = "triton tf32x3"
BAR = 1.2
FEATURES, BATCHES = 32768, (16, 64, 128, 512, 4096)
SQUARE = 4096
AT_ONCE = 14  # processes that compile
HERE = Path(__file__).resolve().parent


class Config(NamedTuple):
    batch: int  # rows of x per block
    features: int  # rows of the weight per block
    depth: int  # along k
    warps: int
    stages: int


def configs() -> Iterator[Config]:
    """Those whose tiles fit in shared memory, and whose sums fit in registers."""
    for batch, features in itertools.product((16, 64, 128), (64, 128, 256)):
        for depth, stages in ((32, 2), (32, 3), (32, 4), (64, 2), (64, 3)):
            small = (batch + features) * depth * 4 * stages <= 200 << 10 and batch * features <= 1 << 14
            if small:
                yield Config(batch, features, depth, 8 if batch * features >= 1 << 13 else 4, stages)


@triton.jit
def product_kernel(
    x, w, bias, y, m, n, k, tiles,
    reduces: tl.constexpr, batch: tl.constexpr, features: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """y[m, n] = x · wᵀ + bias, or with `reduces` y[m, tile] = the tile's sum of sigmoids of that. n and k are whole tiles."""
    batches = tl.cdiv(m, batch)
    together = tl.minimum(batches, 8)  # blocks that run at a time share rows of both factors
    first = tl.program_id(0) // (together * tiles) * together
    within = tl.program_id(0) % (together * tiles)
    together = tl.minimum(batches - first, together)
    rows = (first + within % together) * batch + tl.arange(0, batch)
    tile = within // together
    columns = tile * features + tl.arange(0, features)
    steps = tl.arange(0, depth)
    x_at = x + rows[:, None].to(tl.int64) * k + steps[None, :]
    w_at = w + columns[:, None].to(tl.int64) * k + steps[None, :]
    there = rows[:, None] < m
    total = tl.zeros((batch, features) if batch >= 64 else (features, batch), tl.float32)
    for _ in range(0, k, depth):
        of_x, of_w = tl.load(x_at, mask=there, other=0.0), tl.load(w_at)
        if batch >= 64:
            total = tl.dot(of_x, tl.trans(of_w), total, input_precision="tf32x3")
        else:  # the tensor core's first factor has 64 rows at least
            total = tl.dot(of_w, tl.trans(of_x), total, input_precision="tf32x3")
        x_at += depth
        w_at += depth
    if batch < 64:
        total = tl.trans(total)
    total += tl.load(bias + columns)[None, :]
    if reduces:
        tl.store(y + rows * tiles + tile, tl.sum(tl.sigmoid(total), 1), mask=rows < m)
    else:
        tl.store(y + rows[:, None].to(tl.int64) * n + columns[None, :], total, mask=there)


def by_triton(config: Config, reduces: bool, x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    m, k = x.shape
    n = layer.weight.shape[0]
    tiles = n // config.features
    y = torch.empty(m, tiles if reduces else n, device="cuda")
    grid = (tiles * triton.cdiv(m, config.batch),)
    product_kernel[grid](
        x, layer.weight, layer.bias, y, m, n, k, tiles, reduces, config.batch, config.features, config.depth,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
    return y.sum(1, keepdim=True) if reduces else y


def compiles(task: tuple[Config, bool]) -> bool:
    """Leaves the binary in Triton's cache; False where the device has no room for it."""
    config, reduces = task
    with torch.no_grad(), torch.device("cuda"):
        try:
            by_triton(config, reduces, torch.randn(256, 1024), nn.Linear(1024, 8192))
            torch.cuda.synchronize()
        except (triton.runtime.errors.OutOfResources, RuntimeError):
            return False
    return True


class Contender(NamedTuple):
    """A model with its optimised module, and the part of it that Triton's kernel computes as well."""

    model: nn.Module
    fast: nn.Module
    layer: nn.Linear
    reduces: bool
    usable: list[Config]


def fastest(contender: Contender, x: torch.Tensor) -> Config:
    def seconds(config: Config) -> float:
        call = lambda: by_triton(config, contender.reduces, x, contender.layer)  # noqa: E731
        call()
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(3):
            call()
        after.record()
        torch.cuda.synchronize()
        return before.elapsed_time(after)

    m = x.shape[0]
    suited = [c for c in contender.usable if min(m, 128) <= 2 * c.batch and c.batch <= 2 * m]
    return min(suited, key=seconds)


def rms_error(y: torch.Tensor, layer: nn.Linear, x: torch.Tensor) -> float:
    """Relative to the rms of the logits."""
    truth = x.double() @ layer.weight.double().T + layer.bias.double()
    return float((y - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def measure(contender: Contender, x: torch.Tensor, rounds: int) -> dict[str, Any]:
    config = fastest(contender, x)
    variants: dict[str, Callable[[], object]] = {
        EAGER: lambda: contender.model(x),
        OURS: lambda: contender.fast(x),
        TRITON: lambda: by_triton(config, contender.reduces, x, contender.layer),
    }
    results = {name: call() for name, call in variants.items()}
    times = time_all(variants, rounds, 1)
    seconds = {name: statistics.median(samples) for name, samples in times.items()}
    row: dict[str, Any] = {"sizes": [x.shape[0], *contender.layer.weight.shape], "reduces": contender.reduces}
    row.update(seconds=seconds, ratios={name: seconds[name] / seconds[OURS] for name in (EAGER, TRITON)})
    row["config"] = config._asdict()
    if not contender.reduces:
        row["rms errors"] = {name: rms_error(y, contender.layer, x) for name, y in results.items()}  # type: ignore[arg-type]
    return row


def line(row: dict[str, Any]) -> str:
    what = "linear + sigmoid + sum" if row["reduces"] else "linear"
    times = ", ".join(f"{name} {seconds * 1e3:.3f} ms" for name, seconds in row["seconds"].items())
    ratios = ", ".join(f"{ratio:.2f} x {name}" for name, ratio in row["ratios"].items())
    errors = (
        "; rms errors " + ", ".join(f"{k} {v:.2g}" for k, v in row["rms errors"].items()) if "rms errors" in row else ""
    )
    return f"{what} {'x'.join(map(str, row['sizes']))}: {times}: {ratios}{errors}  {tuple(row['config'].values())}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=lambda text: tuple(map(int, text.split(","))), default=BATCHES)
    options = parser.parse_args()
    from modelnew import optimize

    tasks = [(config, reduces) for reduces in (True, False) for config in configs() if reduces or config.batch > 16]
    with ProcessPoolExecutor(AT_ONCE, multiprocessing.get_context("spawn")) as pool:
        usable = [task for task, works in zip(tasks, pool.map(compiles, tasks), strict=True) if works]
    print(f"{len(usable)} of {len(tasks)} configurations of Triton's kernel run", flush=True)
    rows = []
    makers = ((lambda: nn.Linear(SQUARE, SQUARE), (SQUARE,)), (lambda: LinearSigmoidSum(FEATURES), options.batches))
    torch.manual_seed(0)
    for make, batches in makers:
        with torch.device("cuda"):  # 4 GB of weights take long on the host
            model = make()
        layer = model if isinstance(model, nn.Linear) else model.linear
        usable_here = [config for config, reduces in usable if reduces == (model is not layer)]
        with torch.no_grad():
            fast = optimize(model, torch.randn(batches[0], layer.in_features, device="cuda"))
            contender = Contender(model, fast, layer, model is not layer, usable_here)
            for batch in batches:
                x = torch.randn(batch, layer.in_features, device="cuda")
                rows.append(measure(contender, x, options.rounds))
                print(line(rows[-1]), flush=True)
    if options.batches == BATCHES:
        document = {"schema": "modelnew.products/1", "machine": machine.describe("cuda"), "rows": rows}
        slug = re.sub(r"[^a-z0-9]+", "-", machine.name("cuda").lower()).strip("-")
        (HERE / "results" / f"products-{slug}.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0 if all(row["ratios"][TRITON] >= BAR for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
