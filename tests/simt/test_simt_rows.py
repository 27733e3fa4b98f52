"""Every plan for row programs, executed thread by thread against float64."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tests.simt.harness import Program
from tests.simt.launches import H200, OLD, SMALL, SPREAD, WAITING, Device, misaligned, rows

Get = Callable[[str], Program]
RANDOM = np.random.default_rng(11)
EPS = {np.float32: 2.0**-23, np.float16: 2.0**-10, np.float64: 2.0**-52}


def softmax(get: Get, x: np.ndarray, axes: Sequence[int], device: Device = H200, orders: Sequence[int] = (0, 1)) -> str:
    """Runs and judges a softmax; returns the plan's kind."""
    dtype = x.dtype.type
    y = np.empty(x.shape, dtype)
    name = "softmax half" if dtype is np.float16 else "softmax float"
    plan = rows(get(name), "softmax", [y], [x], axes, sweeps=2, on_chip=8, device=device, orders=orders)
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(tuple(axes), keepdims=True))
    truth = e / e.sum(tuple(axes), keepdims=True)
    worst = np.abs(y - truth).max()
    assert worst <= 4 * EPS[dtype] * truth.max() + (2.0**-25 if dtype is np.float16 else 0), (worst, plan)
    return plan.kind


def random(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 65, 127, 128, 129, 255, 257, 511, 513])
def test_rows_in_registers(program: Get, size: int) -> None:
    """Sizes around a vector, a lane's share, a warp's; more and fewer rows than a block has places for."""
    for count in (1, 3, 70):
        assert softmax(program, random((count, size)), [1]) == "registers"


@pytest.mark.parametrize("size", [516, 1020, 1024])
def test_a_warp_per_row_that_holds_twice_as_much(program: Get, size: int) -> None:
    """Whole vectors long; where they do not begin at vectors, two warps have a row."""
    device = H200._replace(sms=1)
    for off in (0, 1):
        assert softmax(program, misaligned(random((18, size)), off), [1], device, orders=(0,)) == "registers"
    assert softmax(program, random((18, size + 4))[:, 4:], [1], device, orders=(1,)) == "registers"


@pytest.mark.parametrize("size", [1023, 1024, 1025, 4097, 8189, 8192])
def test_a_block_per_row_in_registers(program: Get, size: int) -> None:
    assert softmax(program, random((2, size)), [1]) == "registers"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_that_begin_anywhere(program: Get, dtype: type) -> None:
    """Misaligned by each element offset: by the pointer, by the distance between rows, and not contiguous at all."""
    vector = 16 // np.dtype(dtype).itemsize
    for off in range(vector):
        for size in (vector - 1, 4 * vector, 9 * vector + 1):
            softmax(program, misaligned(random((3, size), dtype), off), [1])
            softmax(program, random((3, size + off), dtype)[:, off:], [1], SMALL)
    softmax(program, random((5, 90), dtype)[:, ::2], [1])
    softmax(program, random((2, 40000), dtype)[:, 1::2], [1], SPREAD, orders=(0,))


@pytest.mark.parametrize(
    "shape, device, kind",
    [
        ((9, 8200), H200._replace(sms=4, capability=(8, 0)), "block"),
        ((9, 8193), H200._replace(sms=4, capability=(8, 0)), "block"),
        ((3, 20001), OLD._replace(sms=2), "block"),  # does not fit: read in every sweep
        ((5, 8195), SMALL, "grid"),  # 10 blocks' worth of shared memory, 4 SMs: read in every sweep
        ((5, 8200), SMALL._replace(sms=16, shared_per_block=26 << 10), "cluster"),
        ((5, 10001), SMALL._replace(sms=16, shared_per_block=26 << 10), "cluster"),
        ((3, 25003), SPREAD, "grid"),
        ((1, 50001), SPREAD, "grid"),
    ],
)
def test_long_rows(program: Get, shape: tuple[int, int], device: Device, kind: str) -> None:
    found = softmax(program, random(shape), [1], device, orders=(0, 1))
    assert found == kind or (kind == "grid" and found == "block")


CHUNK = 384 * 4 * 4  # fp32 elements (stage_shape in rows_staged.cuh)


