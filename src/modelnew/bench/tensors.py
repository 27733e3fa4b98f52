"""Tensors inside inputs and outputs: find them, allocate them afresh, change their contents, sample their values."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import torch
from torch.utils import _pytree as pytree

from modelnew.memory import free_memory

_SWAP_CHUNK = 1 << 24  # elements moved at a time, so that refreshing a huge input needs little memory


def tensors(tree: object) -> list[torch.Tensor]:
    """The tensors in a nest of lists, tuples and dicts, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def nbytes(tree: object) -> int:
    """Bytes that the tensors' storages occupy; a storage shared by several counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(tree)}.values())


def copy(tree: object) -> object:
    """The same values in new memory, strides kept where elements do not overlap."""
    return pytree.tree_map_only(torch.Tensor, lambda t: torch.empty_like(t).copy_(t), tree)


def wide(tree: object) -> object:
    """The same values in float64 where they are floating."""
    return pytree.tree_map_only(torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, tree)


def padding(rng: random.Random) -> list[bytearray]:
    """Memory of random size that shifts the addresses of what is allocated after it; keep it as long as the shift is
    wanted."""
    return [bytearray(rng.randrange(64, 4096)), bytearray(rng.randrange(1 << 12, 1 << 20))]


def swap_halves(inputs: Iterable[object]) -> None:
    """Exchanges the two halves of every floating input in place, so that an answer kept from the last call is no
    longer the answer.

    Twice gives the first contents back. The version counter does not move (the write goes through the storage): a
    cache keyed on address and version must not be able to see it. Integers are left alone: they are often indices
    whose order carries a meaning.
    """
    for tensor in tensors(list(inputs)):
        if not tensor.is_floating_point() or tensor.numel() < 2:
            continue
        flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        flat.set_(tensor.untyped_storage())
        half = flat.numel() // 2
        for start in range(0, half, _SWAP_CHUNK):
            stop = min(start + _SWAP_CHUNK, half)
            low, high = flat[start:stop], flat[half + start : half + stop]
            kept = low.clone()
            low.copy_(high)
            high.copy_(kept)


def sample_values(output: object, seed: int, count: int = 1024) -> list[list[float]]:
    """Up to `count` values of each tensor in `output` at positions that depend on `seed` and the shape alone, in
    float64.

    Complex values give their real parts. The last element is always among them.
    """
    sampled: list[list[float]] = []
    for tensor in tensors(output):
        size = tensor.numel()
        if size == 0:
            sampled.append([])
            continue
        rng = random.Random(seed)
        places = [rng.randrange(size) for _ in range(min(count, size) - 1)] + [size - 1]
        picked = _gather(tensor.detach(), places)
        sampled.append([float(v) for v in picked.real.to(torch.float64).tolist()])
    return sampled


def _gather(tensor: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    if tensor.dim() == 0:
        return tensor.reshape(1).expand(len(places))
    flat = torch.tensor(places, dtype=torch.int64, device=tensor.device)
    index = []
    for size in reversed(tensor.shape):  # no reshape: it would copy a non-contiguous output
        index.append(flat % size)
        flat = flat // size
    return tensor[tuple(reversed(index))]


def can_copy(tree: object, device: str) -> bool:
    """Whether a second set of these tensors leaves at least half of the free memory."""
    return 2 * nbytes(tree) < free_memory(torch.device(device))[0]


def deviation(values: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> float:
    """rms(values − truth) / rms(truth) over all sampled values; infinite where the structure, a NaN or an infinity
    differs."""
    if [len(v) for v in values] != [len(t) for t in truth]:
        return math.inf
    pairs = [(a, b) for vs, ts in zip(values, truth, strict=True) for a, b in zip(vs, ts, strict=True)]
    pairs = [(a, b) for a, b in pairs if not (a == b or (math.isnan(a) and math.isnan(b)))]
    error = math.fsum((a - b) ** 2 for a, b in pairs) if all(map(math.isfinite, sum(pairs, ()))) else math.inf
    scale = math.fsum(b * b for ts in truth for b in ts if math.isfinite(b))
    return math.sqrt(error / scale) if scale else (math.inf if error else 0.0)
