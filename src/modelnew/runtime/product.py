"""Matrix products by other means than PyTorch's default: oneDNN on the CPU, kernels of family 3 on the GPU.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

import math
import weakref
from collections.abc import Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.layout import collapse
from modelnew.runtime.plan_product import MOST_BATCH_DIMS, Factors

NOT_COVERED = -1  # what the launcher of a product says before it has done anything
MOST_WEIGHTS = 256  # whose rows' magnitudes are remembered


def onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: Optional[torch.Tensor] = None) -> torch.Tensor:
    """`torch.nn.functional.linear` by oneDNN for fp32 on the CPU, where PyTorch itself would call MKL; else PyTorch's way."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    plain = (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.dim() >= 2
        and x.numel()
        and weight.numel()
    )
    if found is None or not plain:
        return torch.nn.functional.linear(x, weight, bias)
    made: torch.Tensor = found(x, weight, bias, "none", [], "")
    return made


def can_scale(number: Any) -> bool:
    """Whether addmm's beta or alpha is one that a launch can have: 0 leaves its operand unread, whatever is in it."""
    return isinstance(number, (int, float)) and number != 0 and math.isfinite(number)


def scale_name(beta: float, alpha: float) -> str:
    """What the launch of an addmm has in its name, "" for 1 and 1: `_beta_0_5_alpha_2_0`."""
    if beta == alpha == 1:
        return ""
    texts = [repr(float(number)).replace("-", "minus_").replace("+", "").replace(".", "_") for number in (beta, alpha)]
    return "_beta_{}_alpha_{}".format(*texts)


def fp32_is_asked_for() -> bool:
    """Whether fp32 products are to be as accurate as fp32, or PyTorch has been allowed TF32."""
    try:
        return bool(torch.get_float32_matmul_precision() == "highest")
    except RuntimeError:  # set by the newer names
        return False


def factors_of(product: Any, x: torch.Tensor, weight: torch.Tensor) -> Optional[Factors]:
    """Of `product(x, weight)`, one of PyTorch's functions. None for what it does not take, and where nothing is multiplied."""
    ranks = {torch.nn.functional.linear: (x.dim(), 2), torch.mm: (2, 2), torch.bmm: (3, 3)}
    if (x.dim(), weight.dim()) != ranks.get(product, (x.dim(), weight.dim())) or min(x.dim(), weight.dim()) < 2:
        return None
    if product is not torch.nn.functional.linear:
        weight = weight.transpose(-1, -2)
    batch = broadcast(x.shape[:-2], weight.shape[:-2], exactly=product is torch.bmm)
    if batch is None or x.shape[-1] != weight.shape[-1] or 0 in (*x.shape, *weight.shape):
        return None
    (m, k), n = x.shape[-2:], weight.shape[-2]
    x_apart, w_apart = (_steps(t.shape[:-2], t.stride()[:-2], len(batch)) for t in (x, weight))
    return Factors(m, n, k, _last_two(x), _last_two(weight), batch, x_apart, w_apart)


def gathered(factors: Factors, strides: "list[tuple[int, ...]]") -> "Optional[tuple[Factors, list[tuple[int, ...]]]]":
    """The same with few dims of batches: none where they can be rows of one product.

    `strides`: of other operands along the batch's dims, m and n. None where more dims are left than a launch takes.
    """
    batch = factors.batch
    if not any(factors.w_apart):
        sizes = (*batch, factors.m)
        pitches = [
            collapsed_stride(sizes, steps) for steps in ((*factors.x_apart, factors.x[0]), *(s[:-1] for s in strides))
        ]
        if None not in pitches:
            pitch, *others = [pitch or 0 for pitch in pitches]
            one = Factors(factors.m * factors.batches, *factors[1:3], (pitch, factors.x[1]), factors.w)
            return one, [(step, s[-1]) for step, s in zip(others, strides)]
    kept, steps = collapse(batch, [factors.x_apart, factors.w_apart, *(s[:-2] for s in strides)])
    if len(kept) > MOST_BATCH_DIMS:
        return None
    found = factors._replace(batch=kept, x_apart=steps[0], w_apart=steps[1])
    return found, [(*apart, *s[-2:]) for apart, s in zip(steps[2:], strides)]


def broadcast(a: Sequence[int], b: Sequence[int], *, exactly: bool = False) -> "Optional[tuple[int, ...]]":
    """The sizes of both; None where they do not go together, or, `exactly`, are not the same."""
    if exactly:
        return tuple(a) if tuple(a) == tuple(b) else None
    rank = max(len(a), len(b))
    pairs = [*zip((*(1,) * (rank - len(a)), *a), (*(1,) * (rank - len(b)), *b))]
    if any(one != other and 1 not in (one, other) for one, other in pairs):
        return None
    return tuple(max(pair) for pair in pairs)


def _steps(sizes: Sequence[int], strides: Sequence[int], rank: int) -> "tuple[int, ...]":
    """Strides along `rank` dims, the last ones these; 0 where nothing changes."""
    return (*(0,) * (rank - len(sizes)), *(0 if size == 1 else stride for size, stride in zip(sizes, strides)))


def _last_two(t: torch.Tensor) -> "tuple[int, int]":
    return t.stride(-2), t.stride(-1)


def collapsed_stride(sizes: Sequence[int], strides: Sequence[int]) -> Optional[int]:
    """The stride of these dims taken as one; None where there is none."""
    pitch, expected = 0, None
    for size, stride in zip(reversed(sizes), reversed(strides)):
        if size == 1:
            continue
        if expected is None:
            pitch = stride
        elif stride != expected:
            return None
        expected = stride * size
    return pitch


class Hints:
    """What a launch leaves behind about a weight for the next one: a float for each of its rows, zero at first.

    A weight that is written to, as far as PyTorch knows, begins again; the result is right whatever the floats are. Nothing is
    kept of a tensor that is met once: what a forward computes is another one in each call, if at the same address.
    """

    def __init__(self) -> None:
        self.kept: dict[Any, tuple[Any, int, Optional[torch.Tensor]]] = {}

    def of(self, weight: torch.Tensor, factors: Factors) -> Optional[torch.Tensor]:
        """None at first."""
        key = (weight.data_ptr(), weight.device, *factors[1:3], factors.w, *factors[5:])
        whole = weight if weight._base is None else weight._base
        version = 0 if weight.is_inference() else weight._version
        found = self.kept.get(key)
        hints = None
        if found is not None and found[0]() is whole and found[1] == version:
            if found[2] is not None:
                return found[2]
            hints = torch.zeros(factors.n * factors.w_batches, dtype=torch.float32, device=weight.device)
        elif len(self.kept) >= MOST_WEIGHTS:
            self.kept.clear()
        self.kept[key] = (weakref.ref(whole), version, hints)
        return hints
