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
from modelnew.runtime.product import onednn_linear


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
        matrix, row = Operand("T", (0, 1)), Operand("T", (1,))
        self.plain = ProductKernel(self, "linear", [matrix], [matrix], 2, product=0, alone=True)
        self.with_bias = ProductKernel(self, "linear_with_bias", [matrix, row], [matrix], 2, product=0, alone=True)

    def linear(self, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """`torch.nn.functional.linear`, by a launch of ours where the device has one that pays."""
        product = torch.nn.functional.linear
        if x.is_cuda and x.dim() >= 2 and HOPPER in self.sources:
            rows, others = x.flatten(0, -2), () if bias is None else (bias,)
            found = (self.with_bias if others else self.plain).with_product(product, rows, weight, *others)
            if found is not None:
                return found.view(*x.shape[:-1], found.shape[-1])
        return product(x, weight, bias)

    def mm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`torch.mm`, likewise."""
        ours = x.is_cuda and HOPPER in self.sources
        found = self.plain.with_product(torch.mm, x, weight) if ours else None
        return torch.mm(x, weight) if found is None else found

    def onednn_linear(self, x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
        """`linear`, on the CPU by oneDNN."""
        return onednn_linear(x, weight, bias) if x.device.type == "cpu" else self.linear(x, weight, bias)

    @property
    def calls(self) -> "dict[str, int]":
        """Launches of each kernel since the file was loaded; of products by themselves where there were any."""
        found = {name: kernel.calls for name, kernel in self.by_name.items()}
        layers = self.plain.calls + self.with_bias.calls
        return {**found, "linear": layers} if layers else found

    def library(self, target: str, working: Optional[torch.dtype]) -> ctypes.CDLL:
        scalar = SCALARS[working or torch.float32]
        found = self.libraries.get((target, scalar))
        if found is None:
            found = build(self.name, self.sources[target], target, ("MN_T=" + scalar,))
            self.libraries[(target, scalar)] = found
        return found

    def products(self, kind: str, batch_tile: int, across: bool) -> ctypes.CDLL:
        """The kernels of this kind that take in a product, for batches of this tile, and weights that are contiguous along n
        (`across`) or k: most of a build's time goes into one."""
        defines = ("MN_T=float", f"MN_BATCH_TILE={batch_tile}", *(("MN_WEIGHT_ACROSS=1",) if across else ()))
        key = (kind, " ".join(defines))
        found = self.libraries.get(key)
        if found is None:
            found = self.libraries[key] = build(f"{self.name}_{kind}", self.sources[kind], "cuda", defines)
        return found
