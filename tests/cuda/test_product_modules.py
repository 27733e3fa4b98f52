"""Optimised modules whose matrix products run on tensor cores: weights that change, streams, graphs, what is left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modelnew
from tests.compiled import Function, assert_closer, compiled
from tests.examples import FOLDER, load

M, N, K = 64, 4000, 4096


pytestmark = pytest.mark.usefixtures("hopper")


def sums(n=N, k=K):
    """linear + sigmoid + sum, as a module, its input, and its optimised module."""
    model = Function(lambda s, x: torch.sigmoid(s.linear(x)).sum(1, keepdim=True), linear=nn.Linear(k, n)).cuda()
    x = torch.randn(M, k, device="cuda")
    fast, _ = compiled(model, [x])
    return model, x, fast


def check(fast, model, *inputs):
    truth = copy.deepcopy(model).double()(*[x.double() for x in inputs])
    new = fast(*inputs)
    assert_closer(new, model(*inputs), truth)
    return new


def launch_taken(kernel, product, *inputs):
    """Whether the kernel has one launch with the product of these."""
    return kernel.with_product(product, *inputs) is not None


def only_kernel(fast):
    (kernel,) = fast.kernels.by_name.values()
    return kernel


def test_the_launch_is_the_one_with_the_product():
    model, x, fast = sums()
    check(fast, model, x)
    assert launch_taken(only_kernel(fast), F.linear, x, model.linear.weight, model.linear.bias)
    assert fast.kernels.calls == {only_kernel(fast).name: 2}


@pytest.mark.parametrize("factor", [1000.0, 2.0**-20, 0.0])
def test_a_weight_that_is_changed_in_place(factor):
    """What is remembered of its rows goes with its version; behind PyTorch's back (`.data`) the answer stays right."""
    model, x, fast = sums()
    check(fast, model, x)
    model.linear.weight[3:500] *= factor
    check(fast, model, x)
    model.linear.weight.data[:, ::2] *= 300
    for _ in range(2):
        check(fast, model, x)
    model.linear.weight = nn.Parameter(torch.randn(N, K, device="cuda") * 3)
    check(fast, model, x)


def test_a_weight_that_the_launch_does_not_cover_goes_to_the_library():
    model, x, fast = sums()
    model.linear.weight = nn.Parameter(torch.randn(N * K + 1, device="cuda")[1:].view(N, K))
    check(fast, model, x)
    assert not launch_taken(only_kernel(fast), F.linear, x, model.linear.weight, model.linear.bias)
    model.linear.weight = nn.Parameter(torch.randn(N, K, device="cuda"))
    check(fast, model, x)
    assert launch_taken(only_kernel(fast), F.linear, x, model.linear.weight, model.linear.bias)


def test_mm_and_linear_of_one_square_weight():
    model = Function(lambda s, x: (F.linear(x, s.square).relu(), torch.mm(x, s.square).relu()))
    model.square = nn.Parameter(torch.randn(K, K, device="cuda"))
    x = torch.randn(M, K, device="cuda")
    fast, _ = compiled(model, [x])
    truth = copy.deepcopy(model).double()(x.double())
    for new, eager, exact in zip(fast(x), model(x), truth, strict=True):
        assert_closer(new, eager, exact)


def test_a_product_alone():
    model = Function(lambda s, x, w: torch.mm(x, w))
    x, w = torch.randn(M, K, device="cuda"), torch.randn(K, N, device="cuda")
    fast, _ = compiled(model, [x, w])
    check(fast, model, x, w)
    check(fast, model, x, torch.randn(N, K, device="cuda").t())
    assert fast.kernels.calls["linear"] == 2


@pytest.mark.parametrize(("beta", "alpha"), [(1, 1), (0.5, -2), (1, 1e-3), (0, 1), (1, 0)])
def test_addmm(beta, alpha):
    """What has a factor of 0 is not read, whatever is in it; those are the library's."""
    model = Function(lambda s, c, x, w: torch.addmm(c, x, w, beta=beta, alpha=alpha))
    for shape in ((N,), (M, N), (M, 1), (1, N), (1,), ()):
        c, x, w = (torch.randn(size, device="cuda") for size in (shape, (M, K), (K, N)))
        fast, _ = compiled(model, [c, x, w])
        check(fast, model, c, x, w)
        assert fast.kernels.calls.get("linear", 0) == (beta * alpha != 0)
    if beta == 0:
        assert bool(fast(torch.full_like(c, torch.nan), x, w).isfinite().all())


