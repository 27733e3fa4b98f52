"""Reductions and norms over every set of dims, sizes on either side of every boundary, against float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelnew.render.kernel import render_kernel
from tests.compiled import Function, assert_closer, compiled
from tests.cpu.conftest import QUICK_COMPILER

REDUCTIONS = {
    "sum": lambda x, d: x.sum(d),
    "mean": lambda x, d: x.mean(d, keepdim=True),
    "amax": lambda x, d: x.amax(d),
    "amin": lambda x, d: x.amin(d),
    "logsumexp": lambda x, d: x.logsumexp(d),
    "var": lambda x, d: x.var(d),
    "std": lambda x, d: x.std(d, unbiased=False),
    "norm": lambda x, d: torch.linalg.vector_norm(x, dim=d),
    "centred": lambda x, d: x - x.mean(d, keepdim=True),
}
DIMS = [d for n in (1, 2, 3) for d in itertools.combinations(range(3), n)]


@pytest.fixture(autouse=True)
def compiler_for_dtype(request, monkeypatch):
    """Kernels of one dtype are enough to see what the vectoriser makes of them."""
    if hasattr(request.node, "callspec") and request.node.callspec.params.get("dtype", torch.float32) != torch.float32:
        monkeypatch.setenv("CXX", str(QUICK_COMPILER))


def judge(model, *inputs):
    new, program = compiled(model, inputs)
    with torch.no_grad():
        made, eager = new(*inputs), model(*inputs)
        truth = model.double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    assert sum(type(new).kernels.calls.values()) > 0
    for a, b, t in zip(*map(torch.utils._pytree.tree_leaves, (made, eager, truth)), strict=True):
        assert_closer(a, b, t)
    return program


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_any_set_of_dims(dims):
    model = Function(lambda s, x: [function(x, dims) for function in REDUCTIONS.values()])
    program = judge(model, torch.rand(5, 37, 70))
    assert len(program.kernels) == 1, "one read of the input for all of them"


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded", "misaligned", "channels_last"])
def test_strides_are_followed(layout):
    base = torch.randn(6, 8, 9, 10)
    x = {
        "transposed": base.permute(3, 1, 0, 2),
        "sliced": base[:, ::2, 1:, ::3],
        "expanded": base[:, :1].expand(6, 8, 9, 10),
        "misaligned": torch.randn(6 * 8 * 9 * 10 + 1)[1:].view(6, 8, 9, 10),
        "channels_last": base.to(memory_format=torch.channels_last),
    }[layout]
    judge(Function(lambda s, x: (x.softmax(1), x.sum((0, 2)), x.amax(-1), torch.sigmoid(x).mean(), x * 2)), x)


def test_sizes_around_boundaries():
    """One program, many sizes: rows of 1 up to past a tile, few rows and many."""
    model = Function(lambda s, x: (x.softmax(1), torch.sigmoid(x).sum(1), x.std(1, unbiased=False)))
    new, _ = compiled(model, (torch.randn(4, 6),))
    kernels = type(new).kernels
    with torch.no_grad():
        for rows, size in itertools.product((1, 3, 17, 300), (1, 2, 15, 16, 17, 63, 65, 255, 1023, 1024, 1025, 4099)):
            x = torch.randn(rows, size)
            before = sum(kernels.calls.values())
            for a, b, t in zip(new(x), model(x), model(x.double()), strict=True):
                assert_closer(a, b, t)
            assert sum(kernels.calls.values()) > before, f"({rows}, {size}) did not run on kernels"


def test_long_rows_and_one_row():
    model = Function(lambda s, x: (x.softmax(1), torch.sigmoid(x).sum(1), x.sum(), x.var(1)))
    for shape in ((1, 300_001), (3, 131_072), (40, 70_000)):
        judge(model, torch.rand(*shape))


def test_order_of_sums_does_not_depend_on_threads():
    new, _ = compiled(Function(lambda s, x: (x.sum(), x.sum(1), x.softmax(1))), (torch.randn(3, 200_000),))
    x = torch.randn(3, 200_000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(new(x))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_norms(dtype):
    x, image = torch.randn(7, 5, 96).to(dtype), torch.randn(3, 6, 9, 11).to(dtype)
    one = Function(lambda s, x: (s.norm(x), s.rms(x), F.log_softmax(x, -1)), norm=nn.LayerNorm(96), rms=nn.RMSNorm(96))
    judge(one.to(dtype), x)
    two = Function(
        lambda s, x: (F.silu(s.group(x)), s.batch.eval()(x)), group=nn.GroupNorm(3, 6), batch=nn.BatchNorm2d(6)
    )
    judge(two.to(dtype), image)


def test_batch_norm_trains_as_eager():
    """Its buffers after three calls are eager's."""
    torch.manual_seed(0)
    model, twin = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    new, program = compiled(model, (torch.randn(3, 6, 9, 11),))
    assert len(program.kernels) == 1
    with torch.no_grad():
        for _ in range(3):
            x = torch.randn(3, 6, 9, 11) * 3 + 1
            assert torch.allclose(new(x), twin(x), atol=2e-6)
    for name, value in twin.state_dict().items():
        assert torch.allclose(new.state_dict()[name].double(), value.double(), rtol=1e-6), name


