"""Times of products by every tile and number of parts of k, beside the library's: what plan_product.py's rule goes by.

    PYTHONPATH=src python benchmarks/product_sweep.py [--batched]

Writes results/product-sweep-MACHINE.json: microseconds on the device, of launches in a CUDA graph. tests/nodevice has the
rule judged by it. With --batched the same of several products at a time, product-sweep-batched-MACHINE.json: nothing is
remembered of their weights.
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
from modelnew.runtime.plan_product import BATCH_TILES, K_BLOCK
from tests.compiled import Function, compiled
from tests.cuda.product_kernels import build_all, library, plan_of

WIDTHS = (
    (128, 128), (256, 256), (256, 1024), (1024, 256), (512, 512), (768, 768), (1000, 1000), (1024, 1024), (1536, 1536),
    (2048, 2048), (3072, 768), (768, 3072), (4096, 512), (512, 4096), (4096, 4096), (11008, 4096), (4096, 11008),
    (8192, 8192), (200, 16384), (16384, 200), (50256, 768),
)  # fmt: skip
BATCHES = (2, 3, 4, 8, 16, 17, 32, 48, 64, 65, 96, 128, 192, 256, 384, 512, 1000, 2048, 4096, 8192)
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_WORK = 1 << 33
BATCHED = (
    (16, 1024, 1024, 1024), (64, 512, 512, 512), (4, 2048, 2048, 2048), (2, 4096, 4096, 1024), (16, 512, 512, 2048),
    (8, 4096, 4096, 128), (8, 4096, 128, 4096), (8, 4096, 4096, 64), (32, 1024, 1024, 128), (32, 1024, 128, 1024),
    (96, 1024, 1024, 64), (96, 1024, 64, 1024), (128, 128, 64, 2048), (128, 128, 2048, 64), (128, 64, 128, 2048),
    (256, 128, 128, 128), (256, 128, 128, 512), (64, 256, 256, 256), (512, 64, 64, 1024), (8, 2048, 2048, 512),
    (32, 16, 4096, 1024), (32, 64, 1024, 1024), (4, 64, 8192, 2048), (12, 300, 700, 500), (7, 1000, 1000, 1000),
    (3, 777, 3000, 640), (24, 2048, 64, 2048), (48, 200, 2000, 400), (1024, 32, 32, 512), (2, 128, 8192, 8192),
)  # fmt: skip
HERE = Path(__file__).resolve().parent


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Per call, the better of two replays."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    times = []
    for _ in range(2):
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
        times.append(before.elapsed_time(after) / calls * 1e3)
    return round(min(times), 1)


def launches(
    name: str, y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, calls: int
) -> dict[str, float]:
    """By "tile,splits", where they suit the sizes."""
    m, blocks = x.shape[-2], -(-x.shape[-1] // K_BLOCK)
    hints = torch.zeros(w.shape[0], device="cuda") if w.dim() == 2 else None
    found = {}
    for tile in BATCH_TILES:
        if not (m <= 256 if tile == 16 else 4 * m > tile):
            continue
        for splits in SPLITS:
            if splits > 1 and splits * 4 > blocks:
                continue
            plan = plan_of([y], x, w, [bias], tile, splits)
            workspace = torch.empty(plan.workspace, dtype=torch.uint8, device="cuda")
            numbers = (*plan.numbers, workspace.data_ptr())
            array = (ctypes.c_int64 * len(numbers))(*numbers)
            pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in (y, x, w, bias, hints)]
            launch = getattr(library(plan.kind, tile, plan.numbers[0]), name)

            def call() -> None:
                stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
                code = launch(*pointers, array, stream)  # noqa: B023
                assert code == 0, code

            found[f"{tile},{splits}"] = microseconds(call, calls)
    return found


def row(m: int, n: int, k: int, after: Callable[..., object]) -> dict[str, object]:
    x, w = torch.randn(m, k, device="cuda"), torch.randn(n, k, device="cuda") / k**0.5
    bias, product = torch.randn(n, device="cuda"), torch.randn(m, n, device="cuda")
    calls = 10 if m * n * k < MOST_WORK >> 2 else 4
    return {
        "sizes": [m, n, k],
        "library": microseconds(lambda: functional.linear(x, w, bias), calls),
        "library, no bias": microseconds(lambda: functional.linear(x, w), calls),
        "a kernel after it": microseconds(lambda: after(product, bias), calls),
        "rows reduced": launches("sigmoid_sum", torch.empty(m, device="cuda"), x, w, bias, calls),
        "stored": launches("bias", torch.empty(m, n, device="cuda"), x, w, bias, calls),
    }


def batched_row(batch: int, m: int, n: int, k: int, after: Callable[..., object]) -> dict[str, object]:
    """The weights' columns are contiguous, as a model's products have them."""
    x, w = torch.randn(batch, m, k, device="cuda"), torch.randn(batch, k, n, device="cuda").mT / k**0.5
    bias, y = torch.randn(n, device="cuda"), torch.empty(batch, m, n, device="cuda")
    calls = 10 if batch * m * n * k < MOST_WORK >> 2 else 4
    return {
        "sizes": [batch, m, n, k],
        "library": microseconds(lambda: torch.bmm(x, w.mT), calls),
        "a kernel after it": microseconds(lambda: after(y.flatten(0, 1), bias), calls),
        "rows reduced": launches("sigmoid_sum", torch.empty(batch, m, device="cuda"), x, w, bias, calls),
        "stored": launches("bias", y, x, w, bias, calls),
        "stored, turned": launches("bias", y.mT, w, x, bias[:, None].expand(n, m), calls),
    }


def main() -> int:
    batched = "--batched" in sys.argv[1:]
    torch.backends.cuda.matmul.allow_tf32 = False
    build_all()
    model = Function(lambda s, x, w, b: torch.sigmoid(functional.linear(x, w, b)).sum(1))
    rows = []
    with torch.no_grad():
        fast, _ = compiled(model, [torch.randn(size, device="cuda") for size in ((8, 64), (64, 64), (64,))])
        (after,) = fast.kernels.by_name.values()  # type: ignore[union-attr,operator]
        for sizes in BATCHED if batched else ():
            rows.append(batched_row(*sizes, after))
            print(*sizes, flush=True)
        for n, k in () if batched else WIDTHS:
            rows += [row(m, n, k, after) for m in BATCHES if m * n * k <= MOST_WORK]
            print(f"{n} x {k}", flush=True)
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name("cuda").lower()).strip("-")
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in rows)
    about = json.dumps({"machine": machine.describe("cuda")})[1:-1]
    path = HERE / "results" / f"product-sweep-{'batched-' if batched else ''}{slug}.json"
    path.write_text(f'{{"schema": "modelnew.product-sweep/1", {about}, "rows": [\n{lines}\n]}}\n')
    return 0


if __name__ == "__main__":
    sys.exit(main())
