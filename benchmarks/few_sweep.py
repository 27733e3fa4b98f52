"""Times of products of few rows by numbers of slices of k, beside the library's.

    PYTHONPATH=src python benchmarks/few_sweep.py

Writes results/few-sweep-MACHINE.json: microseconds on the device, of launches in a CUDA graph, each of a weight that has
left the caches.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.nn import functional

from modelnew.bench import machine
from modelnew.runtime.launch import card_of
from modelnew.runtime.plan_few import few_splits, few_tile, launch_of_few
from modelnew.runtime.plan_product import Factors
from tests.cuda.test_product_few import build_all, library

SIZES = (
    (32768, 32768), (4096, 4096), (11008, 4096), (4096, 11008), (1024, 1024), (128256, 4096), (8192, 8192), (2048, 2048),
    (768, 3072), (3072, 768), (512, 16384), (16384, 512),
)  # fmt: skip
ROWS = (1, 2, 3, 4, 6, 8)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CACHES = 200_000_000  # bytes of weights between two uses of one
HERE = Path(__file__).resolve().parent


def microseconds(calls: list[Callable[[], object]]) -> float:
    """Per call, the median of three replays."""
    calls[0]()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(3):
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / len(calls) * 1e3)
    return round(sorted(times)[1], 2)


def weights(n: int, k: int, dtype: torch.dtype, across: int) -> list[torch.Tensor]:
    """So many that a launch finds nothing of its own in the caches; few calls where each is long."""
    count = max(2, -(-CACHES // (n * k * dtype.itemsize)))
    size = (k, n) if across else (n, k)
    made = [torch.empty(size, device="cuda", dtype=dtype).uniform_(-1, 1) for _ in range(min(count, 100))]
    return [w.t() if across else w for w in made]


def launch(
    name: str,
    y: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    splits: int,
    found: ctypes.CDLL,
    bias: list[torch.Tensor],
) -> Callable[[], None]:
    factors = Factors(x.shape[0], w.shape[0], x.shape[1], x.stride(), w.stride())
    reduces = y.dim() == 1
    lies = (y.stride(0), 0 if reduces else 1)
    plan = launch_of_few(factors, [lies, *[(0, 1)] * len(bias)], card_of(x.device), reduces, splits)
    workspace = torch.empty(max(1, plan.workspace), dtype=torch.uint8, device="cuda")
    numbers = (ctypes.c_int64 * (len(plan.numbers) + 1))(*plan.numbers, workspace.data_ptr())
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (y, x, w, *bias)]
    function = getattr(found, name)

    def call(kept: object = (y, x, w, bias, workspace)) -> None:
        code = function(*pointers, numbers, ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        assert code == 0, code

    return call


def by_slices(
    name: str, y: torch.Tensor, x: torch.Tensor, ws: list[torch.Tensor], found: ctypes.CDLL, bias: list[torch.Tensor]
) -> dict[str, float]:
    factors = Factors(x.shape[0], ws[0].shape[0], x.shape[1], x.stride(), ws[0].stride())
    possible = few_splits(factors, x.element_size(), card_of(x.device))
    some = possible[:3] + possible[3:12:2] + possible[12::12]
    return {str(s): microseconds([launch(name, y, x, w, s, found, bias) for w in ws]) for s in some}


def row(m: int, ws: list[torch.Tensor], across: int) -> dict[str, object]:
    (n, k), dtype = ws[0].shape, ws[0].dtype
    x, bias = torch.randn(m, k, device="cuda").to(dtype), torch.randn(n, device="cuda").to(dtype)
    found = library(dtype, few_tile(m), across)
    out = torch.empty(m, n, device="cuda", dtype=dtype)
    return {
        "sizes": [m, n, k],
        "dtype": str(dtype).removeprefix("torch."),
        "across": across,
        "library": microseconds([lambda w=w: functional.linear(x, w) for w in ws]),  # type: ignore[misc]
        "stored": by_slices("plain", out, x, ws, found, []),
        "rows reduced": by_slices("mean_of_sigmoid", torch.empty(m, device="cuda"), x, ws, found, [bias]),
    }


def main() -> int:
    torch.backends.cuda.matmul.allow_tf32 = False
    build_all()
    rows = []
    with torch.no_grad():
        for dtype in DTYPES:
            for n, k in SIZES:
                for across in (0, 1):
                    ws = weights(n, k, dtype, across)
                    rows += [row(m, ws, across) for m in ROWS]
                    del ws
                print(f"{dtype} {n} x {k}", flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name("cuda").lower()).strip("-")
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in rows)
    about = json.dumps({"machine": machine.describe("cuda")})[1:-1]
    path = HERE / "results" / f"few-sweep-{slug}.json"
    path.write_text(f'{{"schema": "modelnew.few-sweep/1", {about}, "rows": [\n{lines}\n]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