MANY = (6, 512, 2048)
PRODUCTS = {
    "bmm": (lambda s, x, w: torch.bmm(x, w), MANY, (6, 2048, 1024)),
    "with rows summed": (lambda s, x, w: torch.sigmoid(x @ w).sum(-1), MANY, (6, 2048, 1024)),
    "in two dims": (lambda s, x, w: torch.relu(x @ w), (2, 3, 512, 2048), (2, 3, 2048, 1024)),
    "one x": (lambda s, x, w: x @ w, (512, 2048), (6, 2048, 1024)),
    "one weight": (lambda s, x, w: x @ w, (6, 512, 2048), (2048, 1024)),
    "einsum": (lambda s, x, w: torch.einsum("bmk,bkn->bmn", x, w), MANY, (6, 2048, 1024)),
    "baddbmm": (lambda s, x, w: torch.baddbmm(x[:, :, :1], x, w, beta=2, alpha=0.5), MANY, (6, 2048, 1024)),
    "logsumexp": (lambda s, x, w: torch.logsumexp(x @ w, -1), MANY, (6, 2048, 1024)),
    "few columns": (lambda s, x, w: torch.relu(torch.bmm(x, w) + x[:, :1, :1]), (24, 1024, 2048), (24, 2048, 64)),
    "one product whose weight lies oddly": (lambda s, x, w: torch.mm(x, w), (1000, 4096), (4096, 2001)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_several_products(name):
    function, *sizes = PRODUCTS[name]
    model = Function(function)
    x, w = (torch.randn(size, device="cuda") / 8 for size in sizes)
    fast, _ = compiled(model, [x, w])
    check(fast, model, x, w)
    check(fast, model, x, w.transpose(-1, -2).contiguous().transpose(-1, -2))
    check(fast, model, x.transpose(-1, -2).contiguous().transpose(-1, -2), w)
    assert sum(fast.kernels.calls.values()) == 3
    check(fast, model, x[..., :7, :], w[..., :10])  # too little to do: the library's


def test_attention_scores():
    model = Function(lambda s, q, k: (q.transpose(1, 2) @ k.transpose(1, 2).transpose(2, 3)) * 0.125)
    q, k = (torch.randn(2, 500, 8, 1024, device="cuda") for _ in range(2))
    fast, _ = compiled(model, [q, k])
    check(fast, model, q, k)
    (kernel,) = fast.kernels.by_name.values()
    q, k = q.transpose(1, 2), k.transpose(1, 2).transpose(2, 3)
    assert launch_taken(kernel, torch.matmul, q, k)


def test_logsumexp_of_a_linear_layer():
    model = Function(lambda s, x: torch.logsumexp(s.linear(x), 1), linear=nn.Linear(K, N)).cuda()
    x = torch.randn(M, K, device="cuda")
    fast, _ = compiled(model, [x])
    check(fast, model, x)
    assert launch_taken(only_kernel(fast), F.linear, x, model.linear.weight, model.linear.bias)
    for special in (torch.inf, -torch.inf, torch.nan):
        model.linear.bias[N // 2] = special
        check(fast, model, x)


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_alone(bias):
    model = nn.Linear(K, N, bias=bias).cuda()
    x = torch.randn(2, M, K, device="cuda")
    fast, _ = compiled(model, [x])
    check(fast, model, x)
    check(fast, model, x.transpose(0, 1))
    assert fast.kernels.calls["linear"] == 2
    torch.backends.cuda.matmul.allow_tf32 = True  # the user's word: the library's product is what was asked for
    assert torch.equal(fast(x), model(x))
    assert fast.kernels.calls["linear"] == 2


@pytest.mark.parametrize("hidden", [2752, 2754])
def test_a_gated_block(hidden):
    space = load(FOLDER / "swiglu_mlp.py")
    model = space["Model"](1024, hidden).cuda()
    x = torch.randn(2, 256, 1024, device="cuda")
    fast = modelnew.optimize(model, x)
    check(fast, model, x)
    check(fast, model, torch.randn(3, 177, 1024, device="cuda"))
    assert sum(fast.kernels.calls.values()) >= 2


def test_on_a_side_stream_in_a_graph_and_again():
    _, x, fast = sums(5000, 4096)
    first = fast(x).clone()
    for _ in range(20):
        assert torch.equal(fast(x), first)
    stream = torch.cuda.Stream()
    y = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        y.copy_(x)
        new = fast(y)
        y.fill_(2)
        others = [torch.full_like(x, 7.0) for _ in range(20)]  # what the workspace was is taken by others
    stream.synchronize()
    assert torch.equal(new, first) and len(others) == 20
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        new = fast(x)
    for _ in range(3):
        x.normal_()
        graph.replay()
        assert torch.equal(new, fast(x))
