"""Kernels that come after a matrix product, as one launch with it where the device has one that pays.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.call import Made, queue_of, with_workspace
from modelnew.runtime.launch import Kernel, card_of, dtype_of
from modelnew.runtime.plan_product import ACROSS_AT, AMPERE, TILE_AT, plan_product
from modelnew.runtime.product import NOT_COVERED, Hints, collapsed_stride, factors_of, fp32_is_asked_for


class ProductKernel(Kernel):
    """A kernel one of whose inputs, number `product`, is a matrix product. `alone`: it is the product, and at most a bias."""

    def __init__(self, *arguments: Any, product: int, alone: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.product, self.alone = product, alone
        self.fused: dict[Any, Optional[Callable[..., Any]]] = {}
        self.hints = Hints()

    def after(
        self,
        product: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]",
        x: torch.Tensor,
        weight: torch.Tensor,
        *others: torch.Tensor,
    ) -> Any:
        """The kernel on `product(x, weight)` and its other inputs: as one launch where the device has one that pays."""
        result = self.with_product(product, x, weight, *others)
        if result is not None:
            return result
        return self(*self._with_operand(product(x, weight), others))

    def with_product(
        self,
        product: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]",
        x: torch.Tensor,
        weight: torch.Tensor,
        *others: torch.Tensor,
    ) -> Optional[torch.Tensor]:
        """What `after` returns, by one launch; None where there is none."""
        if not (x.is_cuda and fp32_is_asked_for()):
            return None
        given = (x, weight, *others)
        key = (product, *[(t.dtype, t.device, t.shape, t.stride(), t.data_ptr() % 16) for t in given])
        if key not in self.fused:
            self.fused[key] = self._prepare_product(product, x, weight, others)
        launch = self.fused[key]
        result = None if launch is None else launch(given)
        if result is not None:
            self.calls += 1
        return result

    def _with_operand(self, product: torch.Tensor, others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """All inputs, the product in its place among them."""
        return [*others[: self.product], product, *others[self.product :]]

    def _prepare_product(
        self, product: Any, x: torch.Tensor, weight: torch.Tensor, others: Sequence[torch.Tensor]
    ) -> Optional[Callable[..., Any]]:
        """One launch for the product and this kernel, as `after` calls it; None where there is none that pays."""
        factors = factors_of(x, weight.t() if product is torch.mm else weight)
        if factors is None or x.dtype != torch.float32 or weight.dtype != torch.float32:
            return None
        working = self._working(self._with_operand(x, others))
        like = torch.empty((*x.shape[:-1], factors.n), dtype=x.dtype, device="meta")  # how the product would lie
        tensors = self._with_operand(like, others)
        sizes = self._sizes(tensors)
        shapes, strides = self._results(sizes, tensors)
        laid = list(zip(self.outputs, strides, shapes))
        laid += [(o, t.stride(), t.shape) for o, t in zip(self.inputs, tensors) if t is not like]
        pairs = []
        for operand, stride, shape in laid:
            *outer, last = self._strides(operand, stride, shape)
            pitch = collapsed_stride(sizes[:-1], outer)
            if pitch is None:
                return None
            pairs.append((pitch, last))
        unmeasured = AMPERE in self.owner.sources
        plan = plan_product(factors, pairs, card_of(x.device), bool(self.reduced), self.alone, unmeasured)
        if plan is None:
            return None
        library = self.owner.products(plan.kind, plan.numbers[TILE_AT], plan.numbers[ACROSS_AT] != 0)
        function = getattr(library, "launch_" + self.name + "_product")
        function.argtypes = [ctypes.c_void_p] * (len(self.inputs) + 4) + [ctypes.c_int64]
        function.restype = ctypes.c_int
        run = with_workspace(function, plan, x.device)
        made = Made(shapes[0], strides[0], dtype_of(self.outputs[0].storage, working))
        queue = queue_of(x.device)

        def launch(given: Sequence[torch.Tensor]) -> Optional[torch.Tensor]:
            output = torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device=x.device)
            hints = self.hints.of(given[1], factors.n)
            pointers = [t.data_ptr() for t in (output, *given, hints)]
            code = run(*pointers, None, queue())  # with a workspace, `run` has the numbers
            if code == NOT_COVERED:
                return None
            if code:
                self._fail(code, given)
            return output

        return launch
