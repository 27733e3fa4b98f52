"""Monte-Carlo arithmetic: a float64 run in which every op makes errors of the size that the working dtype makes.

Several such runs around the float64 truth show how far an honest implementation may land from it: cancellation, long
sums and steep functions widen the spread by themselves, so no tolerance per op is needed.

- Floating inputs and outputs of an op that rounds are multiplied by 1 + 2u·U(-1, 1), u the unit roundoff.
- Ops that add K terms also get u·sqrt(K)/3 · op(|inputs|) · N(0, 1): what a sequential sum in the compute dtype
  legitimately loses, which PyTorch's own error (cascade sums) does not show.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import get_decompositions

from modelnew.check.wide import Draws, Wide, chunked, combine_bias, split_product, widen, written

aten = torch.ops.aten

UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}

# Ops that return some of their operands' values, or small integers: they round nothing.
EXACT = frozenset(
    """
    clone copy cat stack index index_select gather embedding where relu abs neg sign maximum minimum max min amax
    amin argmax argmin topk sort eq ne lt le gt ge logical_and logical_or logical_not logical_xor floor ceil round
    trunc clamp clamp_min clamp_max hardtanh threshold constant_pad_nd reflection_pad1d reflection_pad2d
    replication_pad1d replication_pad2d flip roll repeat tril triu max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices fill zero full ones zeros empty full_like ones_like zeros_like empty_like new_empty
    new_zeros new_ones new_full arange scalar_tensor eye masked_fill scatter index_put slice_scatter select_scatter
    _to_copy isnan isinf isfinite bitwise_and bitwise_or bitwise_not bitwise_xor any all nonzero unfold one_hot
    _local_scalar_dense upsample_nearest1d upsample_nearest2d upsample_nearest3d median kthvalue searchsorted
    bucketize diagonal_copy expand_copy _unsafe_view _reshape_copy lift_fresh_copy fmax fmin unique_consecutive
    _unique2 nan_to_num channel_shuffle pixel_shuffle native_dropout repeat_interleave
    """.split()
)
# Sums and products of their inputs: exact on small integers, in any order.
MULTILINEAR = frozenset("add sub mul rsub mm addmm bmm baddbmm mv addmv dot convolution sum cumsum square".split())
SUMS = frozenset("sum mean cumsum avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d nansum".split())
PRODUCTS = frozenset("mm addmm bmm baddbmm mv addmv dot convolution".split())

DECOMPOSED: dict[Any, Callable[..., Any]] = dict(
    get_decompositions(
        [
            aten._safe_softmax,
            aten.native_group_norm,
            aten._native_batch_norm_legit,
            aten._native_batch_norm_legit_no_training,
            aten._scaled_dot_product_flash_attention_for_cpu,
            aten.logsumexp,
            aten.mse_loss,
            aten.smooth_l1_loss,
            aten.huber_loss,
            aten.binary_cross_entropy,
            aten.binary_cross_entropy_with_logits,
            aten.soft_margin_loss,
            aten.nll_loss_forward,
        ]
    )
)


def op_name(func: Any) -> str:
    name: str = func.overloadpacket.__name__
    return name[:-1] if name.endswith("_") and not name.startswith("__") else name


class Pool:
    """Random numbers drawn once and reused at random offsets: drawing fresh ones for every op would cost more than the
    ops.
    """

    SIZE = (1 << 20) + 7

    def __init__(self, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.uniform = torch.rand(self.SIZE, generator=generator, dtype=torch.float64).mul_(2).sub_(1).to(device)
        self.normal = torch.randn(self.SIZE, generator=generator, dtype=torch.float64).to(device)
        self.generator = generator

    def draw(self, pool: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        count = math.prod(shape)
        start = int(torch.randint(0, self.SIZE, (1,), generator=self.generator))
        if start + count <= self.SIZE:
            return pool[start : start + count].view(shape)
        pieces = [pool[start:]]
        rest = count - (self.SIZE - start)
        pieces += [pool] * (rest // self.SIZE) + [pool[: rest % self.SIZE]]
        return torch.cat(pieces)[:count].view(shape)


class Noise(Wide):
    """Float64 with the errors of `dtype` in every op.

    `product_unit`: unit roundoff of a product's inputs where it is coarser than the dtype's own (TF32, half inputs).
    """

    def __init__(
        self,
        dtype: torch.dtype,
        pool: Pool,
        magnitudes: dict[int, torch.Tensor],
        draws: Draws | None = None,
        product_unit: float = 0.0,
    ) -> None:
        super().__init__(draws)
        self.store_unit = UNIT[dtype]
        self.compute_unit = min(UNIT[dtype], UNIT[torch.float32])  # halves are summed in fp32
        self.product_unit = product_unit / 4  # a rounding error is half as large, and a coarser precision must not pass
        self.pool = pool
        self.magnitudes = magnitudes  # op(|inputs|) by the op's position in the run, shared by the runs
        self.position = 0
        self.multilinear = True  # nothing but sums, products and exact ops so far
        self.largest = 0.0  # the largest sum of magnitudes behind any element

    @property
    def integral(self) -> bool:
        """Whether whole numbers in give exact whole numbers out in the working dtype, whatever the order of
        summation.
        """
        return self.multilinear and self.largest < 1 / self.store_unit

    def jitter(self, value: torch.Tensor, unit: float) -> torch.Tensor:
        return value * self.pool.draw(self.pool.uniform, value.shape).mul(2 * unit).add_(1)

    def compute(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func in OWN or func in DECOMPOSED:
            with self:
                return (OWN.get(func) or DECOMPOSED[func])(*args, **kwargs)
        name = op_name(func)
        if name in EXACT or func.is_view or not _floating_result(func, args):
            return func(*args, **kwargs)
        self.position += 1
        self.multilinear &= name in MULTILINEAR
        targets = written(func)
        unit = max(self.compute_unit, self.product_unit if name in PRODUCTS else 0.0)
        noisy = [self._jitter_tree(arg, unit) if i not in targets else arg for i, arg in enumerate(args)]
        out = func(*noisy, **kwargs)
        if name in SUMS or name in PRODUCTS:
            self._accumulate(out, func, name, args, kwargs)
        return self._round(out, in_place=bool(targets))

    def _jitter_tree(self, arg: Any, unit: float) -> Any:
        if isinstance(arg, torch.Tensor) and arg.is_floating_point():
            return self.jitter(arg, unit)
        if isinstance(arg, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in arg):
            return [self._jitter_tree(item, unit) for item in arg]
        return arg

    def _round(self, out: Any, in_place: bool) -> Any:
        if isinstance(out, (tuple, list)):
            return type(out)(self._round(item, in_place) for item in out)
        if not isinstance(out, torch.Tensor) or not out.is_floating_point():
            return out
        noise = self.pool.draw(self.pool.uniform, out.shape).mul(2 * self.store_unit).add_(1)
        return out.mul_(noise) if in_place or out.is_contiguous() else out * noise

    def _accumulate(self, out: torch.Tensor, func: Any, name: str, args: Any, kwargs: Any) -> None:
        magnitude = self.magnitudes.get(self.position)
        if magnitude is None or magnitude.shape != out.shape:
            magnitude, terms = _magnitude(func, name, args, kwargs, out)
            self._remember(magnitude, terms)
        out.addcmul_(magnitude, self.pool.draw(self.pool.normal, out.shape))

    def _remember(self, magnitude: torch.Tensor, terms: float) -> None:
        if magnitude.numel():
            self.largest = max(self.largest, float(magnitude.max()))
        self.magnitudes[self.position] = magnitude.mul_(self.compute_unit * math.sqrt(max(1.0, terms)) / 3)

    def product(self, func: Any, args: Any, kwargs: Any) -> torch.Tensor:
        self.position += 1
        bias, a, b = split_product(func, args)
        unit = max(self.compute_unit, self.product_unit)
        out = chunked(torch.mm, self.jitter(widen(a), unit), b, lambda part: self.jitter(part, unit))
        magnitude = self.magnitudes.get(self.position)
        if magnitude is None:
            magnitude = chunked(torch.mm, widen(a).abs(), b, torch.abs)
            self._remember(magnitude, a.shape[1])
        out.addcmul_(magnitude, self.pool.draw(self.pool.normal, out.shape))
        noise: torch.Tensor = self._round(combine_bias(bias, out, kwargs), in_place=True)
        return noise


def _floating_result(func: Any, args: Any) -> bool:
    return any(
        isinstance(item, torch.Tensor) and item.is_floating_point()
        for arg in args
        for item in (arg if isinstance(arg, (list, tuple)) else (arg,))
    )


def _magnitude(func: Any, name: str, args: Any, kwargs: Any, out: torch.Tensor) -> tuple[torch.Tensor, float]:
    """op(|inputs|), and the number of terms behind each of its elements."""
    if name in SUMS:
        source = args[0]
        terms = source.shape[args[1]] if name == "cumsum" and source.dim() else source.numel() / max(1, out.numel())
        return func(source.abs(), *args[1:], **kwargs), terms
    if name == "convolution":
        inputs, weight, transposed = args[0].abs(), args[1].abs(), args[6]
        terms = weight.numel() / weight.shape[1] if transposed else weight[0].numel()
        return func(inputs, weight, None, *args[3:], **kwargs), terms
    a, b = args[-2], args[-1]
    return torch.matmul(a.abs(), b.abs()).mul_(abs(kwargs.get("alpha", 1))), a.shape[-1]


def _variance(
    x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    return _variance_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def _variance_mean(
    x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two passes, as a careful implementation does it."""
    dims = list(range(x.dim())) if not dim and dim != 0 else ([dim] if isinstance(dim, int) else list(dim))
    count = math.prod(x.shape[d] for d in dims)
    mean = x.mean(dims, keepdim=True)
    squares = (x - mean).square().sum(dims, keepdim=keepdim)
    variance = squares / max(0.0, count - (1 if correction is None else correction))
    return variance, (mean if keepdim else mean.reshape(variance.shape))