def test_cross_entropy():
    x, target = torch.randn(50, 31), torch.arange(50) % 31
    target[7] = -100
    for reduction in ("mean", "sum", "none"):
        judge(Function(lambda s, x, y, r=reduction: F.cross_entropy(x, y, reduction=r)), x, target)


@pytest.mark.parametrize("dtype", [torch.float16], ids=str)
def test_cross_entropy_finds_its_target_anywhere(dtype, monkeypatch):
    """Rows of one class and of thousands, images in either memory format, slices; targets narrow, expanded, ignored."""
    monkeypatch.setenv("CXX", str(QUICK_COMPILER))
    image = torch.randn(3, 7, 9, 20)
    for x in (
        torch.randn(40, 1),
        torch.randn(2, 30_000),
        torch.randn(300, 9),
        torch.randn(70, 40).t(),
        torch.randn(30, 90)[:, 3::2],
        torch.randn(5, 1).expand(5, 12),
        image,
        image.to(memory_format=torch.channels_last),
        image[:, 1::2, :, 3:],
    ):
        target = torch.randint(x.shape[1], (x.shape[0], *x.shape[2:]))
        target.view(-1)[:: max(2, target.numel() // 5)] = -100
        model = Function(lambda s, x, y: (F.cross_entropy(x, y), F.cross_entropy(x, y, reduction="none")))
        program = judge(model, x.to(dtype), target)
        assert all("row.index" not in render_kernel(kernel) for kernel in program.kernels)


def test_a_place_outside_the_row_finds_nothing():
    """As the maximum over no element: -inf. What lies beside the row is not read: NaN. Only the picked element counts."""
    memory = torch.full((9, 12), float("nan"))
    x = memory[2:7, 3:9]
    x[:] = torch.arange(30.0).view(5, 6)
    x[3] = torch.tensor([1.0, float("nan"), 2.0, float("nan"), 3.0, float("nan")])
    positions = torch.tensor([0, 5, 6, 1, -1])
    model = Function(lambda s, x, y: torch.where(torch.arange(6) == y[:, None], x, -float("inf")).amax(1))
    new, program = compiled(model, (x, positions))
    assert "pick<" in render_kernel(program.kernels[0])
    with torch.no_grad():
        for places in (positions, positions - 1, positions + 1, positions * (1 << 40)):
            assert torch.equal(new(x, places).nan_to_num(77), model(x, places).nan_to_num(77))


def test_values_are_picked_as_they_are_computed():
    """Of several inputs, of what a row is reduced to, of 16-bit values that are rounded on the way, once within another."""

    def function(s, x, y, w):
        here = torch.arange(x.shape[1]) == y[:, None]
        inner = torch.where(here, x, -float("inf")).amax(1, keepdim=True)
        value = (x * w).half().float() - x.logsumexp(1, keepdim=True) + torch.arange(x.shape[1])
        found = torch.where(here, value - inner, -float("inf")).amax(1, keepdim=True)
        return found, found + torch.zeros_like(x)

    x, y, w = torch.randn(40, 300), torch.randint(300, (40,)), torch.randn(300)
    new, program = compiled(Function(function), (x, y, w))
    assert "row.index" not in "".join(map(render_kernel, program.kernels))
    with torch.no_grad():
        for made, eager in zip(new(x, y, w), function(None, x, y, w), strict=True):
            assert torch.allclose(made, eager, rtol=1e-6, atol=1e-6)


def test_infinities_and_nan_in_rows():
    x = torch.randn(6, 40)
    x[0, 3], x[1, 5], x[2] = float("inf"), float("nan"), float("-inf")
    model = Function(lambda s, x: (x.softmax(1), x.amax(1), x.amin(1), x.logsumexp(1), x.sum(1)))
    new, _ = compiled(model, (x,))
    for a, b in zip(new(x), model(x), strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.allclose(a.nan_to_num(), b.nan_to_num(), rtol=1e-5)
