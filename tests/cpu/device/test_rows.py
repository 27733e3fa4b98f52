"""Row programs: every plan kind, rows around every boundary, strides of every sort, all dtypes, any number of threads."""

from collections.abc import Sequence

import pytest
import torch

from modelnew.runtime.plan_cpu import plan_rows
from tests.cpu.device.layouts import row_layout
from tests.cpu.device.library import CXX_TYPES, launch, load, options

CACHE = 32 << 20
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

# shape, dims that are reduced, the plan's kind
CASES = [
    ((1,), (0,), "whole"),
    ((5, 1), (1,), "whole"),
    ((3, 63), (1,), "whole"),
    ((7, 65), (1,), "whole"),
    ((4, 1023), (1,), "whole"),
    ((4, 1024), (1,), "whole"),
    ((5, 1025), (1,), "whole"),
    ((300, 1000), (1,), "whole"),
    ((3, 9000), (1,), "whole"),  # chains are folded
    ((6, 30, 7, 9), (0, 2, 3), "whole"),
    ((6, 8, 300), (0, 2), "whole"),
    ((2, 20_000), (1,), "split"),
    ((1, 70_001), (1,), "split"),
    ((3, 150_000), (1,), "split"),  # kept values would not fit
    ((1, 40, 1000), (1, 2), "split"),
    ((1000, 9), (1,), "columns"),  # short rows side by side
    ((300, 16), (1,), "columns"),
    ((300, 17), (1,), "whole"),
    ((16, 1), (1,), "columns"),
    ((300, 100), (0,), "columns"),  # elements apart, rows next to each other
    ((3000, 5), (0,), "columns"),
    ((700, 300), (0,), "columns"),
    ((4, 30, 7, 9), (1,), "columns"),
    ((9, 100, 33), (0, 1), "columns"),
    ((6, 7, 8, 20), (0, 2), "columns"),
]


def run(
    name: str,
    outputs: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor],
    dims: Sequence[int],
    threads: int = 2,
    cache: int = CACHE,
) -> str:
    """Launch on tensors expanded to one shape; the plan's kind."""
    plan = plan_rows(row_layout(outputs, inputs, dims), cache)
    launch(load("rows.cpp", *options(inputs[0].dtype)), name, [*outputs, *inputs], plan.numbers, threads)
    return plan.kind


