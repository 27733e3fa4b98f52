"""Every pointwise plan, executed thread by thread against numpy."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.simt.harness import Program
from tests.simt.launches import H200, OLD, misaligned, pointwise

Get = Callable[[str], Program]
STORED = {"float": np.float32, "half": np.float16, "int8": np.int8, "double": np.float64}
RANDOM = np.random.default_rng(5)


def values(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    if dtype is np.int8:
        return RANDOM.integers(-11, 12, shape).astype(dtype)
    return RANDOM.standard_normal(shape).astype(dtype)


def squared(x: np.ndarray) -> np.ndarray:
    """x², computed as the kernel does: in fp32 for 16-bit types, rounded once."""
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    return (wide * wide).astype(x.dtype)


@pytest.mark.parametrize("stored", STORED)
def test_contiguous_at_every_boundary(program: Get, stored: str) -> None:
    """One vector and a block's tile, each one less and one more; blocks of 64 threads here, of 256 on a smaller device."""
    dtype = STORED[stored]
    vector = 16 // np.dtype(dtype).itemsize
    tiles = [threads * each * vector for threads in (64, 256) for each in (1, 2, 4)]
    for edge in [vector, 32 * vector, *tiles]:
        for n in {edge - 1, edge, edge + 1} - {0}:
            x = misaligned(values((n,), dtype), 0)
            y = misaligned(np.empty_like(x), 0)
            device = H200._replace(sms=1) if n > 2000 else H200
            plan = pointwise(program(f"pointwise {stored}"), "square", [y], [x], device)
            assert plan.kind == "contiguous"
            assert (y == squared(x)).all(), n


@pytest.mark.parametrize("stored", STORED)
def test_misaligned_by_each_element(program: Get, stored: str) -> None:
    """Input and output off by the same amount (heads are peeled), and by different amounts (loads are shifted)."""
    dtype = STORED[stored]
    vector = 16 // np.dtype(dtype).itemsize
    for off_x in range(vector):
        for off_y in sorted({off_x, 0, (off_x + 1) % vector}):
            for n in (1, vector, 7 * vector + 3):
                x = misaligned(values((n,), dtype), off_x)
                y = misaligned(np.empty_like(x), off_y)
                pointwise(program(f"pointwise {stored}"), "square", [y], [x], orders=(0, 1))
                assert (y == squared(x)).all(), (off_x, off_y, n)


@pytest.mark.parametrize("stored", ["float", "half"])
def test_strided(program: Get, stored: str) -> None:
    """Sliced, broadcast, stepped and reversed-order operands, inner sizes around the vector's."""
    dtype = STORED[stored]
    for width in (1, 2, 3, 4, 5, 7, 8, 9, 33, 130):
        big = values((6, 5, width + 3), dtype)
        a, b = values((width,), dtype), values((5, 1), dtype)
        for x in (big[:, :, 1 : width + 1], big[::2, :, :width], big[1:2, :, :width], big[:, :, : width + 3 : 2]):
            y = np.empty(x.shape, dtype)
            inputs = [
                x,
                np.broadcast_to(a[: x.shape[2]], x.shape) if x.shape[2] <= width else x,
                np.broadcast_to(b, x.shape),
            ]
            plan = pointwise(program(f"pointwise {stored}"), "scale_shift", [y], inputs, orders=(0, 1))
            assert plan.kind == "strided"
            wide = [each.astype(np.float64) for each in inputs]
            np.testing.assert_allclose(
                y,
                wide[0] * wide[1] + wide[2],
                rtol=2e-3 if dtype is np.float16 else 1e-6,
                atol=2e-3 if dtype is np.float16 else 1e-6,
            )


