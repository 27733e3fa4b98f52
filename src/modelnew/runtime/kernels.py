"""A file's kernels and products, and the libraries that they are built into.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.build import build
from modelnew.runtime.launch import SCALARS, Kernel, Operand
from modelnew.runtime.launch_product import ProductKernel
from modelnew.runtime.plan_product import HOPPER
from modelnew.runtime.product import can_scale, onednn_linear, scale_name


class Kernels:
    """All kernels of a file, as attributes, and the libraries that they are built into when first called.

    `sources`: target ("cpu", "cuda"), or kernel of products → C++ text. `working`: dtypes that T may stand for; a library
    is built for each that is met.
    """

    def __init__(
        self,
        name: str,
        sources: "dict[str, str]",
        working: Sequence[torch.dtype],
        kernels: "dict[str, dict[str, Any]]",
    ) -> None:
        self.name, self.sources, self.working = name, sources, tuple(working)
        self.libraries: dict[tuple[str, str], ctypes.CDLL] = {}
        self.by_name: dict[str, Kernel] = {}
        for kernel, spec in kernels.items():
            self.by_name[kernel] = (ProductKernel if "product" in spec else Kernel)(self, kernel, **spec)
        self.__dict__.update(self.by_name)
        self.plain: dict[tuple[str, int, int], ProductKernel] = {}

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """`torch.nn.functional.linear`, by a launch of ours where the device has one that pays."""
        product, found = torch.nn.functional.linear, None
        if x.is_cuda and x.dim() >= 2:
            found = self.alone(product, x.flatten(0, -2), weight, bias)
        return product(x, weight, bias) if found is None else found.view(*x.shape[:-1], found.shape[-1])

    def mm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`torch.mm`, likewise."""
        found = self.alone(torch.mm, x, weight)
        return torch.mm(x, weight) if found is None else found

    def bmm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`torch.bmm`, likewise."""
        found = self.alone(torch.bmm, x, weight)
        return torch.bmm(x, weight) if found is None else found

    def matmul(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`torch.matmul`, likewise."""
        if not x.is_cuda or x.dim() < 2 or weight.dim() != 2:
            found = self.alone(torch.matmul, x, weight)
            return torch.matmul(x, weight) if found is None else found
        found = self.alone(torch.mm, x.flatten(0, -2), weight)
        return torch.matmul(x, weight) if found is None else found.view(*x.shape[:-1], found.shape[-1])

    def addmm(
        self, bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, beta: float = 1, alpha: float = 1
    ) -> torch.Tensor:
        """`torch.addmm`, likewise."""
        found = None
        if x.is_cuda and x.dim() == weight.dim() == 2 and can_scale(beta) and can_scale(alpha):
            rows = bias if bias.shape == weight.shape[1:] else bias.expand(x.shape[0], weight.shape[1])
            found = self.alone(torch.mm, x, weight, rows, scale_name(beta, alpha))
        return torch.addmm(bias, x, weight, beta=beta, alpha=alpha) if found is None else found

    def alone(
        self,
        product: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: Optional[torch.Tensor] = None,
        scale: str = "",
    ) -> Optional[torch.Tensor]:
        """A product that no kernel takes in, by a launch of ours: None where there is none that pays.

        bias: of all the result's dims, or its last one. scale: `scale_name` of what both are multiplied by.
        """
        if not x.is_cuda or HOPPER not in self.sources:
            return None
        rank = max(x.dim(), weight.dim())
        others = () if bias is None else (bias,)
        key = (scale, rank, 0 if bias is None else bias.dim())
        if key not in self.plain:
            whole = Operand("T", tuple(range(rank)))
            inputs = [whole, *(Operand("T", whole.axes[rank - t.dim() :]) for t in others)]
            name = "linear_with_bias" + scale if others else "linear"
            self.plain[key] = ProductKernel(self, name, inputs, [whole], rank, product=0, alone=True)
        return self.plain[key].with_product(product, x, weight, *others)

    def onednn_linear(self, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """`linear`, on the CPU by oneDNN."""
        return onednn_linear(x, weight, bias) if x.device.type == "cpu" else self.linear(x, weight, bias)

    @property
    def calls(self) -> "dict[str, int]":
        """Launches of each kernel since the file was loaded; of products by themselves where there were any."""
        found = {name: kernel.calls for name, kernel in self.by_name.items()}
        layers = sum(kernel.calls for kernel in self.plain.values())
        return {**found, "linear": layers} if layers else found

    def library(self, target: str, working: Optional[torch.dtype]) -> ctypes.CDLL:
        scalar = SCALARS[working or torch.float32]
        found = self.libraries.get((target, scalar))
        if found is None:
            found = build(self.name, self.sources[target], target, ("MN_T=" + scalar,))
            self.libraries[(target, scalar)] = found
        return found

    def products(self, kind: str, working: torch.dtype, batch_tile: int, across: bool) -> ctypes.CDLL:
        """The kernels of this kind that take in a product of this dtype, for batches of this tile, and weights that are
        contiguous along n (`across`) or k: most of a build's time goes into one."""
        defines = (
            f"MN_T={SCALARS[working]}",
            f"MN_BATCH_TILE={batch_tile}",
            *(("MN_WEIGHT_ACROSS=1",) if across else ()),
        )
        key = (kind, " ".join(defines))
        found = self.libraries.get(key)
        if found is None:
            found = self.libraries[key] = build(f"{self.name}_{kind}", self.sources[kind], "cuda", defines)
        return found
