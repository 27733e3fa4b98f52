"""Random graphs of operators, dtypes, shapes and strides: the kernels give what eager gives, within the rule of the design."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from tests.compiled import Function, assert_closer, compiled

UNARY = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "neg": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "exp": lambda x: torch.exp(-x.abs()),
    "clamp": lambda x: x.clamp(-0.6, 0.9),
    "half": lambda x: x * 0.5 + 0.25,
    "where": lambda x: torch.where(x > 0.1, x, -x),
    "transpose": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "softmax": lambda x: x.softmax(-1),
    "centre": lambda x: x - x.mean(1, keepdim=True),
    "norm": lambda x: x / (x.square().sum((0, 2), keepdim=True) + 1).sqrt(),
    "unsqueeze": lambda x: x.unsqueeze(1).sigmoid().squeeze(1),
    "cumsum": lambda x: x.cumsum(0) * 0.1,
}
BINARY = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "max": torch.maximum, "min": torch.minimum}
ENDS = {
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean((0, 2)),
    "amax": lambda x: x.amax(-1, keepdim=True),
    "logsumexp": lambda x: x.logsumexp((1, 2)),
    "whole": lambda x: x.sum(),
    "count": lambda x: (x > 0.3).sum(0),
    "itself": lambda x: x,
    "permuted": lambda x: x.permute(2, 0, 1),
}
SHAPES = [(3, 4, 5), (1, 7, 2), (2, 1, 33), (5, 16, 17)]
BROADCAST = [(1, 1, 1), (0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1)]  # 0: this dim has size 1


@st.composite
def programs(draw):
    """Steps over a growing list of values, and what is returned of them."""
    steps = []
    for position in range(draw(st.integers(2, 7))):
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(sorted(UNARY))), draw(st.integers(0, position + 1))))
        else:
            pair = draw(st.integers(0, position + 1)), draw(st.integers(0, position + 1))
            steps.append((draw(st.sampled_from(sorted(BINARY))), *pair))
    ends = draw(
        st.lists(st.tuples(st.sampled_from(sorted(ENDS)), st.integers(2, len(steps) + 1)), min_size=1, max_size=3)
    )
    return steps, ends


def run(program, x, y):
    steps, ends = program
    values = [x, y + torch.zeros_like(x)]
    for name, *operands in steps:
        function = UNARY.get(name) or BINARY[name]
        values.append(function(*(values[i] for i in operands)))
    return [ENDS[name](values[i]) for name, i in ends]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    program=programs(),
    shape=st.sampled_from(SHAPES),
    broadcast=st.sampled_from(BROADCAST),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64]),
    transposed=st.booleans(),
)
def test_random_graph(program, shape, broadcast, dtype, transposed):
    generator = torch.Generator().manual_seed(1)

    def tensor(sizes):
        values = torch.rand(*sizes, generator=generator, dtype=torch.float64).to(dtype)
        return values.transpose(0, 2).contiguous().transpose(0, 2) if transposed else values

    x, y = tensor(shape), tensor(tuple(size if keep else 1 for size, keep in zip(shape, broadcast, strict=True)))
    model = Function(lambda s, x, y: run(program, x, y))
    new, _ = compiled(model, (x, y))
    with torch.no_grad():
        made, eager, truth = new(x, y), model(x, y), model(x.double(), y.double())
    for a, b, t in zip(*map(pytree.tree_leaves, (made, eager, truth)), strict=True):
        assert a.stride() == b.stride() or a.dim() == 0 or 1 in a.shape or transposed
        assert_closer(a, b, t, slack=16)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty(shape):
    """Kernels or the original: the answer and its shape are eager's, and so is the error of an empty maximum."""
    model = Function(lambda s, x: (x.sigmoid() * 2, x.sum(1), x.mean(2, keepdim=True), x.softmax(1)))
    new, _ = compiled(model, (torch.rand(2, 3, 4),))
    x = torch.rand(*shape)
    with torch.no_grad():
        for a, b in zip(new(x), model(x), strict=True):
            assert a.shape == b.shape
            assert torch.equal(a.isnan(), b.isnan())
            assert torch.equal(a.nan_to_num(), b.nan_to_num())
    largest, _ = compiled(Function(lambda s, x: x.amax(1)), (torch.rand(2, 3, 4),))
    if shape[1] == 0:
        with pytest.raises(IndexError), torch.no_grad():
            largest(x)