def _deviation(
    x: torch.Tensor, dim: Any = None, *, correction: float | None = None, keepdim: bool = False
) -> torch.Tensor:
    return _variance(x, dim, correction=correction, keepdim=keepdim).sqrt()


def _softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    powers = _shifted(x, dim).exp()
    return powers / powers.sum(dim, keepdim=True)


def _log_softmax(x: torch.Tensor, dim: int, half_to_float: bool = False) -> torch.Tensor:
    shifted = _shifted(x, dim)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _shifted(x: torch.Tensor, dim: int) -> torch.Tensor:
    return x - x.amax(dim, keepdim=True) if x.numel() else x.clone()


def _layer_norm(x: torch.Tensor, shape: list[int], weight: Any, bias: Any, eps: float) -> tuple[torch.Tensor, ...]:
    variance, mean = _variance_mean(x, [-1 - d for d in range(len(shape))], correction=0, keepdim=True)
    scale = (variance + eps).rsqrt()
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return out if bias is None else out + bias, mean, scale


def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float
) -> tuple[torch.Tensor, ...]:
    """mean, variance: the running ones, which are updated where it trains."""
    used_variance, used_mean = variance, mean
    if training:
        dims = [0, *range(2, x.dim())]
        used_variance, used_mean = _variance_mean(x, dims, correction=0)
        count = x.numel() / x.shape[1]
        if mean is not None:
            mean.copy_(used_mean * momentum + mean * (1 - momentum))
        if variance is not None:
            variance.copy_(used_variance * (count / (count - 1)) * momentum + variance * (1 - momentum))
    scale = (used_variance + eps).rsqrt()
    column = [-1, *(1 for _ in range(x.dim() - 2))]
    out = (x - used_mean.view(column)) * scale.view(column)
    out = out if weight is None else out * weight.view(column)
    return out if bias is None else out + bias.view(column), used_mean, scale


