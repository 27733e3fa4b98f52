"""Pointwise kernels: every plan kind, sizes around every boundary, strides of every sort, all dtypes, 1 to 3 threads."""

import ctypes
from collections.abc import Sequence

import pytest
import torch

from modelnew.runtime.plan_cpu import plan_pointwise
from tests.cpu.device.layouts import pointwise_layout
from tests.cpu.device.library import CXX_TYPES, launch, load, options

CACHE = 32 << 20
SIZES = [1, 2, 7, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 2048, 4095, 4097, 50_000]


def run(
    name: str, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], threads: int = 2, cache: int = CACHE
) -> str:
    """Launch on tensors of one shape; the plan's kind."""
    library = load("pointwise.cpp", *options(outputs[0].dtype))
    plan = plan_pointwise(pointwise_layout(outputs, inputs), cache)
    launch(library, name, [*outputs, *inputs], plan.numbers, threads)
    return plan.kind + (" past the cache" if plan.numbers[0] & 256 else "")


def data(shape: Sequence[int], dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    x = torch.randint(-9, 10, tuple(shape), generator=torch.Generator().manual_seed(seed))
    return (x.clamp(min=0) if dtype == torch.uint8 else x > 0 if dtype == torch.bool else x).to(dtype)


def check_between(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, threads: int = 2, cache: int = CACHE) -> str:
    """Run `between` on operands that broadcast and compare with PyTorch, exactly; the plan's kind."""
    shape = torch.broadcast_shapes(x.shape, low.shape, high.shape)
    guarded = torch.zeros(shape.numel() + 64, dtype=x.dtype)  # what lies behind the outputs stays untouched
    y, outside = guarded[: shape.numel()].view(shape), torch.empty(shape, dtype=torch.bool)
    kind = run("between", [y, outside], [t.expand(shape) for t in (x, low, high)], threads, cache)
    assert torch.equal(y, torch.minimum(torch.maximum(x, low), high))
    assert torch.equal(outside, (x < low) | (x > high))
    assert not guarded[shape.numel() :].any()
    return kind


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_contiguous(size: int, threads: int) -> None:
    """Sizes around vector, tile and grain; each operand misaligned by another element."""
    for shift in range(3):
        x, low, high = (data([size + 8], seed=s)[shift * s : shift * s + size] for s in range(3))
        assert check_between(x, low, high, threads) == "flat"


@pytest.mark.parametrize("dtype", CXX_TYPES)
def test_dtypes(dtype: torch.dtype) -> None:
    for shape in ([4097], [70, 33]):
        x, low, high = (data(shape, dtype, s) for s in range(3))
        check_between(x, low, high)
        check_between(x, low[..., :1], high[0] if len(shape) > 1 else high[:1])
        if len(shape) > 1:
            check_between(x, low.T.contiguous().T, high)
        y = torch.empty(shape, dtype=dtype)
        run("is_zero", [y], [x])
        assert torch.equal(y, (x == 0).to(dtype))


def test_no_dims_and_no_inputs() -> None:
    assert check_between(torch.tensor(5.0), torch.tensor(1.0), torch.tensor(3.0)) == "flat"
    y = torch.empty(3, 5)
    assert run("one", [y], []) == "flat"
    assert torch.equal(y, torch.ones(3, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int8])
def test_mixed_types(dtype: torch.dtype) -> None:
    for n in (5, 3000):
        mask, x, number = data([n], torch.bool), data([n], dtype, 1), data([n], torch.int64, 2)
        y, following = torch.empty_like(x), torch.empty_like(number)
        run("pick", [y, following], [mask, x, number])
        assert torch.equal(y, torch.where(mask, x, number.to(dtype)))
        assert torch.equal(following, number + 1)


def strided() -> dict[str, torch.Tensor]:
    """Inputs whose strides differ from a dense output's, each of another sort."""
    base = data([70, 130])
    return {
        "every second column": data([70, 260])[:, ::2],
        "every third row": data([210, 130])[::3],
        "inner slice": data([70, 200])[:, 3:133],
        "transposed": data([130, 70]).T,
        "one row": base[:1],
        "one column": base[:, :1],
        "windows": data([1000]).as_strided([70, 130], [5, 1]),
        "turned windows": data([1000]).as_strided([70, 130], [1, 5]),
        "columns apart": data([70 * 300]).as_strided([70, 130], [300, 2]),
    }


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("name", strided())
def test_strided(name: str, threads: int) -> None:
    x = strided()[name]
    low, high = data([70, 130], seed=1), data([70, 130], seed=2)
    assert check_between(x, low, high, threads) == "blocks"
    assert check_between(low, x, x, threads) == "blocks"


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("shape", [(3, 5, 7), (40, 3, 50), (2, 65, 130), (17, 300, 16)])
def test_permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> None:
    """Inputs and outputs in every order of three dims."""
    inverse = [order.index(d) for d in range(3)]
    x = data([shape[d] for d in order]).permute(inverse)
    low, high = data(shape, seed=1), data(shape, seed=2)
    check_between(x, low, high)
    check_between(x, low[:, :1], high[:1, :, :1])
    y = torch.empty([shape[d] for d in order]).permute(inverse)
    run("is_zero", [y], [low])
    assert torch.equal(y, (low == 0).float())


def test_runs_of_every_length() -> None:
    """Blocks of several short runs, of one long run, of a run cut in pieces."""
    for columns in (1, 2, 3, 8, 31, 32, 255, 256, 257, 1023, 1024, 1025, 2500):
        x = data([37, columns + 3])[:, 1 : columns + 1]
        check_between(x, data([columns], seed=1), data([37, 1], seed=2))


def test_many_dims() -> None:
    x = data([3, 4, 5, 6, 7]).permute(4, 2, 0, 3, 1)
    assert check_between(x, data(x.shape, seed=1), data([1, 5, 1, 6, 1], seed=2)) == "blocks"


def test_strided_outputs() -> None:
    """Outputs need not be dense: only what is theirs is written."""
    for whole, part in (
        ((64, 300), (slice(None), slice(7, 90))),
        ((64, 300), (slice(None, None, 2), slice(None, None, 3))),
    ):
        target = torch.full(whole, -5.0)
        x = data(target[part].shape)
        run("is_zero", [target[part]], [x])
        expected = torch.full(whole, -5.0)
        expected[part] = (x == 0).float()
        assert torch.equal(target, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8])
