"""Optimised modules on a GPU: any layout, any size, streams, graphs, several devices, too little memory."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.compiled import Function, assert_closer, compiled

POINTWISE = Function(lambda self, x: torch.sigmoid(x) * 2 - x)
SOFTMAX = Function(lambda self, x: torch.softmax(x, -1))
COLUMNS = Function(lambda self, x: x.sum(0))
NORM = Function(lambda self, x: F.gelu(F.layer_norm(x, (x.shape[-1],))))
MODELS = {"pointwise": POINTWISE, "softmax": SOFTMAX, "columns": COLUMNS, "norm": NORM}
VIEWS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.t(),
    "sliced": lambda x: x[:, :-1],
    "misaligned": lambda x: x.view(-1)[1 : 1 + x.numel() - x.shape[1]].view(-1, x.shape[1]),
    "every second": lambda x: x[:, ::2],
    "every second row": lambda x: x[::2],
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.fixture(scope="module")
def modules():
    """Each model on its kernels, made for 2 dims of fp32."""
    with torch.no_grad():
        return {name: compiled(model, [torch.randn(64, 129, device="cuda")])[0] for name, model in MODELS.items()}


def check(modules, name, x):
    fast = modules[name]
    before = sum(fast.kernels.calls.values())
    new, eager = fast(x), MODELS[name](x)
    assert sum(fast.kernels.calls.values()) > before, "the original forward ran"
    assert_closer(new, eager, MODELS[name](x.double()))
    assert torch.equal(new, fast(x)), "not the same on every run"
    return new, eager


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("shape", [(64, 129), (4096, 4097), (2000, 40000)])
@pytest.mark.parametrize("name", MODELS)
def test_layouts(modules, name, shape, view):
    """Rows in registers, in a block, in a cluster; columns; every view of them. Results are laid out as eager's."""
    new, eager = check(modules, name, VIEWS[view](torch.randn(shape, device="cuda")))
    if name == "pointwise":
        assert new.stride() == eager.stride()


@pytest.mark.parametrize(
    "shape", [(3, 393216), (2, 393217), (16, 1 << 20), (1, (1 << 24) + 3), (1 << 20, 7), (1 << 18, 64)]
)
@pytest.mark.parametrize("name", MODELS)
def test_long_rows_and_many(modules, name, shape):
    check(modules, name, torch.randn(shape, device="cuda"))


@pytest.mark.parametrize("name", MODELS)
def test_rows_at_a_pitch(modules, name):
    check(modules, name, torch.randn(70, 393217, device="cuda")[:, :-1])


@pytest.mark.parametrize("name", MODELS)
def test_on_a_side_stream(modules, name):
    """What the stream does before and after is seen in order, while the default stream is busy with other work."""
    fast = modules[name]
    x = torch.zeros(64, 100_000, device="cuda")
    expected = MODELS[name](torch.ones_like(x))
    fast(x)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    torch.cuda._sleep(100_000_000)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        x.fill_(1)
        new = fast(x)
        x.fill_(2)
    stream.synchronize()
    torch.testing.assert_close(new, expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [(64, 1000), (4, 1 << 20)])
def test_captured_into_a_graph(modules, name, shape):
    fast, x = modules[name], torch.randn(shape, device="cuda")
    fast(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        new = fast(x)
    for _ in range(3):
        x.normal_()
        graph.replay()
        assert torch.equal(new, fast(x))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one device")
@pytest.mark.parametrize("name", MODELS)
def test_on_the_second_device(modules, name):
    """While the first is the current one, and stays it."""
    x = torch.randn(64, 50_000, device="cuda:1")
    new = modules[name](x)
    assert new.device == x.device and torch.cuda.current_device() == 0
    torch.testing.assert_close(new, MODELS[name](x))


def test_out_of_memory(modules):
    """PyTorch's own error; afterwards all is as it was."""
    x = torch.ones(1, 2, device="cuda")
    modules["pointwise"](x)
    gc.collect()
    torch.cuda.empty_cache()
    allocated = torch.cuda.memory_allocated()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        modules["pointwise"](x.expand(1 << 38, 2))  # 2 TB of results
    assert torch.cuda.memory_allocated() == allocated
    assert torch.equal(modules["pointwise"](x.expand(5, 2)), modules["pointwise"](x).expand(5, 2))


def test_more_than_2_to_the_31_elements():
    """Offsets beyond 32 bits: every element right, in the contiguous, the strided and the transposed kernel."""
    model = Function(lambda self, x: torch.relu(x) + 1)
    x = torch.randint(-100, 100, (46341, 46342), device="cuda", dtype=torch.int8)
    fast, _ = compiled(model, [x[:64, :64].contiguous()])
    for view in (x, x[:, 1:], x.t(), x.t()[1:]):
        assert torch.equal(fast(view), model(view))
    pair = Function(lambda self, x, y: torch.minimum(x, y) + 1)
    y = x.flip(0).t().contiguous().t()
    fast, _ = compiled(pair, [x[:64, :64].contiguous(), x[:64, :64].t()])
    assert torch.equal(fast(x, y), pair(x, y))


def test_rows_of_more_than_2_to_the_31_elements():
    model = Function(lambda self, x: (x.sum(1), x.amax(1)))
    x = torch.randint(-2, 3, (2, (1 << 31) + 11), device="cuda", dtype=torch.int8).to(torch.bfloat16)
    x[0, -1], x[1, 3] = 100, 50
    fast, _ = compiled(model, [torch.randn(4, 100, device="cuda", dtype=torch.bfloat16)])
    total, top = fast(x)
    exact = torch.stack([sum(part.to(torch.int64).sum() for part in row.split(1 << 28)) for row in x])
    assert top.tolist() == [100, 50]
    assert ((total.double() - exact).abs() <= 2**-8 * exact.abs() + 2**-20 * x.shape[1]).all()


def test_nothing_to_do(modules):
    for shape in [(0, 5), (5, 0), (0, 0)]:
        x = torch.empty(shape, device="cuda")
        assert modules["pointwise"](x).shape == x.shape


def test_parameters_on_the_gpu():
    model = nn.Sequential(nn.Linear(300, 200), nn.LayerNorm(200), nn.GELU()).cuda()
    x = torch.randn(50, 300, device="cuda")
    fast, _ = compiled(model, [x])
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
