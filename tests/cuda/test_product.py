"""Products on the tensor cores against float64, on data that is hard for sums, and beside PyTorch's fp32 product."""

import math
import random

import pytest
import torch

from tests.cuda.product_data import EPS, NAMES, data, errors, normal
from tests.cuda.product_kernels import NOT_COVERED, pair, poisoned, product, run

pytestmark = pytest.mark.usefixtures("kind")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("m", "n", "k"), [(128, 512, 64), (128, 512, 1024), (20, 1000, 4096), (128, 1024, 32768)])
def test_errors_are_no_larger_than_those_of_the_fp32_product(name, m, n, k):
    x, w = data(name, m, n, k)
    ours, theirs = errors(product(x, w), x, w), errors(x @ w.T, x, w)
    # Each operand keeps 22 bits and the product of the low halves is left out: at most 4 eps of a term.
    assert ours[0] <= max(theirs[0], 4 * EPS), (ours, theirs)
    assert ours[1] <= max(theirs[1], EPS), (ours, theirs)


def test_random_shapes_tiles_and_parts_of_k():
    draw = random.Random(7)
    for _ in range(300):
        m, n, k = (int(2 ** draw.uniform(0, top)) for top in (9, 11, 12))
        tile, splits = draw.choice([0, 16, 64, 128]), draw.choice([0, 0, 1, 2, 3, 7])
        pitch = -(-k // 4) * 4 + 4 * draw.randrange(3)
        x, w = normal(m, k), normal(n, pitch)[:, :k] if draw.random() < 0.5 else normal(k, -(-n // 4) * 4)[:, :n].T
        found = errors(product(x, w, tile=tile, splits=splits), x, w)
        assert found[0] <= 1e-6, ((m, n, k), tile, splits, pitch, found)


def test_small_integers_are_exact():
    x, w = (torch.randint(-9, 10, (rows, 1000), device="cuda").float() for rows in (70, 300))
    assert torch.equal(product(x, w).double(), x.double() @ w.double().T)


def test_a_weight_that_lies_across():
    for m, n, k in ((70, 300, 777), (128, 1000, 4096), (3, 33, 50000)):
        x, w = normal(m, k), normal(n, -(-k // 4) * 4)[:, :k]
        across = normal(k, -(-n // 4) * 4)[:, :n].T.copy_(w)
        ours, theirs = errors(product(x, across), x, w), errors(product(x, w), x, w)
        assert ours[0] <= max(theirs[0], 4 * EPS) and ours[1] <= 1.1 * theirs[1]


@pytest.mark.parametrize("lies", [lambda w: w, lambda w: w.T.contiguous().T])
def test_hints_do_not_change_the_result(lies):
    x, w = normal(70, 777), lies(normal(300, 780)[:, :777])
    hints = torch.zeros(300, device="cuda")
    first = product(x, w, hints=hints)
    assert torch.equal(hints, w.abs().amax(1))
    assert torch.equal(product(x, w, hints=hints), first)
    assert torch.equal(product(x, w), first)


@pytest.mark.parametrize("lies", [lambda w: w, lambda w: w.T.contiguous().T])
@pytest.mark.parametrize("factor", [2.0**-30, 2.0**-12, 0.25, 0.9, 3.0, 2.0**5, 2.0**40, 0.0])
def test_a_weight_that_was_changed_in_place(factor, lies):
    x, w = normal(33, 512), lies(normal(260, 512))
    hints = torch.zeros(260, device="cuda")
    product(x, w, hints=hints)
    w[5:130] *= factor
    for _ in range(2):  # with the old hints, then with those that the first call left
        y = product(x, w, hints=hints)
        assert errors(y, x, w)[0] <= 1e-6
    assert bool((y[:, 5:130] == 0).all()) == (factor == 0)


@pytest.mark.parametrize("lies", [lambda w: w, lambda w: w.T.contiguous().T])
def test_a_row_whose_range_is_too_wide_is_looked_at_again(lies):
    x, w = normal(20, 256), lies(normal(140, 256))
    w[3, 0], x[:, 0] = 2.0**30, 0.0
    hints = torch.zeros(140, device="cuda")
    for _ in range(2):
        assert errors(product(x, w, hints=hints), x, w)[0] <= 1e-6
        assert torch.equal(hints < 0, torch.arange(140, device="cuda") == 3)
    w[3, 0] = 1.0
    assert errors(product(x, w, hints=hints), x, w)[0] <= 1e-6
    assert bool((hints > 0).all())


def test_any_hints_do():
    x, w = normal(20, 256), normal(140, 256)
    for value in (1e-45, 1e-30, 1e-3, 1e3, 1e38, math.inf, math.nan, -1.0):
        hints = torch.full((140,), value, device="cuda")
        assert errors(product(x, w, hints=hints), x, w)[0] <= 1e-6


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e17, 1e30, 1e35])
def test_magnitudes_near_the_ends_of_fp32(scale):
    x, w = normal(20, 300), normal(200, 300) * scale
    assert errors(product(x, w), x, w)[0] <= 1e-6
    small = normal(40, 300)
    assert errors(product(w[:20].contiguous(), small), w[:20], small)[0] <= 1e-6


@pytest.mark.parametrize("lies", [lambda w: w, lambda w: w.T.contiguous().T])
def test_infinities_and_nan_are_those_of_the_fp32_product(lies):
    x, w = normal(40, 260), lies(normal(300, 260))
    x[3, 7], x[9, 0], x[11, 5] = math.inf, math.nan, -math.inf
    x[11, 6] = math.inf
    w[17, 3], w[200, 259], w[201] = math.inf, math.nan, 0.0
    y, theirs = product(x, w), x @ w.T
    assert torch.equal(y.isnan(), theirs.isnan())
    assert torch.equal(y.isinf(), theirs.isinf())
    assert torch.equal(y[y.isinf()], theirs[y.isinf()])
    rows = [i for i in range(40) if i not in (3, 9, 11)]
    columns = [i for i in range(300) if i not in (17, 200)]
    assert errors(y[rows][:, columns], x[rows], w[columns])[0] <= 1e-6


def test_sums_that_overflow():
    x, w = torch.full((16, 64), 1e30, device="cuda"), torch.full((130, 64), 1e30, device="cuda")
    assert bool((product(x, w) == math.inf).all())


def test_bodies_with_operands_and_several_outputs():
    m, n, k = 100, 333, 200
    x, w, bias, factor = normal(m, k), normal(n, k), normal(n), normal(m, n).half()
    y, z = poisoned(n, m).T, poisoned(m, n, dtype=torch.float16)
    assert run("two", [y, z], x, w, bias, factor) == 0
    truth = x.double() @ w.double().T
    assert float((y - (truth + bias)).abs().max()) < 1e-4
    assert float((z - torch.sigmoid(truth) * factor).abs().max()) < 4e-3


@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 4), (3, 130, 64), (128, 5000, 256), (300, 1000, 128), (17, 129, 8192)]
)
def test_rows_reduced(m, n, k):
    x, w, bias = normal(m, k), normal(n, k) / math.sqrt(k), normal(n)
    mean, most = poisoned(m), poisoned(m)
    assert run("sigmoid_sum", [mean], x, w, bias) == 0
    assert run("row_max", [most], x, w) == 0
    truth = x.double() @ w.double().T
    assert float((mean - torch.sigmoid(truth + bias).mean(1)).abs().max()) < 1e-6
    assert float((most - truth.amax(1)).abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 4), (3, 130, 64), (128, 5000, 256), (300, 1000, 128), (17, 129, 8192)]
)
def test_logsumexp_of_rows(m, n, k):
    """Of values far below and above 0, and of infinite ones, as PyTorch has it."""
    x, w, bias, y = normal(m, k), normal(n, k), normal(n) * 30, poisoned(m)
    bias[: n // 2] -= 500
    assert run("logsumexp", [y], x, w, bias) == 0
    truth = torch.logsumexp(x.double() @ w.double().T + bias, 1)
    theirs = torch.logsumexp(x @ w.T + bias, 1)
    assert float((y - truth).abs().max()) <= 2 * float((theirs - truth).abs().max()) + 4 * EPS * float(
        truth.abs().max()
    )
    for special in (math.inf, -math.inf, math.nan):
        bias[n // 3] = special
        assert run("logsumexp", [y], x, w, bias) == 0
        theirs = torch.logsumexp(x @ w.T + bias, 1)
        torch.testing.assert_close(y, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)
    bias.fill_(-math.inf)
    assert run("logsumexp", [y], x, w, bias) == 0
    assert bool((y == -math.inf).all())


def batched(lies, b, m, n, k):
    """Factors of several products; what `lies` does is seen in their strides alone."""
    x, w = normal(b, m, k), normal(b, n, -(-k // 4) * 4)[..., :k]
    if lies == "across":
        w = normal(b, k, -(-n // 4) * 4)[..., :n].mT
    elif lies == "one weight":
        w = w[:1]
    elif lies == "one x":
        x = x[:1].expand(b, m, k)
    elif lies == "heads":
        x, w = normal(b, m, 3, k).transpose(1, 2), normal(b, n, 3, -(-k // 4) * 4)[..., :k].transpose(1, 2)
    elif lies == "x turned":
        x = normal(m, k, b).permute(2, 0, 1)
    elif lies == "apart":
        x, w = normal(2 * b, m, k + 3)[::2, :, :k], normal(2 * b, n + 1, -(-k // 4) * 4 + 4)[::2, 1:, 4 : 4 + k]
    elif lies == "each with all":
        x, w = normal(b, 1, m, k), normal(3, n, -(-k // 4) * 4)[..., :k]
    return x, w


LIES = ("together", "across", "one weight", "one x", "heads", "x turned", "apart", "each with all")


@pytest.mark.parametrize("lies", LIES)
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 4), (5, 70, 300, 777), (3, 128, 64, 2048), (33, 20, 130, 64), (2, 300, 260, 33)]
)
def test_several_products(lies, sizes):
    x, w = batched(lies, *sizes)
    for tile, splits in ((0, 0), (16, 1), (64, 2), (128, 3)):
        ours, theirs = errors(product(x, w, tile=tile, splits=splits), x, w), errors(x @ w.mT, x, w)
        assert ours[0] <= max(theirs[0], 4 * EPS), (tile, splits, ours, theirs)
        assert ours[1] <= max(theirs[1], EPS), (tile, splits, ours, theirs)


@pytest.mark.parametrize("lies", LIES)
def test_rows_of_several_products_reduced(lies):
    b, m, n, k = 4, 70, 300, 200
    x, w = batched(lies, b, m, n, k)
    truth = x.double() @ w.double().mT / 16
    bias = normal(*truth.shape[:-2], 1, n)
    mean, logs = poisoned(*truth.shape[:-1]), poisoned(*truth.shape[:-1])
    hints = torch.zeros(n if lies == "one weight" else truth.shape[:-2].numel() * n, device="cuda")
    x = x / 16
    for splits in (1, 3):
        for _ in range(2):
            assert run("sigmoid_sum", [mean], x, w, bias, hints=hints, splits=splits) == 0
            assert float((mean - torch.sigmoid(truth + bias).mean(-1)).abs().max()) < 1e-5
        assert run("logsumexp", [logs], x, w, bias, splits=splits) == 0
        assert float((logs - torch.logsumexp(truth + bias, -1)).abs().max()) < 1e-4
    found = hints.view(-1, n) if lies == "one weight" else hints.view(*truth.shape[:-2], n)
    assert torch.equal(found, w.abs().amax(-1).expand_as(found))


def test_several_results_of_several_products():
    b, m, n, k = 3, 100, 333, 200
    x, w, bias, factor = normal(b, m, k), normal(b, n, k), normal(b, 1, n), normal(m, b, n).half().transpose(0, 1)
    y, z = poisoned(n, b, m).permute(1, 2, 0), poisoned(b, m, n, dtype=torch.float16)
    x[1, 3, 5], w[2, 140, 7] = math.inf, math.nan
    assert run("two", [y, z], x, w, bias, factor) == 0
    truth = x.double() @ w.double().mT
    torch.testing.assert_close(y.double(), truth + bias, rtol=1e-5, atol=1e-4, equal_nan=True)
    torch.testing.assert_close(z.double(), torch.sigmoid(truth) * factor, rtol=2e-3, atol=4e-3, equal_nan=True)


def test_x_of_any_strides_and_of_half_precision():
    w = normal(200, 120)
    for x in (normal(120, 50).T, normal(50, 241)[:, 1::2], normal(50, 121)[:, 1:]):
        assert errors(product(x, w), x, w)[0] <= 1e-6
    x, y = normal(50, 120).half(), poisoned(50, 200)
    assert run("plain_half", [y], x, w) == 0
    assert errors(y, x, w)[0] <= 1e-6


def test_what_is_not_covered():
    x, y = normal(4, 64), poisoned(4, 8)
    for w in (normal(64, 10)[:, :8].T, normal(8, 128)[:, ::2], normal(8, 68)[:, 1:65], normal(8, 66)[:, :64]):
        assert 1 not in pair(w) or max(pair(w)) % 4 or w.data_ptr() % 16
        assert run("plain", [y], x, w) == NOT_COVERED
    assert bool((y == -7777).all())


def test_the_same_bits_on_every_run_stream_and_graph():
    x, w, bias = normal(128, 4096), normal(2048, 4096), normal(2048)
    hints, y = torch.zeros(2048, device="cuda"), poisoned(128)
    assert run("sigmoid_sum", [y], x, w, bias, hints=hints) == 0
    first = y.clone()
    for _ in range(20):
        y.fill_(-1)
        assert run("sigmoid_sum", [y], x, w, bias, hints=hints) == 0
        assert torch.equal(y, first)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        y.fill_(-1)
        assert run("sigmoid_sum", [y], x, w, bias, hints=hints) == 0
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(y, first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        assert run("sigmoid_sum", [y], x, w, bias, hints=hints) == 0
    y.fill_(-1)
    graph.replay()
    assert torch.equal(y, first)
    x.mul_(2)
    graph.replay()
    assert not torch.equal(y, first)
    assert float((y - torch.sigmoid(x.double() @ w.double().T + bias).mean(1)).abs().max()) < 1e-6