def test_past_the_cache(dtype: torch.dtype) -> None:
    """The same values where the stores bypass the cache, wherever the output begins."""
    for shift in (0, 1, 5, 33):
        x = data([9000 + shift], dtype)[shift:]
        whole = torch.full([9000 + 64], 3, dtype=dtype)
        y = whole[shift : shift + 9000]
        assert run("is_zero", [y], [x], cache=1000) == "flat past the cache"
        assert torch.equal(y, (x == 0).to(dtype))
        assert bool((whole[:shift] == 3).all()) and bool((whole[shift + 9000 :] == 3).all())
    x = data([300, 70], dtype).T
    y = torch.empty([70, 300], dtype=dtype)
    assert run("is_zero", [y], [x], cache=1000) == "blocks past the cache"
    assert torch.equal(y, (x == 0).to(dtype))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("cache", [CACHE, 1 << 40])
def test_huge_pages(threads: int, cache: int) -> None:
    """Outputs of memory that was never touched: threads meet within a page, and enter it at its end."""
    x = torch.zeros(9 * (1 << 20) + 77)  # above 32 MiB, the C library hands out new pages
    x[::3] = 1
    expected = (x == 0).float()
    for _ in range(5):
        y = torch.empty_like(x)
        run("is_zero", [y], [x], threads, cache)
        assert torch.equal(y, expected)


def test_free_memory_in_huge_pages() -> None:
    text = b"""Node 0, zone      DMA      0      0      0      0      0      0      0      0      1      1      3
Node 0, zone    DMA32      1      1      4      2      5      4      3      3      4      0      0
Node 1, zone   Normal   9710   5888   3310   2908   1018    598    465    253    681      2   2463
"""
    library = load("pointwise.cpp", *options(torch.float32))
    if not hasattr(library, "free_in_huge_pages"):
        pytest.skip("Linux on x86 only")
    count = library.free_in_huge_pages
    count.restype = ctypes.c_int64
    assert count(text) == (1 + 2) * (2 << 20) + (3 + 2463) * (4 << 20)
    assert count(b"") == count(b"Node 0, zone") == count(b"Node 0, zone Normal 5 6") == 0
