"""Which nodes become one kernel: asserted by the kernels that there are and what stays a library call."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelnew.compiler import compile_module
from modelnew.explain import Explanation, work_of
from modelnew.kernel.schedule import schedule
from modelnew.render.kernel import render_kernel
from tests.compiled import Function, names

X = torch.randn(6, 10)
IMAGE = torch.randn(2, 4, 8, 8)


def layers():
    return {
        "linear": nn.Linear(10, 7),
        "norm": nn.LayerNorm(10),
        "batch": nn.BatchNorm2d(4),
        "group": nn.GroupNorm(2, 4),
    }


CASES = {
    "a chain is one kernel": (
        lambda s, x: torch.clamp(F.gelu(torch.tanh(1.5 * x + 0.3) * torch.sigmoid(x)), -1, 1),
        X,
        1,
        [],
    ),
    "softmax": (lambda s, x: x.softmax(-1), X, 1, []),
    "softmax over the first dim": (lambda s, x: x.softmax(0), X, 1, []),
    "norm, its affine and what follows": (lambda s, x: F.gelu(s.norm(x)), X, 1, []),
    "the bias leaves the product": (lambda s, x: torch.sigmoid(s.linear(x)).sum(1, keepdim=True), X, 1, ["linear"]),
    "batch norm with its statistics": (lambda s, x: F.hardswish(s.batch(x)), IMAGE, 1, ["add"]),
    "group norm, seen through its reshapes": (
        lambda s, x: F.silu(s.group(x)) + x,
        IMAGE,
        1,
        [],
    ),
    "two results of one input": (lambda s, x: (x.sin(), x.cos()), X, 1, []),
    "two reductions of one input": (lambda s, x: (x.sum(1), x.amax(1)), X, 1, []),
    "reductions over other dims part": (lambda s, x: (x.sum(1), x.sum(0)), X, 2, []),
    "a reshape does not part": (lambda s, x: torch.sigmoid(x).view(-1).mean(), X, 1, []),
    "a transposed value joins": (lambda s, x: x.sigmoid().t() + x.new_ones(10, 6), X, 1, ["full"]),
    "row values are broadcast back": (lambda s, x: (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt(), X, 1, []),
    "a library call parts": (lambda s, x: x.relu().cumsum(1).sigmoid(), X, 2, ["cumsum"]),
    "both sides of a product": (lambda s, x: (x.relu() @ x.t()).relu(), X, 2, ["matmul"]),
    "normalise": (lambda s, x: F.normalize(x), X, 1, []),
    "masks": (lambda s, x: x.masked_fill(x > 0, float("-inf")).softmax(1), X, 1, []),
    "loss": (lambda s, x: F.cross_entropy(x, torch.arange(6)), X, 2, ["arange"]),
    "nothing to fuse": (lambda s, x: x.cumsum(0), X, 0, ["cumsum"]),
    "integer division is not ours": (lambda s, x: (x.long() // 2) + 1, X, 2, ["div"]),
}


@pytest.mark.parametrize("case", CASES)
def test_kernels(case):
    function, x, count, library = CASES[case]
    program = compile_module(Function(function, **layers()), (x,))
    assert len(program.called) == count, names(program)
    calls = [entry["op"] for entry in Explanation(program, None, "").as_dict()["library"]]
    calls = [op for op in calls if op not in ("reshape", "view")]
    assert sorted(calls) == sorted(library)


def test_equal_regions_share_a_kernel():
    model = nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(10, 10), nn.ReLU())))
    program = compile_module(model, (X,))
    assert len(program.called) == 3
    assert names(program) == ["linear_relu"]


def test_passes_of_a_row_program():
    """softmax: exponentials, store. Layer norm: moments, store."""
    softmax = compile_module(Function(lambda s, x: x.softmax(1)), (X,)).kernels[0]
    norm = compile_module(nn.LayerNorm(10), (X,)).kernels[0]
    assert schedule(softmax).passes == 2
    assert schedule(norm).passes == 2
    assert [len(keeps) for keeps in schedule(softmax).keeps] == [0, 1, 0], "exponentials are computed once"


MOMENTS = {
    "norms": (lambda s, x: s.norm(x), 2),
    "of what is computed": (lambda s, x: s.norm(x * 2 + 1), 2),
    "variance": (lambda s, x: x.var(1), 1),
    "both, and a result along the row": (lambda s, x: (x.std(1), x.mean(1), x - x.mean(1, keepdim=True)), 2),
    "by hand": (lambda s, x: ((x - x.mean(1, keepdim=True)) ** 2).mean(1), 1),
    "twice": (lambda s, x: (lambda y: y - y.var(1, keepdim=True))(x / x.std(1, keepdim=True)), 3),
}
NO_MOMENTS = {
    "the sum is read too": (lambda s, x: (x.sum(1), x.var(1)), 2),
    "another's mean": (lambda s, x: ((x * x - x.mean(1, keepdim=True)) ** 2).mean(1), 2),
    "not squared": (lambda s, x: ((x - x.mean(1, keepdim=True)) * x).mean(1), 2),
    "not its mean": (lambda s, x: ((x - x.sum(1, keepdim=True) / 3) ** 2).mean(1), 2),
    "largest square": (lambda s, x: ((x - x.mean(1, keepdim=True)) ** 2).amax(1), 2),
    "more in the first sweep": (lambda s, x: (x.var(1), x.amax(1)), 2),
}


@pytest.mark.parametrize("case", [*MOMENTS, *NO_MOMENTS])
def test_mean_and_squares_are_one_pass(case):
    function, passes = {**MOMENTS, **NO_MOMENTS}[case]
    (kernel,) = compile_module(Function(function, **layers()), (X,)).kernels
    assert schedule(kernel).passes == passes
    assert ("moments" in render_kernel(kernel)) == (case in MOMENTS)


SUMS_OF_EXPONENTIALS = {
    "logsumexp": (lambda s, x: x.logsumexp(1), 1),
    "and its maximum": (lambda s, x: (x.logsumexp(1), x.amax(1)), 1),
    "of what is masked": (lambda s, x: (x * 0.1).masked_fill(x > 1, -torch.inf).logsumexp(1), 1),
    "log-softmax": (lambda s, x: x.log_softmax(1), 2),
    "loss": (lambda s, x: F.cross_entropy(x, torch.arange(6), reduction="none"), 1),
    "of a norm": (lambda s, x: s.norm(x).logsumexp(1), 2),
    "by hand": (lambda s, x: (x - x.amax(1, keepdim=True)).exp().sum(1), 1),
}
EXPONENTIALS = {
    "softmax": (lambda s, x: x.softmax(1), 2),
    "entropy": (lambda s, x: (x.softmax(1) * x.log_softmax(1)).sum(1), 2),
    "of a norm": (lambda s, x: s.norm(x).softmax(1), 3),
    "their variance": (lambda s, x: (x - x.amax(1, keepdim=True)).exp().var(1), 2),
}
OTHERS = {
    "not its maximum": (lambda s, x: (x - x.amin(1, keepdim=True)).exp().sum(1), 2),
    "another's maximum": (lambda s, x: (x * 2 - x.amax(1, keepdim=True)).exp().sum(1), 2),
    "products": (lambda s, x: (x - x.amax(1, keepdim=True)).exp().prod(1), 2),
    "with another sum": (lambda s, x: (x.logsumexp(1), x.mean(1)), 2),
    "base 2": (lambda s, x: (x - x.amax(1, keepdim=True)).exp2().sum(1), 2),
    "of what is not shifted": (lambda s, x: x.exp().sum(1), 1),
}


@pytest.mark.parametrize(
    ("call", "case"),
    [("exponential_sum", c) for c in SUMS_OF_EXPONENTIALS]
    + [("exponentials", c) for c in EXPONENTIALS]
    + [("", c) for c in OTHERS],
)
def test_maximum_and_exponentials_are_one_pass(call, case):
    function, passes = {"exponential_sum": SUMS_OF_EXPONENTIALS, "exponentials": EXPONENTIALS, "": OTHERS}[call][case]
    kernel = compile_module(Function(function, **layers()), (X,)).kernels[-1]
    text = render_kernel(kernel)
    assert schedule(kernel).passes == passes, text
    assert [name for name in ("exponential_sum", "exponentials") if f"mn::{name}<" in text] == [call] * bool(call)


def test_no_cycle_between_regions():
    """x -> relu -> cumsum -> (+ relu): the sum cannot be in relu's kernel, which must run before cumsum."""
    program = compile_module(Function(lambda s, x: (lambda y: y + y.cumsum(1))(x.relu())), (X,))
    assert len(program.called) == 2