@pytest.mark.parametrize("stored", STORED)
def test_long_rows_at_a_pitch(program: Get, stored: str) -> None:
    """Rows that begin at any alignment, in the output as well; ends of a row around those of a vector and of a block."""
    dtype = STORED[stored]
    vector = 16 // np.dtype(dtype).itemsize
    piece = 4 * 2 * 64 * vector  # of 64 threads
    for width in sorted(
        {4096, 4097, 4099, *(w for w in (2 * piece - 1, 2 * piece, 2 * piece + vector + 1) if w > 4096)}
    ):
        x = misaligned(values((3, width + 5), dtype), 1)[:, :width]
        for y in (np.empty(x.shape, dtype), misaligned(np.empty(x.shape, dtype), vector - 1)):
            plan = pointwise(program(f"pointwise {stored}"), "square", [y], [x], orders=(0, 1))
            assert plan.kind == "rows"
            assert (y == squared(x)).all(), width
    x, b = values((2, 4100), dtype), values((2, 1), dtype)
    y = np.empty(x.shape, dtype)
    inputs = [np.broadcast_to(x[:1], x.shape), x[:, ::-1][:, ::-1], np.broadcast_to(b, x.shape)]
    assert pointwise(program(f"pointwise {stored}"), "scale_shift", [y], inputs).kind == "rows"
    wide = [each.astype(np.float64) for each in inputs]
    tolerance = {np.float16: 2.0**-9, np.float32: 2.0**-21, np.float64: 2.0**-50, np.int8: 0}[dtype]
    expected = wide[0] * wide[1] + wide[2]
    if dtype is np.int8:
        expected = (inputs[0] * inputs[1] + inputs[2]).astype(dtype)
    assert (np.abs(y - expected) <= tolerance * (np.abs(expected) + 1)).all()


@pytest.mark.parametrize("stored", STORED)
def test_transposed_tiles(program: Get, stored: str) -> None:
    """Heights and widths around the tile's; one or two turned inputs, an outer dim, a misaligned input."""
    dtype = STORED[stored]
    for height, width in [(16, 16), (63, 64), (64, 65), (65, 63), (130, 17), (17, 130)]:
        x = misaligned(values((width, height), dtype), 1).T
        y = np.empty((height, width), dtype)
        plan = pointwise(program(f"pointwise {stored}"), "square", [y], [x])
        assert plan.kind == "transposed"
        assert (y == squared(x)).all(), (height, width)
    x = values((40, 3, 33), dtype).transpose(1, 2, 0)
    a, b = values((33, 40), dtype), values((40, 33), dtype).T
    y = np.empty(x.shape, dtype)
    inputs = [x, np.broadcast_to(a, x.shape), np.broadcast_to(b, x.shape)]
    assert pointwise(program(f"pointwise {stored}"), "scale_shift", [y], inputs).kind == "transposed"
    if dtype is np.int8:
        assert (y == (x * a + b).astype(dtype)).all()
    else:
        wide = x.astype(np.float64) * a + b
        tolerance = 2.0 ** -{np.float16: 9, np.float32: 21, np.float64: 50}[dtype]
        assert (np.abs(y - wide) <= tolerance * (np.abs(wide) + 1)).all()


def test_a_device_without_room_for_tiles(program: Get) -> None:
    x = values((70, 40), np.float64).T
    y = np.empty(x.shape)
    assert pointwise(program("pointwise double"), "square", [y], [x], OLD).kind == "strided"
    assert (y == x * x).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 127, 128, 129, 1030])
def test_types_of_all_widths_and_two_outputs(program: Get, n: int) -> None:
    x, h = values((n,), np.float32), values((n,), np.float16)
    k = RANDOM.integers(-(2**40), 2**40, n)
    c = RANDOM.integers(0, 2, n).astype(bool)
    for off in (0, 1):
        y, count = misaligned(np.empty(n, np.float16), off), misaligned(np.empty(n, np.int64), 0)
        pointwise(program("mixed"), "mixed", [y, count], [misaligned(x, off), k, misaligned(c, off), h], orders=(0, 1))
        assert (y == np.where(c, x, h).astype(np.float16)).all()
        assert (count == k + c).all()


@pytest.mark.parametrize("n", [1, 5, 67, 4099])
def test_only_elements_that_stray_take_another_form(program: Get, n: int) -> None:
    x = RANDOM.integers(0, 7, n).astype(np.float32)
    for source in (x, misaligned(x, 1), np.repeat(x, 2)[::2]):
        y = np.empty(n, np.float32)
        pointwise(program("mixed"), "moved", [y], [source], orders=(0,))
        assert (y == np.where(x > 4, x - 1, x + 1)).all()


def test_no_inputs_and_one_element(program: Get) -> None:
    for shape in [(), (1,), (5,), (3, 4)]:
        y = np.empty(shape, np.float32)
        pointwise(program("mixed"), "fill", [y], [])
        assert (y == 1.5).all()


def test_special_values_survive_the_conversions(program: Get) -> None:
    """Every fp16 bit pattern through a kernel, vectors and tails: x² in fp32, rounded to nearest even."""
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[: 1 << 16]
    y = np.empty_like(x)
    pointwise(program("pointwise half"), "square", [y], [x], orders=(0,))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(y, squared(x))
