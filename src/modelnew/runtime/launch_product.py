"""Kernels that come after a matrix product, as one launch with it where the device has one that pays.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.call import Made, queue_of, with_workspace
from modelnew.runtime.launch import Kernel, card_of, dtype_of
from modelnew.runtime.plan_few import FEW, plan_few
from modelnew.runtime.plan_product import ACROSS_AT, AMPERE, TILE_AT, plan_product
from modelnew.runtime.product import NOT_COVERED, Hints, factors_of, fp32_is_asked_for, gathered
from modelnew.runtime.quick import checker, nothing_is_like

Prepared = tuple[Any, Callable[..., bool], Optional[Callable[..., Any]]]  # what multiplies; for which tensors; a launch


class ProductKernel(Kernel):
    """A kernel one of whose inputs, number `product`, is a matrix product. `alone`: it is the product, and at most a bias."""

    def __init__(self, *arguments: Any, product: int, alone: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.product, self.alone = product, alone
        self.fused: dict[Any, Prepared] = {}
        self.latest_product: Prepared = (None, nothing_is_like, None)
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
        function, is_like, launch = self.latest_product  # all at once: another thread may be changing them
        if function is not product or not is_like(*given):
            key = (product, *[(t.dtype, t.device, t.shape, t.stride(), t.data_ptr() % 16) for t in given])
            found = self.fused.get(key)
            if found is None:
                found = (product, checker(given), self._prepare_product(product, x, weight, others))
                self.fused[key] = found
            self.latest_product, launch = found, found[2]
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
        factors = factors_of(product, x, weight)
        if factors is None or x.dtype != torch.float32 or weight.dtype != torch.float32:
            return None
        working = self._working(self._with_operand(x, others))
        like = torch.empty((*factors.batch, factors.m, factors.n), dtype=x.dtype, device="meta")  # how it would lie
        tensors = self._with_operand(like, others)
        sizes = self._sizes(tensors)
        shapes, strides = self._results(sizes, tensors)
        laid = list(zip(self.outputs, strides, shapes))
        laid += [(o, t.stride(), t.shape) for o, t in zip(self.inputs, tensors) if t is not like]
        found = gathered(factors, [tuple(self._strides(*operand)) for operand in laid])
        if found is None:
            return None
        factors, steps = found
        about = (factors, steps, card_of(x.device), bool(self.reduced), self.alone)
        plan = plan_few(*about) or plan_product(*about, AMPERE in self.owner.sources)
        if plan is None:
            return None
        library = self.owner.products(plan.kind, x.dtype, plan.numbers[TILE_AT], plan.numbers[ACROSS_AT] != 0)
        function = getattr(library, "launch_" + self.name + "_product")
        function.argtypes = [ctypes.c_void_p] * (len(self.inputs) + 4) + [ctypes.c_int64]
        function.restype = ctypes.c_int
        run = with_workspace(function, plan, x.device)
        made = Made(shapes[0], strides[0], dtype_of(self.outputs[0].storage, working))
        queue, turned = queue_of(x.device), plan.turned
        numbers = (ctypes.c_int64 * len(plan.numbers))(*plan.numbers)
        if turned:
            factors = factors.turned()

        def launch(given: Sequence[torch.Tensor]) -> Optional[torch.Tensor]:
            output = torch.empty_strided(made.shape, made.strides, dtype=made.dtype, device=x.device)
            if turned:
                given = (given[1], given[0], *given[2:])
            hints = None if plan.kind == FEW else self.hints.of(given[1], factors)
            pointers = [t.data_ptr() for t in (output, *given)]
            code = run(*pointers, hints if hints is None else hints.data_ptr(), numbers, queue())
            if code == NOT_COVERED:
                return None
            if code:
                self._fail(code, given)
            return output

        return launch