def data(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    x = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    if dtype == torch.bool:
        return x > 1
    return x.to(dtype) if dtype.is_floating_point else (x.abs() * 20 if dtype == torch.uint8 else x * 20).to(dtype)


def per_row(shape: Sequence[int], dims: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """One value per row, expanded over the rows with stride 0."""
    return torch.empty([1 if d in dims else n for d, n in enumerate(shape)], dtype=dtype).expand(tuple(shape))


def first(expanded: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """What `per_row` expanded."""
    return expanded[tuple(slice(0, 1) if d in dims else slice(None) for d in range(expanded.dim()))]


def check_sum(x: torch.Tensor, dims: Sequence[int], threads: int = 2) -> str:
    y = per_row(x.shape, dims, x.dtype if x.dtype.is_floating_point else torch.int64)
    kind = run("sum", [y], [x], dims, threads)
    if not x.dtype.is_floating_point:
        assert torch.equal(first(y, dims), x.sum(dims, keepdim=True))
        return kind
    truth = x.double().sum(dims, keepdim=True)
    eager = x.sum(dims, keepdim=True).double()
    computed = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    unit = torch.finfo(x.dtype).eps * truth.abs() + computed * x.double().abs().sum(dims, keepdim=True)
    assert ((first(y, dims).double() - truth).abs() <= 2 * (eager - truth).abs() + unit).all()
    return kind


def check_profile(x: torch.Tensor, dims: Sequence[int], threads: int = 2) -> str:
    limit = first(data(x.shape, x.dtype, 1), dims).contiguous().expand(x.shape)
    found = [per_row(x.shape, dims, t) for t in (x.dtype, x.dtype, torch.bool, torch.bool, torch.int64, torch.int64)]
    kind = run("profile", found, [x, limit], dims, threads)
    above = x > limit
    largest, least, some, every, count, last = (first(t, dims) for t in found)
    flat = tuple(dims)
    if x.dtype == torch.bool:
        assert torch.equal(largest, x.sum(flat, keepdim=True) > 0)
    else:
        assert torch.equal(largest, x.amax(flat, keepdim=True))
        assert torch.equal(least, x.amin(flat, keepdim=True))
    total = x.numel() // largest.numel()
    assert torch.equal(count, above.sum(flat, keepdim=True))
    assert torch.equal(some, count > 0)
    assert torch.equal(every, count == total)
    if len(dims) == 1:  # over several dims, positions count in the order of memory
        positions = torch.arange(total).view([-1 if d in dims else 1 for d in range(x.dim())])
        assert torch.equal(last, torch.where(above, positions, -1).amax(flat, keepdim=True))
    return kind


def check_softmax(x: torch.Tensor, dims: Sequence[int], threads: int = 2, cache: int = CACHE) -> str:
    y, shifted = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
    kind = run("softmax", [y, shifted], [x], dims, threads, cache)
    wide = x.double() - x.double().amax(tuple(dims), keepdim=True)
    e = wide.exp()
    truth = e / e.sum(tuple(dims), keepdim=True)
    eps = torch.finfo(x.dtype).eps
    assert torch.allclose(shifted.double(), wide, rtol=eps, atol=0)
    assert ((y.double() - truth).abs() <= 8 * eps * truth + torch.finfo(x.dtype).smallest_normal * eps).all()
    return kind


def check_exponentials(x: torch.Tensor, dims: Sequence[int], threads: int = 2, cache: int = CACHE) -> str:
    y, shifted = torch.empty(x.shape, dtype=x.dtype), torch.empty(x.shape, dtype=x.dtype)
    total = per_row(x.shape, dims, torch.promote_types(x.dtype, torch.float32))
    kind = run("exponentials", [y, shifted, total], [x], dims, threads, cache)
    wide = x.double() - x.double().amax(tuple(dims), keepdim=True)
    truth = wide.exp().sum(tuple(dims), keepdim=True)
    eps = torch.finfo(x.dtype).eps
    assert torch.allclose(shifted.double(), wide, rtol=eps, atol=0)
    assert torch.allclose(first(total, dims).double(), truth, rtol=16 * torch.finfo(total.dtype).eps, atol=0)
    least = torch.finfo(x.dtype).smallest_normal * eps
    assert ((y.double() - wide.exp() / truth).abs() <= 8 * eps * wide.exp() / truth + least).all()
    return kind


def check_normalize(x: torch.Tensor, dims: Sequence[int], threads: int = 2) -> str:
    weight = data([n if d in dims else 1 for d, n in enumerate(x.shape)], x.dtype, 2).expand(x.shape)
    computed = torch.promote_types(x.dtype, torch.float32)
    y, mean, squares = torch.empty(x.shape, dtype=x.dtype), *(per_row(x.shape, dims, computed) for _ in range(2))
    kind = run("normalize", [y, mean, squares], [x, weight], dims, threads)
    wide = x.double()
    centre = wide.mean(tuple(dims), keepdim=True)
    spread = (wide - centre).square().mean(tuple(dims), keepdim=True)
    truth = (wide - centre) * (spread + 1e-5).rsqrt() * weight.double()
    eps = torch.finfo(x.dtype).eps
    # rows of equal elements stay 0 but for the rounding of the mean, which 1e-5 enlarges by 300
    assert (
        (y.double() - truth).abs() <= 8 * eps * (1 + truth.abs()) + 1e3 * torch.finfo(mean.dtype).eps * wide.abs().max()
    ).all()
    assert_moments(x, dims, first(mean, dims), first(squares, dims))
    return kind


def assert_moments(x: torch.Tensor, dims: Sequence[int], mean: torch.Tensor, squares: torch.Tensor) -> None:
    """The mean as good as a sum in pairs gives it; squared distances, however small beside the mean, to a few roundings."""
    wide, eps = x.double(), torch.finfo(mean.dtype).eps
    centre = wide.mean(dims, keepdim=True)
    far = (wide - centre).square().sum(dims, keepdim=True)
    count = x.numel() // far.numel()
    assert ((mean.double() - centre).abs() <= 2 * eps * (centre.abs() + (far / count).sqrt())).all()
    floor = 0 if mean.dtype == torch.float32 else count * (eps * centre) ** 2  # of the truth itself
    assert ((squares.double() - far).abs() <= 8 * eps * far + floor).all()


HOSTILE = {
    "far from 0": lambda x: x + 1e4,
    "few bits": lambda x: x * 100 + 1e8,
    "equal": lambda x: torch.full_like(x, 0.1),
    "an outlier first": lambda x: torch.cat([torch.full_like(x[:1], 1e6), x[1:]]),
    "an outlier last": lambda x: torch.cat([x[:-1], torch.full_like(x[:1], 1e6)]),
    "rising": lambda x: torch.arange(len(x)) + x,
    "two levels": lambda x: torch.where(torch.arange(len(x)) < len(x) // 3, x, x + 1e5),
    "1 of many": lambda x: torch.where(torch.arange(len(x)) == len(x) // 2, 3.0000002, 3.0),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_moments_of_hostile_rows(case: str) -> None:
    for rows, size, kind in ((2, 70_001, "split"), (20, 5000, "whole"), (16, 1100, "columns"), (300, 3100, "columns")):
        row = HOSTILE[case](data([size])).float()
        x = torch.stack([row + 0 * r for r in range(rows)], 1 if kind == "columns" else 0)
        dims = (0,) if kind == "columns" else (1,)
        mean, squares = (per_row(x.shape, dims, torch.float32) for _ in range(2))
        assert run("normalize", [torch.empty(x.shape), mean, squares], [x, x], dims) == kind
        assert_moments(x, dims, first(mean, dims), first(squares, dims))


def test_moments_of_rows_without_a_mean() -> None:
    """As sums: one infinity is the mean, two of them or a NaN are none; of no such row there are distances."""
    for shape, dims, kind in (((4, 70_001), (1,), "split"), ((4, 5000), (1,), "whole"), ((5000, 4), (0,), "columns")):
        x = data(shape)
        rows = x if dims == (1,) else x.t()
        for place in (0, 1, rows.shape[1] - 1):
            rows[:] = 1.0
            rows[0, place], rows[1, [place, 7]] = float("inf"), torch.tensor([float("inf"), float("-inf")])
            rows[2, place] = float("nan")
            mean, squares = (per_row(x.shape, dims, torch.float32) for _ in range(2))
            assert run("normalize", [torch.empty(x.shape), mean, squares], [x, x], dims) == kind
            found = first(mean, dims).flatten()
            assert found[0] == float("inf") and found[1:3].isnan().all() and found[3] == 1
            assert torch.equal(first(squares, dims).flatten().isnan(), torch.tensor([True, True, True, False]))


def check_pick(x: torch.Tensor, dims: Sequence[int], in_order: bool = True) -> str:
    """Elements at each end, within and outside the row. in_order: positions count as the dims of the tensor do."""
    outer = [d for d in range(x.dim()) if d not in dims]
    turned = x.permute(*outer, *dims)
    rows = turned.reshape([x.shape[d] for d in outer] + [-1])
    size = rows.shape[-1]
    shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
    places = torch.randint(0, size, shape, generator=torch.Generator().manual_seed(7))
    for number, place in enumerate((0, size - 1, size, -1, -100, 1 << 40, -(1 << 40))):
        places.view(-1)[number::11] = place
    equals, y = per_row(x.shape, dims, torch.int64), per_row(x.shape, dims, x.dtype)
    kind = run("pick", [equals, y], [x, places.expand(x.shape)], dims)
    found = first(y, dims).reshape(rows.shape[:-1])
    if in_order:
        expected = rows.gather(-1, places.reshape(found.shape).clamp(0, size - 1).unsqueeze(-1)).squeeze(-1)
        assert torch.equal(found, expected)
    counted = (rows == found.unsqueeze(-1)).sum(-1)
    assert bool((counted > 0).all())
    assert torch.equal(first(equals, dims).reshape(found.shape), counted)
    return kind


@pytest.mark.parametrize(("shape", "dims", "kind"), CASES)
def test_kinds(shape: tuple[int, ...], dims: tuple[int, ...], kind: str) -> None:
    x = data(shape)
    assert check_sum(x, dims) == kind
    assert check_profile(x, dims) == kind
    assert check_pick(x, dims) == kind
    assert check_softmax(x, dims) == kind
    assert check_normalize(x, dims) == kind


@pytest.mark.parametrize("dtype", CXX_TYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    for shape, dims, kind in (
        ((40, 1100), (1,), "whole"),
        ((2, 40_000), (1,), "split"),
        ((300, 70), (0,), "columns"),
        ((500, 7), (1,), "columns"),
    ):
        x = data(shape, dtype)
        assert check_sum(x, dims) == kind
        assert check_profile(x, dims) == kind
        assert check_pick(x, dims) == kind
        if dtype.is_floating_point:
            assert check_softmax(x, dims) == kind
            assert check_normalize(x, dims) == kind


@pytest.mark.parametrize(("shape", "dims", "kind"), [case for case in CASES if len(case[0]) > 1])
def test_turned(shape: tuple[int, ...], dims: tuple[int, ...], kind: str) -> None:
    """The same domains with the dims of the input in reverse, sliced, and one dim expanded."""
    x = data(shape[::-1]).permute(*range(len(shape) - 1, -1, -1))
    check_profile(x, dims)
    check_pick(x, dims, in_order=len(dims) == 1)
    check_softmax(x, dims)
    check_normalize(data([n + 3 for n in shape])[tuple(slice(2, 2 + n) for n in shape)], dims)
    for d in range(len(shape)):
        expanded = data([1 if e == d else n for e, n in enumerate(shape)]).expand(shape)
        check_profile(expanded, dims)
        check_pick(expanded, dims, in_order=len(dims) == 1)


def test_overlapping_windows() -> None:
    x = data([3000])
    for strides in ((1, 1), (2, 3), (5, 1), (1, 5)):
        check_sum(x.as_strided((100, 90), strides), (1,))
        check_softmax(x.as_strided((100, 90), strides), (1,))


def test_misaligned() -> None:
    for shift in range(1, 4):
        x = data([50 * 333 + shift])[shift:].view(50, 333)
        check_softmax(x, (1,))
        check_sum(x, (0,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_same_bits_for_any_number_of_threads(dtype: torch.dtype) -> None:
    for shape, dims, kind in CASES:
        x = data(shape, dtype)
        results = []
        for threads in (1, 2, 3):
            y, total = torch.empty_like(x), per_row(shape, dims, dtype)
            assert run("sum", [total], [x], dims, threads) == kind
            run("softmax", [y, torch.empty_like(x)], [x], dims, threads)
            mean, squares = (per_row(shape, dims, torch.float32) for _ in range(2))
            run("normalize", [torch.empty_like(x), mean, squares], [x, x], dims, threads)
            results.append((first(total, dims).clone(), y, first(mean, dims).clone(), first(squares, dims).clone()))
        for found in results[1:]:
            assert all(map(torch.equal, found, results[0]))


def test_past_the_cache() -> None:
    for shape, dims, _ in CASES:
        check_softmax(data(shape), dims, cache=100)
        check_exponentials(data(shape), dims, cache=100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stores_that_are_put_off(dtype: torch.dtype) -> None:
    """Past the cache what is kept of a row is stored while the next row is reduced: the last row, rows of one thread, rows
    that are too short, too long or not aligned. The same bits as by stores at once."""
    for shape in (
        (1, 512),
        (2, 512),
        (3, 544),
        (300, 1024),
        (37, 1056),
        (7, 4096),
        (16, 16384),
        (16, 16416),
        (9, 1032),
    ):
        x = data(shape, dtype)
        for name in ("softmax", "exponentials"):
            totals = [per_row(shape, (1,), dtype) for _ in range(2 if name == "exponentials" else 0)]
            at_once = [torch.empty_like(x), torch.empty_like(x), *totals[:1]]
            assert run(name, at_once, [x], (1,)) == "whole"
            for threads in (1, 2, 3):
                put_off = [torch.full_like(x, float("nan")), torch.full_like(x, float("nan")), *totals[1:]]
                run(name, put_off, [x], (1,), threads, cache=100)
                assert all(torch.equal(a, b) for a, b in zip(put_off, at_once, strict=True)), (shape, name, threads)
        check_exponentials(x, (1,), cache=100)


def test_special_values() -> None:
    """NaN wins in max and min; rows of -inf, of equal values, with infinities."""
    for shape, dims, _ in CASES:
        x = data(shape)
        x.view(-1)[:: max(1, x.numel() // 7)] = float("nan")
        found = [per_row(shape, dims, t) for t in (x.dtype, x.dtype, torch.bool, torch.bool, torch.int64, torch.int64)]
        run("profile", found, [x, torch.zeros(shape)], dims)
        for mine, expected in zip(found[:2], (x.amax(dims, keepdim=True), x.amin(dims, keepdim=True)), strict=True):
            assert torch.equal(first(mine, dims).nan_to_num(77), expected.nan_to_num(77))
    for value in (float("-inf"), float("inf")):
        x = torch.full((5, 100), value)
        found = [
            per_row((5, 100), (1,), t) for t in (x.dtype, x.dtype, torch.bool, torch.bool, torch.int64, torch.int64)
        ]
        run("profile", found, [x, torch.zeros(5, 100)], (1,))
        assert bool((first(found[0], (1,)) == value).all()) and bool((first(found[1], (1,)) == value).all())


def test_sums_of_exponentials_of_infinities() -> None:
    """NaN where the maximum is infinite; counted without a shift, what log and the maximum make eager's logsumexp of."""
    inf, nan = float("inf"), float("nan")
    for shape, dims, kind in (((6, 70_001), (1,), "split"), ((6, 5000), (1,), "whole"), ((5000, 6), (0,), "columns")):
        x = data(shape) + 90
        rows = x if dims == (1,) else x.t()
        rows[1, 7], rows[2, 7], rows[4, 7], rows[3] = inf, -inf, nan, -inf
        rows[5], rows[5, 7] = inf, -inf
        total, shifted = (per_row(shape, dims, torch.float32) for _ in range(2))
        assert run("exponential_sum", [total, shifted], [x], dims) == kind
        wide = rows.double()
        largest = wide.amax(1, keepdim=True)
        truth = (wide - largest).exp().sum(1)
        assert torch.allclose(first(total, dims).flatten().double(), truth, rtol=1e-6, equal_nan=True)
        without = torch.stack([truth[0], truth[0] + inf, truth[2], 0 * truth[0], truth[4], truth[0] + inf])
        assert torch.allclose(first(shifted, dims).flatten().double(), without, rtol=1e-6, equal_nan=True)


def test_no_sweep() -> None:
    """A body that only reads and writes values per row."""
    x = data([60, 1])
    for shape, dims in (((60, 9), (1,)), ((60, 500), (1,))):
        y = per_row(shape, dims, torch.float32)
        run("copy", [y], [x.expand(shape)], dims)
        assert torch.equal(first(y, dims), x)
    y = per_row((20_000, 3), (0,), torch.float32)
    run("copy", [y], [data([1, 3]).expand(20_000, 3)], (0,))
    assert torch.equal(first(y, (0,)), data([1, 3]))


def test_sums_are_as_exact_as_eager() -> None:
    """Large sums of one sign, where a chain of additions would lose digits."""
    for shape, dims in (((1 << 22,), (0,)), ((4, 1 << 20), (1,)), ((1 << 20, 4), (0,)), ((40, 200_000), (1,))):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(3))
        y = per_row(shape, dims, torch.float32)
        run("sum", [y], [x], dims)
        truth = x.double().sum(dims, keepdim=True)
        error = (first(y, dims).double() - truth).abs()
        eager = (x.sum(dims, keepdim=True).double() - truth).abs()
        assert (error <= 2 * eager + torch.finfo(torch.float32).eps * truth).all()
