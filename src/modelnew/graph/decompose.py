"""Ops that are made of others, written as plain torch functions that torch.export traces.

Everything in the ops table stays whole; what is here becomes pointwise ops and reductions, which fuse again into one row program.
The rest falls apart by PyTorch's own default decompositions, or stays a library call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modelnew.kernel.ops import POINTWISE, REDUCTIONS

aten = torch.ops.aten
DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {}

# Library calls that are better whole than in pieces.
KEPT = (
    aten.linear.default,
    aten.matmul.default,
    aten.scaled_dot_product_attention.default,
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose3d.input,
    aten.embedding.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    # random: the same call as eager's draws the same numbers
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.rrelu.default,
)


def decomposition_table() -> Any:
    """What `ExportedProgram.run_decompositions` takes."""
    table = torch.export.default_decompositions()
    for op in (*POINTWISE, *REDUCTIONS, *KEPT):
        table.pop(op, None)
    for op, function in DECOMPOSITIONS.items():
        table[op] = function
    return table


def stays_whole(op: Any) -> bool:
    """Whether an op is left as it is: a kernel computes it, or it is a better library call than its pieces."""
    return op in POINTWISE or op in REDUCTIONS or op in KEPT


@functools.cache
def _pytorchs() -> dict[Any, Callable[..., Any]]:
    return dict(torch.export.default_decompositions().items())


def decomposition(op: Any) -> Callable[..., Any] | None:
    """The function that an op is decomposed by; None for one that stays whole."""
    return DECOMPOSITIONS.get(op) or (None if stays_whole(op) else _pytorchs().get(op))


def decomposes(*ops: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for op in ops:
            DECOMPOSITIONS[op] = function
        return function

    return enter


@decomposes(aten.softmax.int, aten._softmax.default)
def softmax(x: Tensor, dim: int, dtype: torch.dtype | bool | None = None) -> Tensor:
    """`_softmax`'s third argument (half_to_float) asks for an fp32 result."""
    x = x.to(torch.float32 if dtype is True else dtype) if dtype else x
    shifted = torch.exp(x - torch.amax(x, dim, keepdim=True))
    return _contiguous(shifted / torch.sum(shifted, dim, keepdim=True))


