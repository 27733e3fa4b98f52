"""The models that `cuda.py` measures, with the least speed that each must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from benchmarks.cases import COMPILE, EAGER, GatedChain, LinearSigmoidSum, Pointwise

COPY = "copy"
ROWS, COLUMNS = 4096, 393216


class Transposed(Pointwise):
    """The same of a transposed tensor. Eager's result is laid out as its input, so eager reads and writes in order."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x.t())


class TransposedContiguous(Pointwise):
    """The same with a contiguous result, so that something has to be transposed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x.t()).contiguous()


class Sliced(Pointwise):
    """The same without the last column: rows begin at any alignment."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x[:, :-1])


class Chain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.clamp(torch.tanh(1.5 * x + 0.3) * torch.sigmoid(x), -0.5, 0.5)


class NormGelu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.norm(x))


class Sum(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(self.dim)


def _on_gpu(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Parameters made on the device: 4 GB of them take long on the host."""

    def made() -> nn.Module:
        with torch.device("cuda"):
            return make()

    return made


@dataclass(frozen=True)
class Case:
    """bars: what it is compared with → least speed-up over that. copies: it moves as many bytes as a copy of its input.
    calls: per sample; more than one: seconds of the host per call, for inputs too small to keep the device busy."""

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], list[torch.Tensor]]
    bars: Mapping[str, float]
    copies: bool = False
    calls: int = 1


def _rand(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], list[torch.Tensor]]:
    return lambda: [torch.rand(*shape, dtype=dtype, device="cuda")]


def _randn(*shape: int) -> Callable[[], list[torch.Tensor]]:
    return lambda: [torch.randn(*shape, device="cuda")]


FUNCTIONS = {"sigmoid": torch.sigmoid, "hardsigmoid": functional.hardsigmoid}
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_WIDE = (256, 4096, 4096)


def _pointwise_cases() -> list[Case]:
    cases = []
    for name, function in FUNCTIONS.items():
        for dtype_name, dtype in DTYPES.items():
            least = 1.0 if dtype == torch.float32 else 1.05
            cases.append(
                Case(
                    f"{name}, {dtype_name}, 4096×393216",
                    lambda function=function: Pointwise(function),
                    _rand(ROWS, COLUMNS, dtype=dtype),
                    {COPY: 0.98, EAGER: least, COMPILE: least},
                    copies=True,
                )
            )
        views = {"transposed": Transposed, "transposed, made contiguous": TransposedContiguous}
        for view, model in views.items():
            make = lambda model=model, function=function: model(function)  # noqa: E731
            cases.append(Case(f"{name}, {view}, 4096×393216", make, _rand(COLUMNS, ROWS), {EAGER: 2}, copies=True))
        make = lambda function=function: Sliced(function)  # noqa: E731
        sliced = f"{name}, rows 393217 apart, 4096×393216"
        cases.append(Case(sliced, make, _rand(ROWS, COLUMNS + 1), {EAGER: 2}, copies=True))
    return cases


FEATURES = 32768
LEAST_BY_BATCH = {1: 1.0, 16: 1.0, 64: 2.0, 128: 3.0, 512: 2.0, 4096: 2.0}


def _product_cases() -> list[Case]:
    """fp32 products; what moves is the weight, so that no rate is given."""
    sums = [
        Case(
            f"linear + sigmoid + sum, {batch}×{FEATURES}×{FEATURES}",
            _on_gpu(lambda: LinearSigmoidSum(FEATURES)),
            _randn(batch, FEATURES),
            {EAGER: least, COMPILE: least},
        )
        for batch, least in LEAST_BY_BATCH.items()
    ]
    linear = Case("linear, 4096×4096×4096", _on_gpu(lambda: nn.Linear(4096, 4096)), _randn(4096, 4096), {EAGER: 1.8})
    narrow = Case(
        f"linear + sigmoid + sum, bf16, 4×{FEATURES}×{FEATURES}",
        _on_gpu(lambda: LinearSigmoidSum(FEATURES).bfloat16()),
        lambda: [torch.randn(4, FEATURES, device="cuda", dtype=torch.bfloat16)],
        {EAGER: 1, COMPILE: 1},
    )
    several = Case(
        "16 products of 1024×1024×1024",
        lambda: Pointwise(lambda x: torch.bmm(x[0], x[1])),
        _randn(2, 16, 1024, 1024),
        {EAGER: 1, COMPILE: 1},
    )
    return [*sums, narrow, linear, several]


def _logits_cases() -> list[Case]:
    """What is done with the logits of a large vocabulary."""
    either = {EAGER: 1, COMPILE: 1}
    logits = (4096, 131072)
    return [
        Case(f"{name}, 4096×131072", lambda model=model: model, _randn(*logits), either, copies)
        for name, model, copies in (
            ("logsumexp", Pointwise(lambda x: torch.logsumexp(x, 1)), False),
            ("log_softmax", nn.LogSoftmax(dim=1), True),
        )
    ] + [
        Case(
            f"cross-entropy, {name}, 4096×131072",
            nn.CrossEntropyLoss,
            lambda dtype=dtype: [
                torch.randn(*logits, device="cuda", dtype=dtype),
                torch.randint(logits[1], logits[:1], device="cuda"),
            ],
            either,
        )
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]


CASES = (
    *_pointwise_cases(),
    Case("clamp(tanh(1.5x + 0.3)·sigmoid(x), ±0.5), 2^30", Chain, _randn(1 << 30), {EAGER: 4, COMPILE: 1}, copies=True),
    Case(
        "clamp(gelu(tanh(1.5x + 0.3)·sigmoid(x)), ±1), 2^30",
        GatedChain,
        _randn(1 << 30),
        {EAGER: 4, COMPILE: 1},
        copies=True,
    ),
    Case("softmax, 4096×393216", lambda: nn.Softmax(dim=1), _randn(ROWS, COLUMNS), {EAGER: 2, COMPILE: 1.4}, True),
    Case("LayerNorm + GELU, 16×4194304", lambda: NormGelu(1 << 22), _randn(16, 1 << 22), {EAGER: 2, COMPILE: 1}, True),
    Case("LayerNorm + GELU, 65536×1024", lambda: NormGelu(1024), _randn(65536, 1024), {EAGER: 2, COMPILE: 1}, True),
    *(
        Case(f"sum over dim {dim}, 256×4096×4096", lambda dim=dim: Sum(dim), _randn(*_WIDE), {EAGER: 1, COMPILE: 1})
        for dim in range(3)
    ),
    *_logits_cases(),
    *_product_cases(),
    Case("sigmoid, 1024 elements", lambda: Pointwise(torch.sigmoid), _rand(1024), {EAGER: 1}, calls=1000),
)
