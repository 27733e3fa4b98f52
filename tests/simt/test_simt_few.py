"""Products of few rows of x, executed thread by thread, against float64."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from modelnew.runtime.layout import Plan
from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_few import FEW_STRIDES_AT, few_tile, launch_of_few
from modelnew.runtime.plan_product import Factors
from tests.simt.harness import Program, SimtError
from tests.simt.launches import H200, in_orders, misaligned, strides_of

Get = Callable[[str], Program]
STORED = {"float": np.float32, "half": np.float16}
RANDOM = np.random.default_rng(11)
TWO = H200._replace(sms=2)


def laid(shape: tuple[int, int], dtype: type, across: int, more: int = 0) -> np.ndarray:
    """A weight whose rows (columns, where it lies across) begin at multiples of 16 bytes; what is between them is NaN."""
    long, count = shape[::-1] if not across else shape
    vector = 16 // np.dtype(dtype).itemsize
    pitch = -(-long // vector) * vector + more * vector
    place = misaligned(np.full((count, pitch), np.nan, dtype), 0)[:, :long]
    place[...] = RANDOM.standard_normal(place.shape)
    return place.T if across else place


def run(
    program: Program,
    name: str,
    outputs: Sequence[np.ndarray],
    x: np.ndarray,
    w: np.ndarray,
    others: Sequence[np.ndarray] = (),
    splits: int = 1,
    device: Device = TWO,
    orders: Sequence[int] = (0,),
) -> Plan:
    (m, k), n = x.shape, w.shape[0]
    lies = lambda a: tuple(step // a.itemsize for step in a.strides)  # noqa: E731
    factors = Factors(m, n, k, lies(x), lies(w))
    reduces = outputs[0].shape[1] == 1 and n > 1
    pairs = [tuple(strides_of(each)) for each in (*outputs, *(np.broadcast_to(o, (m, n)) for o in others))]
    plan = launch_of_few(factors, [pairs[0], *pairs[len(outputs) :]], device, reduces, splits)
    more = [step for pair in pairs[1 : len(outputs)] for step in pair]
    plan = plan._replace(numbers=(*plan.numbers[: FEW_STRIDES_AT + 2], *more, *plan.numbers[FEW_STRIDES_AT + 2 :]))
    across = int(w.strides[1] != w.itemsize)
    in_orders(program, f"{name}_{few_tile(m)}_{across}", outputs, [x, w, *others], plan, orders)
    return plan


def check(y: np.ndarray, x: np.ndarray, w: np.ndarray) -> None:
    """Errors are those of partial sums of fp32, and of one rounding."""
    wide, wider = x.astype(np.float64), w.astype(np.float64)
    truth, terms = wide @ wider.T, np.abs(wide) @ np.abs(wider).T
    rounding = 2.0**-11 if y.dtype == np.float16 else 0
    assert (np.abs(y - truth) <= 2.0**-22 * terms + rounding * np.abs(truth)).all()


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("across", [0, 1])
def test_sizes_around_every_edge(program: Get, stored: str, across: int) -> None:
    """One row of x and a tile's, less than a vector and a slice, and more; rows of the weight with gaps between them."""
    dtype = STORED[stored]
    sizes = [
        (1, 1, 1, 1),
        (1, 70, 300, 2),
        (1, 3, 2060, 1),
        (3, 257, 515, 1),
        (4, 37, 1030, 3),
        (5, 41, 600, 2),
        (8, 30, 40, 1),
    ]
    for m, n, k, splits in sizes:
        x, w = RANDOM.standard_normal((m, k)).astype(dtype), laid((n, k), dtype, across, more=m % 2)
        y = np.empty((m, n), dtype)
        run(program(f"few {stored}"), "plain", [y], x, w, splits=splits, orders=(0, 1) if m == 3 else (0,))
        check(y, x, w)


@pytest.mark.parametrize("stored", STORED)
def test_x_lies_anyhow(program: Get, stored: str) -> None:
    """Transposed, stepped, one row for all, and off the vectors' places; results as well."""
    dtype, wide = STORED[stored], RANDOM.standard_normal((4, 600))
    w = laid((21, 259), dtype, 0)
    for x in (wide.T[:259], wide[:, 1:519:2], np.broadcast_to(wide[:1, 3:262], (4, 259)), wide[:, 5:264]):
        x = x.astype(dtype) if x.strides[0] else np.broadcast_to(x[:1].astype(dtype), x.shape)
        x = misaligned(x, 1) if x.strides[0] else x
        y = np.empty((21, 4), dtype).T
        run(program(f"few {stored}"), "plain", [y], x if x.shape[0] == 4 else x.T, w)
        check(y, x if x.shape[0] == 4 else x.T, w)


@pytest.mark.parametrize("across", [0, 1])
def test_infinities_and_nan_stay_where_they_are(program: Get, across: int) -> None:
    x, w = RANDOM.standard_normal((4, 300)).astype(np.float32), laid((40, 300), np.float32, across)
    x[1, 299], x[2, 4], w[7, 0], w[8, 299] = np.inf, np.nan, -np.inf, np.nan
    for splits in (1, 2):
        y = np.empty((4, 40), np.float32)
        run(program("few float"), "plain", [y], x, w, splits=splits)
        with np.errstate(invalid="ignore"):
            truth = x.astype(np.float64) @ w.astype(np.float64).T
        assert (np.isnan(y) == np.isnan(truth)).all()
        assert (y[np.isinf(truth)] == truth[np.isinf(truth)]).all()
        some = [i for i in range(40) if i not in (7, 8)]
        check(y[[0, 3]][:, some], x[[0, 3]], w[some])


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("across", [0, 1])
def test_what_follows(program: Get, stored: str, across: int) -> None:
    """Operands per column and per element, two results; rows reduced over one tile of n, and over several."""
    dtype = STORED[stored]
    for m, n, k, splits in [(5, 66, 300, 1), (8, 66, 600, 2)]:
        x, w = RANDOM.standard_normal((m, k)).astype(dtype), laid((n, k), dtype, across)
        bias, factor = RANDOM.standard_normal(n).astype(dtype), RANDOM.standard_normal((m, n)).astype(np.float32)
        y, z = np.empty((m, n), dtype), np.empty((n, m), np.float32).T
        run(program(f"few {stored}"), "shifted", [y, z], x, w, [bias, factor], splits)
        product = x.astype(np.float64) @ w.astype(np.float64).T
        np.testing.assert_allclose(y, product + bias, rtol=2e-3 if stored == "half" else 1e-5, atol=2e-3)
        np.testing.assert_allclose(z, np.maximum(product, 0) * factor, rtol=1e-4, atol=1e-3)
    for n, k, splits in [(30, 40, 1), (1100, 270, 2)]:
        x, w = RANDOM.standard_normal((2, k)).astype(dtype), laid((n, k), dtype, across)
        bias, y = RANDOM.standard_normal(n).astype(dtype), np.empty((2, 1), np.float32)
        run(program(f"few {stored}"), "mean", [y], x, w, [bias], splits, orders=(0, 7))
        truth = (x.astype(np.float64) @ w.astype(np.float64).T + bias).mean(1, keepdims=True)
        np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-5)


def test_a_weight_that_begins_anywhere_is_left(program: Get) -> None:
    x, y = np.ones((1, 8), np.float32), np.empty((1, 4), np.float32)
    with pytest.raises(SimtError):
        run(program("few float"), "plain", [y], x, misaligned(np.ones((4, 8), np.float32), 1))