def test_one_tensor_given_twice_is_two_arguments():
    """Captured as one, the kernel would ignore the second argument of every later call."""
    (kernel,) = compile_module(Function(lambda s, x, y: x * y), (X, X)).kernels
    assert len(kernel.inputs) == 2


def test_a_square_is_not_stored_for_its_sum():
    """In fp16 it would overflow where eager's norm, which sums in fp32, does not."""
    program = compile_module(Function(lambda s, x: (x.sum(0), x.norm(dim=1), x.softmax(1))), (X,))
    stored = [node.name for called in program.called for node in called.stores]
    assert not any("mul" in name for name in stored), stored


def test_a_constant_has_no_domain():
    """A kernel must read something that says how large its result is."""
    program = compile_module(Function(lambda s, x: torch.ones_like(x) * 2), (X,))
    assert program.kernels == ()


def test_expanded_input_keeps_its_size():
    """The kernel reads the expanded tensor: from the tensor before it could not know the new dim's size."""
    program = compile_module(Function(lambda s, x: (x.unsqueeze(0).expand(4, 6, 10) * 2).sum(0)), (X,))
    (kernel,) = program.kernels
    assert kernel.inputs[0].axes == (0, 1, 2)


@pytest.mark.parametrize(
    ("function", "read", "written"),
    [
        (lambda s, x: x.t(), 0, 0),
        (lambda s, x: x, 0, 0),
        (lambda s, x: (x.unsqueeze(0).expand(4, 6, 10), x.sum(1)), 240, 24),
        (lambda s, x: x.t().sin().t(), 240, 240),
    ],
)
def test_views_move_nothing(function, read, written):
    """Otherwise a model that returns one would be faster than the floor, and not be believed."""
    work = work_of(compile_module(Function(function), (X,)))
    assert (work.bytes_read, work.bytes_written) == (read, written)


def test_what_is_said_of_views_and_of_several_results():
    views = compile_module(Function(lambda s, x: x.t()), (X,))
    assert "none: views move nothing" in Explanation(views, None, "").text()
    both = compile_module(Function(lambda s, x: x.sort(1)), (X,))
    text = Explanation(both, None, "").text()
    assert "library: sort float32 (" in text and "), int64 (" in text and "FakeTensor" not in text
