"""Layouts of the tests' tensors, made as the run time makes them."""

from collections.abc import Sequence

import torch

from modelnew.runtime.layout import Layout, RowLayout, collapse, order_dims


def pointwise_layout(outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> Layout:
    """All tensors have one shape (expanded where they broadcast)."""
    tensors = [*outputs, *inputs]
    shape = tensors[0].shape
    strides = [[t.stride(d) if n > 1 else 0 for d, n in enumerate(shape)] for t in tensors]
    order = order_dims(shape, strides)
    sizes, steps = collapse([shape[d] for d in order], [[s[d] for d in order] for s in strides])
    return Layout(sizes, steps, tuple(t.element_size() for t in tensors), len(outputs))


def row_layout(
    outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], dims: Sequence[int], kept: int = 2
) -> RowLayout:
    """Rows over `dims`; all tensors have one shape, with stride 0 where they do not vary. `kept`: values that the body keeps."""
    tensors = [*outputs, *inputs]
    shape = tensors[0].shape
    parts = []
    for axes in ([d for d in range(len(shape)) if d not in dims], list(dims)):
        sizes = [shape[d] for d in axes]
        strides = [[t.stride(d) if shape[d] > 1 else 0 for d in axes] for t in tensors]
        order = order_dims(sizes, sorted(strides, key=lambda s: not any(s)))
        parts.append(collapse([sizes[d] for d in order], [[s[d] for d in order] for s in strides]))
    (outer, outer_strides), (inner, inner_strides) = parts
    element = 8 if inputs[0].dtype == torch.float64 else 4
    sizes = tuple(t.element_size() for t in tensors)
    return RowLayout(outer, inner, outer_strides, inner_strides, sizes, len(outputs), 3, kept * element, 1)