@decomposes(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(x: Tensor, dim: int, dtype: torch.dtype | bool | None = None) -> Tensor:
    x = x.to(torch.float32 if dtype is True else dtype) if dtype else x
    shifted = x - torch.amax(x, dim, keepdim=True)
    return _contiguous(shifted - torch.log(torch.sum(torch.exp(shifted), dim, keepdim=True)))


@decomposes(aten.logsumexp.default)
def logsumexp(x: Tensor, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    """A row whose maximum is infinite has no shift: inf - inf would be NaN where eager gives inf."""
    dim = list(dim)
    largest = torch.amax(x, dim, keepdim=True)
    shift = torch.where(torch.abs(largest) == math.inf, 0.0, largest)
    total = torch.log(torch.sum(torch.exp(x - shift), dim, keepdim=True)) + shift
    return total if keepdim else _drop(total, x, dim)


@decomposes(aten.layer_norm.default)
def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _: bool = True,
) -> Tensor:
    dims = list(range(-len(shape), 0))
    centred = x - torch.mean(x, dims, keepdim=True)
    y = centred * torch.rsqrt(torch.mean(centred * centred, dims, keepdim=True) + eps)
    return _contiguous(_affine(y, weight, bias))


@decomposes(aten.rms_norm.default)
def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Without an eps PyTorch takes that of the type it computes in: fp32's for 16-bit tensors."""
    if eps is None:
        eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    dims = list(range(-len(shape), 0))
    return _contiguous(_affine(x * torch.rsqrt(torch.mean(x * x, dims, keepdim=True) + eps), weight, None))


@decomposes(aten.baddbmm.default)
def baddbmm(bias: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """One addition, for one kernel with the product. A bias that is multiplied by 0 is not read, whatever is in it."""
    product = torch.bmm(x, y)
    product = product if alpha == 1 else product * alpha
    return product if beta == 0 else torch.add(product, bias, alpha=beta)


@decomposes(aten._native_batch_norm_legit_functional.default)
def batch_norm_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Returns also the saved statistics and the new running ones: the variance of those is unbiased."""
    if not training:
        return (
            *batch_norm_inference(x, weight, bias, running_mean, running_var, momentum, eps),
            running_mean,
            running_var,
        )
    dims = [dim for dim in range(x.dim()) if dim != 1]
    mean = torch.mean(x, dims, keepdim=True)
    centred = x - mean
    variance = torch.mean(centred * centred, dims, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    y = _affine(centred * inverse, _channels(weight, x), _channels(bias, x))
    count = _count(x, dims)
    unbiased = _drop(variance * (count / (count - 1)), x, dims)
    new_mean = running_mean * (1 - momentum) + _drop(mean, x, dims) * momentum
    new_var = running_var * (1 - momentum) + unbiased * momentum
    return y, _drop(mean, x, dims), _drop(inverse, x, dims), new_mean, new_var


@decomposes(aten._native_batch_norm_legit_no_training.default)
def batch_norm_inference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> Any:
    inverse = torch.rsqrt(running_var + eps)
    y = (x - _channels(running_mean, x)) * _channels(inverse, x)
    return _affine(y, _channels(weight, x), _channels(bias, x)), x.new_empty(0), x.new_empty(0)


@decomposes(aten.var.correction)
def var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return _moments(x, dim, correction, keepdim)[0]


@decomposes(aten.std.correction)
def std(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    return torch.sqrt(_moments(x, dim, correction, keepdim)[0])


@decomposes(aten.var_mean.correction)
def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Any:
    return _moments(x, dim, correction, keepdim)


@decomposes(aten.group_norm.default)
def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Splitting the channels is a view of any x; the statistics run over what remains of them and over the pixels."""
    split = torch.reshape(x, [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    dims = list(range(2, split.dim()))
    centred = split - torch.mean(split, dims, keepdim=True)
    inverse = torch.rsqrt(torch.mean(centred * centred, dims, keepdim=True) + eps)

    def per_channel(values: Tensor | None) -> Any:
        if values is None:
            return None
        return torch.reshape(values, [groups, x.shape[1] // groups, *(1 for _ in x.shape[2:])])

    return torch.reshape(_affine(centred * inverse, per_channel(weight), per_channel(bias)), x.shape)


@decomposes(aten.linalg_vector_norm.default)
def vector_norm(
    x: Tensor,
    ord: float = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Any:
    x = x if dtype is None else x.to(dtype)
    dims = list(dim) if dim else list(range(x.dim()))
    if ord == 2:
        return torch.sqrt(torch.sum(x * x, dims, keepdim=keepdim))
    if ord == 1:
        return torch.sum(torch.abs(x), dims, keepdim=keepdim)
    return torch.amax(torch.abs(x), dims, keepdim=keepdim) if ord == math.inf else NotImplemented


@decomposes(aten.max.dim)
def max_dim(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    """The indices are dead code where the model does not use them."""
    return torch.amax(x, dim, keepdim), torch.argmax(x, dim, keepdim)


@decomposes(aten.min.dim)
def min_dim(x: Tensor, dim: int, keepdim: bool = False) -> Any:
    return torch.amin(x, dim, keepdim), torch.argmin(x, dim, keepdim)


@decomposes(aten.cross_entropy_loss.default)
def cross_entropy_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """The logit of the target is found in the same pass as the sum of exponentials, as the maximum over "is this the target's".

    An index that eager refuses finds nothing, and the loss is inf. Class weights, soft targets and smoothing keep PyTorch's way.
    """
    if weight is not None or target.dtype.is_floating_point or label_smoothing != 0.0 or x.dim() < 2:
        return NotImplemented
    classes = torch.arange(x.shape[1], device=x.device)
    for _ in range(x.dim() - 2):
        classes = torch.unsqueeze(classes, -1)
    here = torch.eq(classes, torch.unsqueeze(target, 1))
    picked = torch.amax(torch.where(here, x, -math.inf), 1)
    largest = torch.amax(x, 1, keepdim=True)
    total = torch.log(torch.sum(torch.exp(x - largest), 1)) + torch.squeeze(largest, 1)
    counted = torch.ne(target, ignore_index)
    loss = torch.where(counted, total - picked, 0.0)
    if reduction == 0:
        return loss
    return torch.sum(loss) / torch.sum(counted.to(x.dtype)) if reduction == 1 else torch.sum(loss)


def _moments(x: Tensor, dim: Sequence[int] | None, correction: float | None, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Two passes over the row: (variance, mean)."""
    dims = list(dim) if dim else list(range(x.dim()))
    mean = torch.mean(x, dims, keepdim=True)
    centred = x - mean
    divisor = _count(x, dims) - (1 if correction is None else correction)
    variance = torch.sum(centred * centred, dims, keepdim=True) / divisor
    return (variance, mean) if keepdim else (_drop(variance, x, dims), _drop(mean, x, dims))


def _count(x: Tensor, dims: list[int]) -> Tensor:
    """How many elements a row has, as a reduction: the kernel knows it at run time, whatever the sizes are."""
    return torch.sum(torch.ones_like(x), dims, keepdim=True)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _contiguous(result: Tensor) -> Tensor:
    """For ops that return a contiguous tensor, however their input lies."""
    return torch.clone(result, memory_format=torch.contiguous_format)


def _channels(values: Tensor | None, x: Tensor) -> Any:
    """Per-channel values, shaped to broadcast against x (N, C, …)."""
    for _ in range(x.dim() - 2):
        values = values if values is None else torch.unsqueeze(values, -1)
    return values


def _drop(value: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """Squeeze the reduced dims of a keepdim result, last first so that the numbers stay true."""
    for dim in sorted((d % x.dim() for d in dims), reverse=True):
        value = torch.squeeze(value, dim)
    return value