@pytest.mark.parametrize("size", [CHUNK * n + d for n in (2, 7, 16) for d in (-1, 0, 5)])
def test_rows_that_wait(program: Get, size: int) -> None:
    """Sizes around a chunk, and around what a block, and a cluster of 2, 4 and 8, have places for; more rows than teams,
    whose last ones have nothing to send for."""
    for count in (2, 5):
        device = WAITING if size < 16 * CHUNK - 5 else WAITING._replace(shared_per_block=104 << 10)
        assert softmax(program, random((count, size)), [1], device, orders=(0, 1)) == "staged"


def test_rows_that_wait_in_the_largest_cluster(program: Get) -> None:
    """Of 16 blocks, which eight with two chunks each would not do for; more rows than teams."""
    assert softmax(program, random((3, 17 * CHUNK + 3)), [1], WAITING) == "staged"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_rows_that_wait_begin_anywhere(program: Get, dtype: type) -> None:
    vector = 16 // np.dtype(dtype).itemsize
    size = 2 * CHUNK * 4 // np.dtype(dtype).itemsize
    for off in range(vector):
        kinds = {softmax(program, misaligned(random((3, size - 8), dtype), off), [1], WAITING, (0,))}
        kinds |= {softmax(program, random((3, size - 20 + off), dtype)[:, off:], [1], WAITING, (1,))}
        kinds |= {softmax(program, misaligned(random((3, size - 9), dtype), off), [1], WAITING, (7,))}
        assert kinds == {"staged"}


def test_inputs_that_wait_side_by_side(program: Get) -> None:
    """Aligned alike, differently, and not contiguous: then they are read in every sweep."""
    size = CHUNK + 2304
    for a_off, b_off, step in [(0, 0, 1), (3, 3, 1), (0, 1, 1), (2, 0, 1), (0, 0, 2)]:
        a, b = misaligned(random((3, size)), a_off), misaligned(random((3, size * step)), b_off)[:, ::step]
        y = np.empty_like(a)
        plan = rows(
            program("norm float"),
            "pair",
            [y],
            [a, b],
            [1],
            sweeps=3,
            on_chip=12,
            device=WAITING._replace(shared_per_block=155 << 10),
        )
        assert plan.kind == ("staged" if step == 1 else "block")
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        e = wide_a * wide_b - (wide_a * wide_b).sum(1, keepdims=True)
        truth = (e - e.max(1, keepdims=True)) * wide_b
        assert np.abs(y - truth).max() <= 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (31, 32), (33, 31), (100, 65), (65, 257), (1000, 33), (7, 300)])
def test_rows_side_by_side(program: Get, shape: tuple[int, int]) -> None:
    kinds = {softmax(program, random(shape), [0], device) for device in (H200, OLD)}
    assert kinds == {"side by side"} or 1 in shape


def test_rows_side_by_side_over_many_blocks(program: Get) -> None:
    assert softmax(program, random((4000, 20)), [0], SPREAD, orders=(0, 1, 7)) == "side by side"


@pytest.mark.parametrize(
    "axes", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2], [0, 3], [1, 3], [0, 2, 3], [1, 2, 3]]
)
def test_any_set_of_dims(program: Get, axes: list[int]) -> None:
    """Rows of one run, of several, and of runs that no two dims describe; contiguous and permuted."""
    for size in (3, 8):
        x = random((4, 5, 6, size))
        softmax(program, x, axes)
        softmax(program, x, axes, SMALL._replace(shared_per_block=24 << 10))
        softmax(program, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2), axes)
        softmax(program, x[:, ::2, 1:], axes)


def check_norm(get: Get, name: str, x: np.ndarray, device: Device) -> str:
    """A body with several outputs and reductions; judged against float64."""
    dtype = x.dtype.type
    count, size = x.shape
    w, shift = random((size,), dtype), random((count, 1), dtype)
    y, twice, top = np.empty(x.shape, dtype), np.empty(x.shape, np.int32), np.empty((count, 1), dtype)
    plan = rows(
        get(name), "norm", [y, twice, top], [x, w, shift], [1], sweeps=3, on_chip=3 * max(4, x.itemsize), device=device
    )
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    truth = normal * w + shift
    assert np.abs(y - truth).max() <= 16 * EPS[dtype] * np.abs(truth).max(), plan
    assert (twice == 2 * np.arange(size)).all()
    assert (top == x.max(1, keepdims=True)).all()
    return plan.kind


