"""Which library is faster for a product on this CPU: measured on operands of the captured sizes, then chosen."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import fx

from modelnew.graph.capture import Captured
from modelnew.runtime.product import onednn_linear

ROUNDS = 3
WORTH = 1.1  # times faster, before the choice changes
MOST_ELEMENTS = 1 << 26  # of a weight; a larger one is measured on its first rows
LEAST_FLOPS = 1 << 22  # below this the call costs more than the product


def faster_products(captured: Captured) -> list[str]:
    """Names of the fp32 linear nodes on the CPU that oneDNN computes at least WORTH times faster than PyTorch's default."""
    chosen: list[str] = []
    known: dict[tuple[int, int, int], bool] = {}
    for node in captured.graph.nodes:
        sizes = _sizes(node)
        if sizes is None:
            continue
        if sizes not in known:
            known[sizes] = _is_faster(*sizes)
        if known[sizes]:
            chosen.append(node.name)
    return chosen


def _sizes(node: fx.Node) -> tuple[int, int, int] | None:
    """(rows, outputs, inputs) of a linear node that there is a choice for."""
    if node.target is not torch.ops.aten.linear.default:
        return None
    value = node.meta["val"]
    weight = node.args[1].meta["val"]  # type: ignore[union-attr]
    if value.dtype != torch.float32 or value.device.type != "cpu" or value.dim() < 2:
        return None
    outputs, inputs = (int(size) for size in weight.shape)
    rows = 1
    for size in value.shape[:-1]:
        rows *= int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)
    return (rows, outputs, inputs) if 2 * rows * outputs * inputs >= LEAST_FLOPS else None


def _is_faster(rows: int, outputs: int, inputs: int) -> bool:
    outputs = max(1, min(outputs, MOST_ELEMENTS // inputs))
    rows = max(1, min(rows, MOST_ELEMENTS // max(inputs, outputs)))
    x, weight = torch.rand(rows, inputs), torch.rand(outputs, inputs)
    calls: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: torch.nn.functional.linear(x, weight),
        lambda: onednn_linear(x, weight),
    )
    best = [float("inf")] * 2
    with torch.no_grad():
        for _ in range(ROUNDS + 1):  # interleaved; the first round also warms both up
            for i, call in enumerate(calls):
                started = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - started)
    return best[1] * WORTH < best[0]
