"""The activations' forms for CUDA, run on the CPU: within their bounds whatever error the approximate instructions make."""

import ctypes
import struct

import pytest
import torch

from tests.cpu.device.library import load, pointer
from tests.cpu.device.test_math import order

LIBRARY = "short_forms.cpp"
WIDE = ("sigmoid_short", "silu_short", "gelu_tanh_short", "gelu_near")
NARROW = ("sigmoid_16", "silu_16", "gelu_tanh_16", "gelu_16", "tanh_16", "exp_16")
RECIPROCAL, EXP2 = 1, 2  # ulp: the bounds that the PTX manual gives for rcp.approx.ftz and ex2.approx.ftz
TOP = {"gelu_near": 3.4}  # beyond, another form is taken


def number_of(name: str) -> ctypes.c_int64:
    library = load(LIBRARY)
    library.form_name.restype = ctypes.c_char_p
    names = [library.form_name(ctypes.c_int64(f)).decode() for f in range(library.form_count())]
    assert names == [*WIDE, *NARROW]
    return ctypes.c_int64(names.index(name))


def measure(name: str, error: int, first: int, last: int, step: int) -> tuple[float, float, int]:
    worst, at, wrong = ctypes.c_double(), ctypes.c_float(), ctypes.c_int64()
    numbers = (ctypes.c_uint64(v) for v in (first, last, step))
    load(LIBRARY).measure(number_of(name), ctypes.c_int64(error), *numbers, *map(ctypes.byref, (worst, at, wrong)))
    return worst.value, at.value, wrong.value


@pytest.mark.parametrize("error", range(-RECIPROCAL, RECIPROCAL + 1))
@pytest.mark.parametrize("name", WIDE)
def test_floats(name: str, error: int) -> None:
    """Every 2999th float of both signs: NaNs, subnormals, zeros."""
    end = struct.unpack("<I", struct.pack("<f", TOP[name]))[0] if name in TOP else 0x7F800002
    for sign in (0, 1 << 31):
        worst, at, wrong = measure(name, error, sign, sign + end, 2999)
        assert worst <= 2 and wrong == 0, f"{name}({at!r}): {worst} ulp"


@pytest.mark.parametrize("low, high", [(0.2, 0.21), (2.5, 2.6), (2.75, 2.8), (3.0, 3.25), (3.38, 3.4)])
def test_every_float_where_the_error_is_largest(low: float, high: float) -> None:
    first, last = (struct.unpack("<I", struct.pack("<f", -x))[0] for x in (low, high))
    worst, at, wrong = measure("gelu_near", 0, first, last, 1)
    assert worst <= 2 and wrong == 0, f"gelu_near({at!r}): {worst} ulp"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NARROW)
def test_every_16_bit_value(name: str, dtype: torch.dtype) -> None:
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    library, number = load(LIBRARY), number_of(name)
    library.truth_at.restype = ctypes.c_double
    truth = torch.tensor([library.truth_at(number, ctypes.c_float(v)) for v in x.tolist()], dtype=torch.float64)
    nan, expected = truth.isnan(), truth.to(dtype)
    for reciprocal in (-RECIPROCAL, RECIPROCAL):
        for exp2 in (-EXP2, EXP2):
            y = torch.empty_like(x)
            numbers = (number, ctypes.c_int64(reciprocal), ctypes.c_int64(exp2))
            library.evaluate(*numbers, pointer(x), pointer(y), ctypes.c_int64(x.numel()))
            stored = y.to(dtype)
            assert torch.equal(stored.isnan(), nan)
            steps = torch.where(nan, 0, (order(stored) - order(expected)).abs())
            assert int(steps.max()) <= 1, f"{name}({x[steps.argmax()].item()!r})"
            zeros = ~nan & (stored == 0) & (expected == 0)
            assert torch.equal(stored[zeros].signbit(), expected[zeros].signbit())
