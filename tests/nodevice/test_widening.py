"""For which other dtypes, sizes and ranks a program holds: found on fakes, and never more than is so."""

import pytest
import torch
import torch.nn.functional as F

from modelnew import compiler
from modelnew.compiler import LiveModule, compile_source
from modelnew.graph.evidence import follows
from tests.compiled import Function

ALL = {torch.float32, torch.float16, torch.bfloat16, torch.float64}
X = torch.randn(6, 10)


@pytest.fixture
def captures(monkeypatch):
    """How often a model is captured."""
    made = []

    def counted(*args, **options):
        made.append(args)
        return original(*args, **options)

    original = compiler.capture
    monkeypatch.setattr(compiler, "capture", counted)
    return made


def compiled(function, *inputs, **modules):
    return compile_source(LiveModule(Function(lambda self, *given: function(*given), **modules), inputs))


ORDINARY = {
    "chain": lambda x: torch.sigmoid(x) * 2 - x.tanh(),
    "softmax": lambda x: x.softmax(-1),
    "norm": lambda x: F.gelu(F.layer_norm(x, [10])),
    "library calls between": lambda x: (x.relu() @ x.t()).relu().cumsum(1).sigmoid(),
    "a tensor made of a size": lambda x: x + torch.ones(x.shape[0], 1, dtype=x.dtype),
    "slices": lambda x: x[:, 1:].relu() + 1,
    "in place": lambda x: x.clone().mul_(2).relu(),
    "loss": lambda x: F.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.int64)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_model_is_captured_once(name, captures):
    program = compiled(ORDINARY[name], X)
    assert set(program.working) == ALL
    assert set(program.smallest.values()) == {1}
    assert len(captures) == 1


def at_one(then, otherwise):
    return lambda x: then(x) if x.shape[0] == 1 else otherwise(x)


SIZES = {
    "another op": at_one(torch.sigmoid, torch.tanh),
    "another number": at_one(lambda x: x.relu() * 2, lambda x: x.relu() * 3),
    "another slice": at_one(lambda x: x[:, :3].relu() + 1, lambda x: x[:, :2].relu() + 1),
    "another order of operands": at_one(lambda x: x.exp() - x.sin(), lambda x: x.sin() - x.exp()),
    "another result": at_one(lambda x: (x.exp(), x.sin()), lambda x: (x.sin(), x.exp())),
    "its argument": at_one(lambda x: x, torch.tanh),
    "another constant": at_one(lambda x: x.relu() * torch.tensor([2.0]), lambda x: x.relu() * torch.tensor([3.0])),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_branch_on_size_one_is_not_taken_for_the_other(name):
    program = compiled(SIZES[name], X)
    assert program.kernels
    size, other = (program.smallest[symbol] for symbol in program.captured.sizes)
    assert (size, other) == (2, 1)


def test_numbers_that_follow_a_size_hold_at_one():
    program = compiled(lambda x: x.sum(1) * (1.0 / x.shape[0]), X)
    assert set(program.smallest.values()) == {1}


def test_a_branch_on_one_of_two_sizes_leaves_the_other_open():
    program = compiled(lambda x, y: (x.exp() if x.shape[0] == 1 else x.sin(), y.relu()), X, torch.randn(7, 11))
    assert [program.smallest[symbol] for symbol in program.captured.sizes] == [2, 1, 1, 1]


DTYPES = {
    "another op": (lambda x: x.tanh() if x.dtype == torch.float16 else x.sigmoid(), ALL - {torch.float16}),
    "another number": (lambda x: x.relu() * (2 if x.dtype.itemsize == 2 else 3), {torch.float32, torch.float64}),
    "the largest number": (lambda x: x.relu().masked_fill(x > 0, torch.finfo(x.dtype).min), {torch.float32}),
    "eps of the dtype": (lambda x: F.rms_norm(x, [10]), ALL - {torch.float64}),
    "a fixed dtype": (lambda x: x.float().exp(), {torch.float32}),
    "an operand of fixed dtype": (lambda x: x.exp() * torch.arange(10.0), {torch.float32}),
    "16 bits apart": (
        lambda x: x.half().relu() if x.dtype == torch.bfloat16 else x.relu(),
        ALL - {torch.bfloat16},
    ),
}


@pytest.mark.parametrize("name", DTYPES)
def test_a_branch_on_dtype_is_not_taken_for_the_other(name):
    function, expected = DTYPES[name]
    program = compiled(function, X)
    assert program.kernels
    assert set(program.working) == expected


def test_a_branch_on_rank_is_not_taken_for_the_other():
    assert compiled(lambda x: x.sigmoid() * 2, X).any_rank
    assert not compiled(lambda x: x.tanh() if x.dim() == 4 else x.sigmoid(), X).any_rank
    assert not compiled(lambda x: x.sigmoid() * x.dim(), X).any_rank


def test_casts_to_the_working_dtype_round_in_every_one_of_them():
    """Captured in fp64 such a cast leaves no trace in the kernel's text, but in fp16 it rounds."""
    program = compiled(lambda x, n: n.to(x.dtype).exp() + x, X.double(), torch.arange(10))
    assert program.working == (torch.float64,)


def test_looking_on_fakes_makes_no_real_tensor():
    """A factory in forward would otherwise allocate all of its tensor: here 400 TB."""
    program = compiled(lambda x: x.relu() + torch.zeros(10**14, dtype=x.dtype)[:10], X)
    assert set(program.working) == ALL


def test_a_model_that_draws_values_is_captured_again(captures):
    """Fakes have no values: what cannot be shown on them is decided by another capture, as before."""
    scale = torch.nn.Parameter(torch.ones(10))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = scale
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x.relu() * self.scale * self.calls

    program = compile_source(LiveModule(Model(), [X]))
    assert set(program.working) == ALL
    model, inputs = LiveModule(Model(), [X]).abstract()
    model.calls = 4
    assert not follows(program.captured, model, inputs, torch.float32)


def test_a_branch_on_two_sizes_at_once_keeps_one_of_them_open():
    program = compiled(lambda x: x.exp() if x.shape[0] == x.shape[1] == 1 else x.sin(), X)
    assert sorted(program.smallest.values()) == [1, 2]
