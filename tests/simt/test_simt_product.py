"""Products by Ampere's instructions, run thread by thread: bit for bit what the model of their arithmetic says."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tests.product_model import AMPERE, kernel_product
from tests.simt.harness import Program
from tests.simt.launches import SPREAD, Array, products

Get = Callable[[str], Program]
EPS = 2.0**-23


@pytest.fixture(params=["product", "product across"])
def lies(request: pytest.FixtureRequest) -> str:
    """Tiles of 16 and a weight whose rows are contiguous; tiles of 64 and one whose columns are."""
    return request.param


def factors(lies: str, m: int, n: int, k: int) -> tuple[Array, Array]:
    """Rows of the weight, or columns, begin at multiples of 4 elements; x is every second element of something."""
    random = np.random.default_rng(m + n + k)
    rows, columns = (k, n) if lies == "product across" else (n, k)
    w = random.standard_normal((rows, -(-columns // 4) * 4)).astype(np.float32)[:, :columns]
    x = random.standard_normal((m, 2 * k)).astype(np.float32)[:, ::2]
    x *= np.exp2(random.integers(-40, 40, (m, 1)))
    return x, w.T if lies == "product across" else w


def affine(get: Get, lies: str, x: Array, w: Array, **options: object) -> tuple[Array, Array, Array]:
    """The product; what the kernel makes of it with operands: it plus 0 per column, and times a half per element."""
    half = np.random.default_rng(1).standard_normal((len(x), len(w))).astype(np.float16)
    y, z = np.empty((len(w), len(x)), np.float32).T, np.empty((len(x), len(w)), np.float16)
    products(get(lies), "affine", [y, z], [x, w, np.zeros(len(w), np.float32), half], **options)
    return y, z, half


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 3), (17, 131, 70)])
def test_every_bit_is_that_of_the_model(program: Get, lies: str, m: int, n: int, k: int) -> None:
    """By one block, which does one unit after the other."""
    x, w = factors(lies, m, n, k)
    y, z, half = affine(program, lies, x, w, device=SPREAD._replace(sms=1))
    expected = kernel_product(x, w, AMPERE, across=lies == "product across")
    assert np.array_equal(y, expected)
    with np.errstate(over="ignore"):
        assert np.array_equal(z, (expected * half.astype(np.float32)).astype(np.float16))


def several(lies: str, shares: str, m: int, n: int, k: int) -> tuple[Array, Array]:
    """Factors of 2 x 3 products, whose batches do not make one dim; `shares`: of which there is one."""
    made = [factors(lies, m, n, k * (1 + i)) for i in range(6)]
    x, w = np.stack([x[:, :k] for x, _ in made]), np.stack([np.ascontiguousarray(w[:n, :k]) for _, w in made])
    x = x.reshape(2, 3, m, k).transpose(0, 2, 1, 3).copy().transpose(0, 2, 1, 3)
    wide = np.zeros((3, 2, n, -(-k // 4) * 4) if lies == "product" else (3, 2, k, -(-n // 4) * 4), np.float32)
    w_place = wide[..., :k] if lies == "product" else wide[..., :n].transpose(0, 1, 3, 2)
    w_place[...] = w.reshape(3, 2, n, k)
    w = w_place.transpose(1, 0, 2, 3)
    return x[:, :1] if shares == "x" else x, w[:1, :1] if shares == "weight" else w


@pytest.mark.parametrize("shares", ["nothing", "x", "weight"])
def test_several_products_are_each_what_they_would_be_alone(program: Get, lies: str, shares: str) -> None:
    m, n, k = 3, 20, 40
    x, w = several(lies, shares, m, n, k)
    half = np.random.default_rng(1).standard_normal((m, 2, 3, n)).astype(np.float16).transpose(1, 2, 0, 3)
    bias = np.broadcast_to(np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1), (2, 3, m, n))
    y, z = np.empty((2, n, 3, m), np.float32).transpose(0, 2, 3, 1), np.empty((2, 3, m, n), np.float16)
    products(program(lies), "affine", [y, z], [x, w, bias, half], orders=(0,))
    for i, j in itertools.product(range(2), range(3)):
        alone = x[i, j % x.shape[1]], w[i % w.shape[0], j % w.shape[1]]
        expected = kernel_product(*alone, AMPERE, across=lies == "product across")
        assert np.array_equal(y[i, j], expected + bias[i, j])
        with np.errstate(over="ignore"):
            assert np.array_equal(z[i, j], (expected * half[i, j].astype(np.float32)).astype(np.float16))


def test_rows_reduced_of_several_products(program: Get, lies: str) -> None:
    x, w = several(lies, "nothing", 5, 20, 130)
    bias = np.random.default_rng(2).standard_normal(20).astype(np.float32)
    y, hints = np.empty((2, 3, 5), np.float32), np.ascontiguousarray(np.abs(w).max(-1))
    truth = np.matmul(x.astype(np.float64), w.astype(np.float64).swapaxes(-1, -2)) + bias
    terms = np.matmul(np.abs(x).astype(np.float64), np.abs(w).astype(np.float64).swapaxes(-1, -2)) + np.abs(bias)
    products(program(lies), "means", [y], [x, w, bias], [hints], splits=2, orders=(1,))
    assert (np.abs(y - truth.mean(-1)) <= 4 * EPS * terms.mean(-1)).all()


def test_what_is_not_finite_or_too_wide_is_summed_in_fp32(program: Get, lies: str) -> None:
    x, w = factors(lies, 6, 20, 40)
    x[:] = np.sign(x) * (1 + np.abs(x) % 1)
    x[1, 3], x[2, 4], x[3], x[4, 0] = np.inf, np.nan, 0.0, 2.0**70
    w[2, 5], w[3, 6], w[4], w[5, 1] = -np.inf, np.nan, 0.0, 2.0**30
    with np.errstate(invalid="ignore", over="ignore"):
        y = affine(program, lies, x, w, orders=(0,))[0]
        truth = x.astype(np.float64) @ w.astype(np.float64).T
        terms = np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T
    finite = np.isfinite(truth)
    assert np.array_equal(y[~finite], truth[~finite].astype(np.float32), equal_nan=True)
    assert finite[[0, 3, 4, 5]][:, [0, 1, 4, 5, 6]].all()
    assert (np.abs(y[finite] - truth[finite]) <= 4 * EPS * terms[finite]).all()


def test_rows_reduced_of_products_in_parts_of_k(program: Get, lies: str) -> None:
    x, w = factors(lies, 5, 140, 130)
    bias = np.random.default_rng(2).standard_normal(140).astype(np.float32)
    y, hints = np.empty(5, np.float32), np.abs(w).max(1)
    products(program(lies), "means", [y], [x, w, bias], [hints], splits=2, orders=(1,))
    truth = (x.astype(np.float64) @ w.astype(np.float64).T + bias).mean(1)
    terms = (np.abs(x).astype(np.float64) @ np.abs(w).astype(np.float64).T + np.abs(bias)).mean(1)
    assert (np.abs(y - truth) <= 4 * EPS * terms).all()