@pytest.mark.parametrize("name, dtype", [("norm float", np.float32), ("norm double", np.float64)])
@pytest.mark.parametrize("device", [H200, SMALL, SPREAD, WAITING._replace(shared_per_block=227 << 10)])
def test_several_outputs_reductions_and_a_shared_weight(program: Get, name: str, dtype: type, device: Device) -> None:
    for shape in [(1, 1), (5, 7), (3, 64), (2, 1001), (3, 6003), (3, 10_007 if device.sms == 2 else 1024)]:
        check_norm(program, name, misaligned(random(shape, dtype), 1), device)
        check_norm(program, name, random(shape, dtype), device)


@pytest.mark.parametrize(
    "shape, device", [((5, 1), H200), ((70, 36), H200), ((5, 1024), H200), ((3, 4096), H200), ((5, 12_300), WAITING)]
)
def test_rows_that_all_begin_alike(program: Get, shape: tuple[int, int], device: Device) -> None:
    """All operands contiguous, with weights: the kernels without edges; and the same with one operand that is not aligned."""
    for off in (0, 1):
        x, w, b = misaligned(random(shape), 0), misaligned(random(shape[1:]), off), random(shape[1:])
        kind, y, mean, squares = layernorm(program, x, w, b, [1], device)
        assert kind == ("staged" if device is WAITING else "registers")
        wide = x.astype(np.float64)
        truth = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5) * w + b
        assert np.abs(y - truth).max() <= 4e-6 * np.abs(truth).max()
        assert np.abs(mean - wide.mean(1, keepdims=True)).max() <= 2e-7
        far = wide.var(1, keepdims=True) * shape[1]
        assert (np.abs(squares - far) <= 1e-6 * far).all()