# Shorter than PyTorch's decompositions, which take ten times as long by looking at every argument's dtype and strides.
OWN: dict[Any, Callable[..., Any]] = {
    aten._softmax.default: _softmax,
    aten._log_softmax.default: _log_softmax,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.var.correction: _variance,
    aten.std.correction: _deviation,
    aten.var_mean.correction: _variance_mean,
    aten.linalg_vector_norm.default: lambda x, order=2, dim=None, keepdim=False, dtype=None: _vector_norm(
        x, order, dim, keepdim
    ),
}


def _vector_norm(x: torch.Tensor, order: float, dim: Any, keepdim: bool) -> torch.Tensor:
    dims = list(range(x.dim())) if dim is None else ([dim] if isinstance(dim, int) else list(dim))
    if order == 2:
        return x.square().sum(dims, keepdim=keepdim).sqrt()
    if order == 1:
        return x.abs().sum(dims, keepdim=keepdim)
    if order in (0.0, math.inf, -math.inf):
        return torch.amax(x.abs(), dims, keepdim) if order == math.inf else _rare_norm(x, order, dims, keepdim)
    total: torch.Tensor = x.abs().pow(order).sum(dims, keepdim=keepdim)
    return total.pow(1 / order)


def _rare_norm(x: torch.Tensor, order: float, dims: list[int], keepdim: bool) -> torch.Tensor:
    if order == 0:
        return (x != 0).to(x.dtype).sum(dims, keepdim=keepdim)
    return torch.amin(x.abs(), dims, keepdim)