def layernorm(
    get: Get,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    axes: list[int],
    device: Device,
    orders: Sequence[int] = (0, 1),
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The plan's kind, the result, each row's mean and its squared distances from it."""
    per_row = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    y, mean, squares = np.empty(x.shape, x.dtype), np.empty(per_row, np.float32), np.empty(per_row, np.float32)
    plan = rows(
        get("layernorm float"),
        "layernorm",
        [y, mean, squares],
        [x, w, b],
        axes,
        sweeps=2,
        on_chip=12,
        device=device,
        orders=orders,
    )
    return plan.kind, y, mean, squares


# Rows that one sweep is hard put to: little beside a large mean, nothing at all, an outlier where it begins or ends, a
# mean that moves, none. Each a function of numbers around 0 and of their places, from 0 to 1.
HOSTILE: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [
    lambda x, t: np.where(t == 0, 1e6, x),
    lambda x, t: x,
    lambda x, t: x + 1e4,
    lambda x, t: x * 100 + 1e8,
    lambda x, t: 0 * x + 0.1,
    lambda x, t: np.where(t == 1, 1e6, x),
    lambda x, t: x + 1e4 * t,
    lambda x, t: np.where(t < 0.3, x, x + 1e5),
    lambda x, t: np.where(t == t[len(t) // 2], 3.0000002, 3.0),
    lambda x, t: np.where(t == 0, np.inf, x),
    lambda x, t: np.where(t == 1, -np.inf, x),
    lambda x, t: np.where(t == 0, np.inf, np.where(t == 1, -np.inf, x)),
    lambda x, t: np.where(t == t[len(t) // 2], np.nan, x),
]


@pytest.mark.parametrize(
    "size, axes, device, kind",
    [
        (8203, [1], H200._replace(sms=4, capability=(8, 0)), "block"),
        (9003, [1], SMALL._replace(sms=16, shared_per_block=26 << 10), "cluster"),
        (25_003, [1], SPREAD._replace(sms=16), "grid"),
        (12_301, [1], WAITING, "staged"),
        (1200, [0], OLD, "side by side"),
        (5000, [0], SPREAD, "side by side"),
    ],
)
def test_moments_in_one_sweep(program: Get, size: int, axes: list[int], device: Device, kind: str) -> None:
    """Squared distances to a few roundings, however small they are beside the mean; 0 where all elements are equal. Of a
    row with infinities the mean is what its sum is, and there are no distances."""
    t, w = np.linspace(0, 1, size), np.ones([1 if axis not in axes else size for axis in (0, 1)], np.float32)
    random = np.random.default_rng(size)  # how much the outlier costs depends on the others
    made = [make(random.standard_normal(size), t) for make in HOSTILE]
    many = kind == "cluster"  # thousands of threads, which meet at every barrier
    for off, orders in ((0, (0,)), (3, (0, 1)))[many:]:
        x = misaligned(np.stack(made, 1 - axes[0]).astype(np.float32), off)
        found, _, mean, squares = layernorm(program, x, w, 0 * w, axes, device, orders[many:])
        assert found == kind
        eps, wide = EPS[np.float32], x.astype(np.float64)
        with np.errstate(invalid="ignore"):
            centre = wide.mean(axes[0], keepdims=True)
            far = ((wide - centre) ** 2).sum(axes[0], keepdims=True)
            far[far < 1e-20 * size] = 0  # the truth's own rounding, where all elements are equal
            off_mean = np.abs(mean - centre) - 2 * eps * (np.abs(centre) + np.sqrt(far / size))
            off_far = np.abs(squares - far) / np.where(far == 0, 1e-300, eps * far)
        some = np.isfinite(centre)
        assert (some | (mean == centre) | (np.isnan(mean) & np.isnan(centre))).all()
        assert (np.isnan(squares) == np.isnan(far)).all()
        assert off_mean[some].max() <= 0
        assert off_far.flat[0] <= 32 and off_far[some][1:].max() <= 4, off_far


# Rows that one sweep is hard put to: a sum whose base changes with every term or never, which is small beside what comes
# last, or of which most is far below; infinities and NaN. As HOSTILE, of numbers around 0 and of places from 0 to 1.
HARD: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = [
    lambda x, t: x,
    lambda x, t: 0 * x - 0.1,
    lambda x, t: 88 * t,
    lambda x, t: -1000 * t,
    lambda x, t: 1e4 * t,
    lambda x, t: 1e37 * t,
    lambda x, t: np.floor(40 * t) * 17,
    lambda x, t: np.where(t == 0, 1e4, x),
    lambda x, t: np.where(t == 1, 1e4, x),
    lambda x, t: np.where(t < 0.5, -7.03125, 0.03125 * (t == 1)),
    lambda x, t: np.where(t < 1, -np.inf, 3),
    lambda x, t: np.where(t > 0, -np.inf, -1e30),
    lambda x, t: np.where(t == t[len(t) // 2], -np.inf, x),
    lambda x, t: np.full_like(x, -np.inf),
    lambda x, t: np.where(t == t[len(t) // 2], np.inf, x),
    lambda x, t: np.where(t < 0.5, np.inf, -np.inf),
    lambda x, t: np.where(t == t[len(t) // 2], np.nan, x),
    lambda x, t: np.where(t == 1, np.nan, np.inf),
]


@pytest.mark.parametrize(
    "size, axes, device, kind",
    [
        (7, [1], H200, "registers"),
        (300, [1], H200, "registers"),
        (8203, [1], H200._replace(sms=4), "block"),
        (17_003, [1], SPREAD._replace(sms=16), "grid"),
        (5000, [0], SPREAD, "side by side"),
        (700, [0], OLD, "side by side"),
    ],
)
def test_exponentials_in_one_sweep(program: Get, size: int, axes: list[int], device: Device, kind: str) -> None:
    """The sum to a few roundings; where the maximum is infinite: NaN, and the sum without a shift."""
    t = np.linspace(0, 1, size)
    some = HARD[::4] if kind == "grid" else HARD  # many threads, which meet at every barrier
    made = [make(np.random.default_rng(size).standard_normal(size), t) for make in some]
    for name, dtype in (("softmax float", np.float32), ("softmax half", np.float16)):
        for off, orders in ((0, (0,)),) if dtype is np.float16 else ((3, (1,)),):
            with np.errstate(over="ignore", invalid="ignore"):
                x = misaligned(np.stack(made, 1 - axes[0]).astype(dtype), off)
                wide = x.astype(np.float64)
                largest = wide.max(axes[0], keepdims=True)
                truth = np.exp(wide - largest).sum(axes[0], keepdims=True)
                shifted = np.exp(wide - np.where(np.isinf(largest), 0, largest)).sum(axes[0], keepdims=True)
            found = [np.empty(largest.shape, np.float32) for _ in range(3)]
            plan = rows(program(name), "logsumexp", found, [x], axes, sweeps=1, on_chip=4, device=device, orders=orders)
            assert plan.kind == kind
            assert np.array_equal(found[0], largest, equal_nan=True)
            for sums, true in zip(found[1:], (truth, shifted), strict=True):
                assert np.array_equal(np.isnan(sums), np.isnan(true)) and np.array_equal(np.isinf(sums), np.isinf(true))
                near = np.isfinite(true) & (true > 0)
                assert np.all(np.isnan(true) | near | (sums == true))
                # for halves the exponential is cheaper: on an H200 such sums err by up to 9 of these units
                units = 8 if dtype is np.float32 else 16
                assert np.abs(sums[near] / true[near] - 1).max() <= units * EPS[np.float32], plan


def test_softmax_of_rows_that_wait_and_are_hard(program: Get) -> None:
    t = np.linspace(0, 1, 9000)
    made = np.stack([make(np.random.default_rng(3).standard_normal(9000), t) for make in HARD[:13]])
    assert softmax(program, made.astype(np.float32), [1], WAITING) == "staged"


def test_nan_and_infinity_reach_every_thread(program: Get) -> None:
    """A NaN anywhere in a row makes the whole row NaN, and no other row."""
    for size, device in ((5, H200), (100, H200), (3000, H200), (10_000, WAITING), (30_000, WAITING)):
        x = random((4, size))
        x[1, size // 2] = np.nan
        x[2, size - 1] = -np.inf
        y = np.empty_like(x)
        rows(program("softmax float"), "softmax", [y], [x], [1], sweeps=2, on_chip=8, device=device)
        assert np.isnan(y[1]).all() and not np.isnan(y[[0, 2, 3]]).any() and y[2, size - 1] == 0


def test_rows_of_infinities_are_nan(program: Get) -> None:
    """e^(inf - inf): in every kind of row, whether the maximum is known before the sum or not; a row of which a thread has
    met nothing but -infinity is not."""
    for size, device in ((7, H200), (3000, H200), (10_000, WAITING), (30_000, WAITING)):
        x = random((3, size))
        x[0], x[1, size // 3], x[2, : size - 1] = -np.inf, np.inf, -np.inf
        y = np.empty_like(x)
        rows(program("softmax float"), "softmax", [y], [x], [1], sweeps=2, on_chip=8, device=device)
        assert np.isnan(y[:2]).all() and (y[2, :-1] == 0).all() and y[2, -1] == 1


@pytest.mark.parametrize("device", [H200, SMALL, SPREAD])
def test_sums_do_not_drift(program: Get, device: Device) -> None:
    """The sum of one large and many small terms: no thread may add them in a single chain."""
    x = np.full((1, 200_000), 0.1, np.float32)
    y = np.empty((1, 1), np.float32)
    rows(program("norm float"), "total", [y], [x], [1], sweeps=1, on_chip=4, device=device, orders=(0,))
    assert abs(y[0, 0] / (200_000 * float(np.float32(0.1))) - 1) < 2e-7


@pytest.mark.parametrize(
    "shape, axes, device, kind",
    [
        ((70, 5), [1], H200, "registers"),
        ((5, 10001), [1], SMALL._replace(sms=16, shared_per_block=26 << 10, capability=(9, 0)), "cluster"),
        ((5, 12_300), [1], WAITING, "staged"),
        ((37, 100), [0], H200, "side by side"),
        ((6, 5, 6, 7), [0, 2, 3], H200, "side by side"),
        ((6, 5, 60, 8), [0, 2, 3], OLD, "registers"),
    ],
)
def test_one_element_of_each_row(
    program: Get, shape: tuple[int, ...], axes: list[int], device: Device, kind: str
) -> None:
    """At each end, within and outside the row, by each way to walk one."""
    kinds, dtype = set(), np.float32
    for x in (
        random(shape, dtype),
        misaligned(random(shape, dtype), 1),
        random((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2],
    ):
        outer = [axis for axis in range(x.ndim) if axis not in axes]
        wide = x.transpose(*outer, *axes).reshape([shape[axis] for axis in outer] + [-1])
        size = wide.shape[-1]
        places = RANDOM.integers(0, size, [1 if axis in axes else n for axis, n in enumerate(shape)])
        for number, place in enumerate((size - 1, -1, size, 0, -100, 1 << 20)):
            places.reshape(-1)[number::9] = place
        equals, y = np.empty(places.shape, dtype), np.empty(places.shape, dtype)
        counts = {"sweeps": 2, "on_chip": 4, "widest": 4}
        plan = rows(program("norm float"), "pick", [equals, y], [x, places], axes, device=device, orders=(0,), **counts)
        kinds.add(plan.kind)
        found = np.take_along_axis(wide, places.reshape(*wide.shape[:-1], 1).clip(0, size - 1), -1)
        assert (y.reshape(found.shape) == found).all(), plan
        assert (equals.reshape(found.shape[:-1]) == ((wide == found).sum(-1) + wide.max(-1)).astype(dtype)).all(), plan
    assert kind in kinds
