"""The scalar functions: every 16-bit value, a dense sample of float, doubles over all exponents, the special values."""

import ctypes
import math

import pytest
import torch
import torch.nn.functional as F

from tests.cpu.device.library import load, pointer

LIBRARY = "accuracy.cpp"
NAMES = (
    "exp exp_below exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh asin acos atan erf erfc sqrt floor ceil trunc round "
    "rsqrt sigmoid logsigmoid softplus gelu gelu_tanh silu mish"
).split()
EXACT = {"sqrt", "floor", "ceil", "trunc", "round"}
EAGER = {
    "exp_below": lambda x: (-x.abs()).exp(),
    "rsqrt": torch.rsqrt,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
}


def number_of(name: str) -> int:
    library = load(LIBRARY)
    names = [library.function_name(ctypes.c_int64(f)).decode() for f in range(library.function_count())]
    return names.index(name)


def evaluate(name: str, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    suffix = {torch.float32: "float", torch.float64: "double"}[x.dtype]
    function = getattr(load(LIBRARY), f"evaluate_{suffix}")
    function(ctypes.c_int64(number_of(name)), pointer(x), pointer(y), ctypes.c_int64(x.numel()))
    return y


def test_every_function_is_tested() -> None:
    library = load(LIBRARY)
    assert [library.function_name(ctypes.c_int64(f)).decode() for f in range(library.function_count())] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_float_sample(name: str) -> None:
    """Every 521st bit pattern: all exponents, both signs, NaNs, subnormals."""
    worst, at, wrong = ctypes.c_double(), ctypes.c_float(), ctypes.c_int64()
    load(LIBRARY).measure_float(
        ctypes.c_int64(number_of(name)),
        *(ctypes.c_uint64(v) for v in (0, 1 << 32, 521)),
        *map(ctypes.byref, (worst, at, wrong)),
    )
    assert wrong.value == 0, f"{name}({at.value!r}) is of another kind than the truth"
    assert worst.value <= (0.5 if name in EXACT else 2.0), f"{name}({at.value!r})"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_every_16_bit_value(name: str, dtype: torch.dtype) -> None:
    """Computed in float from every stored value, then stored: at most 1 unit in the last place of the storage type."""
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    y = evaluate(name, x.float()).to(dtype)
    number, library = number_of(name), load(LIBRARY)
    truth = torch.tensor(
        [library.truth_of_float(ctypes.c_int64(number), ctypes.c_float(v)) for v in x.tolist()], dtype=torch.float64
    )
    assert torch.equal(y.isnan(), truth.isnan())
    ok = ~truth.isnan()
    expected = truth.to(dtype)
    steps = (order(y) - order(expected)).abs()[ok]
    assert int(steps.max()) <= 1, f"{name}({x[ok][steps.argmax()].item()!r})"


def order(x: torch.Tensor) -> torch.Tensor:
    """Integers in the order of the values of a 16-bit type: neighbours differ by 1."""
    bits = x.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


@pytest.mark.parametrize("name", NAMES)
def test_double(name: str) -> None:
    """Values of every exponent, dense ones where functions bend."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(1 << 63), (1 << 63) - 1, (200_000,), generator=generator)
    near = torch.randn(200_000, dtype=torch.float64, generator=generator)
    wide = (torch.rand(200_000, dtype=torch.float64, generator=generator) - 0.5) * 1600
    x = torch.cat([bits.view(torch.float64), near, near * 1e-3, near * 10, 1 + near * 1e-4, wide])
    if name in {"gelu", "gelu_tanh"}:
        x = x[(x > -5) | (x == 0)]  # further out the rounding of the exponent's argument shows
    worst, at, wrong = ctypes.c_double(), ctypes.c_double(), ctypes.c_int64()
    load(LIBRARY).measure_double(
        ctypes.c_int64(number_of(name)), pointer(x), ctypes.c_int64(x.numel()), *map(ctypes.byref, (worst, at, wrong))
    )
    assert wrong.value == 0, f"{name}({at.value!r}) is of another kind than the truth"
    limit = {"gelu": 32.0, "gelu_tanh": 32.0, "erfc": 5.0, "mish": 5.0}.get(name, 0.5 if name in EXACT else 3.0)
    assert worst.value <= limit, f"{name}({at.value!r}): {worst.value}"


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-38, -1e-38, 3.4e38, -3.4e38]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_special_values_as_eager(name: str, dtype: torch.dtype) -> None:
    for value in SPECIAL:
        x = torch.full((1,), value, dtype=dtype)
        mine, eager = evaluate(name, x).item(), EAGER.get(name, getattr(torch, name, None))(x).item()
        assert math.isnan(mine) == math.isnan(eager), f"{name}({value}) = {mine}, eager {eager}"
        if not math.isnan(mine):
            assert mine == pytest.approx(eager, rel=1e-6, abs=1e-44), f"{name}({value})"
        if mine == 0 and eager == 0:
            assert math.copysign(1, mine) == math.copysign(1, eager), f"{name}({value}) = {mine}, eager {eager}"


def binary(name: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    suffix = {torch.float32: "float", torch.float64: "double"}.get(a.dtype, str(a.dtype).removeprefix("torch."))
    to = torch.empty_like(a)
    getattr(load(LIBRARY), f"{name}_{suffix}")(pointer(a), pointer(b), pointer(to), ctypes.c_int64(a.numel()))
    return to


EDGES = [
    math.nan,
    math.inf,
    -math.inf,
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    3.0,
    -3.0,
    2.5,
    -7.25,
    1e-40,
    1e30,
    -1e30,
    16777217.0,
]


@pytest.mark.parametrize("name", ["pow", "atan2", "fmod", "remainder", "maximum", "minimum"])
def test_two_arguments(name: str) -> None:
    """All pairs of edge values, and random pairs, against PyTorch in double."""
    edges = torch.tensor(EDGES)
    a, b = (t.flatten().contiguous() for t in torch.meshgrid(edges, edges, indexing="ij"))
    generator = torch.Generator().manual_seed(1)
    random = [torch.randn(100_000, generator=generator) * scale for scale in (1, 20)]
    a = torch.cat([a, random[0].abs() if name == "pow" else random[0]])
    b = torch.cat([b, random[1]])
    mine = binary(name, a, b)
    wide = getattr(torch, name)(a.double(), b.double())  # in float, eager's fmod gives NaN for subnormal divisors
    expected = wide.float()
    assert torch.equal(mine.isnan(), expected.isnan())
    ok = ~expected.isnan() & ~expected.isinf()
    assert torch.equal(mine[expected.isinf()], expected[expected.isinf()])
    assert torch.equal(mine[expected == 0].signbit(), expected[expected == 0].signbit())
    unit = torch.pow(2.0, (torch.frexp(expected[ok].double().abs()).exponent - 24).clamp(min=-149).double())
    error = ((mine[ok].double() - wide[ok]).abs() / unit).max().item()
    assert error <= {"pow": 2.0, "atan2": 2.0, "remainder": 0.5}.get(name, 0.0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integers(dtype: torch.dtype) -> None:
    """All pairs of small values and the limits; wrapping as in PyTorch."""
    limits = torch.iinfo(dtype)
    edges = sorted(
        {limits.min, limits.min + 1, limits.max - 1, limits.max, *(v for v in range(-9, 10) if v >= limits.min)}
    )
    a, b = (t.flatten().contiguous() for t in torch.meshgrid(*[torch.tensor(edges, dtype=dtype)] * 2, indexing="ij"))
    assert torch.equal(binary("maximum", a, b), torch.maximum(a, b))
    assert torch.equal(binary("minimum", a, b), torch.minimum(a, b))
    assert torch.equal(binary("sign", a, b), torch.sign(a))
    assert torch.equal(binary("abs", a, b), torch.abs(a))
    divided = b != 0  # PyTorch refuses a division by 0; here it only must not trap
    lowest = (a == limits.min) & (b == -1) if limits.min < 0 else torch.zeros_like(divided)
    remainder = binary("remainder", a, b)
    assert torch.equal(remainder[divided & ~lowest], torch.remainder(a[divided & ~lowest], b[divided & ~lowest]))
    assert not remainder[lowest].any()
    small = (b >= 0) & (b <= 9)
    assert torch.equal(binary("pow", a[small], b[small]), torch.pow(a[small], b[small]))
    if limits.min < 0:
        assert binary(
            "pow", torch.tensor([1, -1, -1, 5, 0], dtype=dtype), torch.tensor([-3, -3, -2, -1, -1], dtype=dtype)
        ).tolist() == [1, -1, 1, 0, 0]


@pytest.mark.parametrize("flags", [(), ("-mno-avx", "-mno-f16c")], ids=["native", "without AVX"])
@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "half"), (torch.bfloat16, "bf16")])
def test_conversions(dtype: torch.dtype, name: str, flags: tuple[str, ...]) -> None:
    """Every 16-bit value out and back; floats around every rounding boundary in."""
    library = load(LIBRARY) if not flags else load(LIBRARY, "-march=x86-64")
    stored = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = torch.empty(stored.numel())
    getattr(library, f"from_{name}")(pointer(stored), pointer(wide), ctypes.c_int64(wide.numel()))
    assert torch.equal(wide.nan_to_num(7e30), stored.float().nan_to_num(7e30))
    assert torch.equal(wide.isnan(), stored.isnan())

    bits = torch.arange(0, 1 << 32, 65537 // 3, dtype=torch.int64).to(torch.int32)
    ends = (wide[:-1] + wide[1:]) / 2  # the boundaries themselves
    x = torch.cat(
        [bits.view(torch.float32), ends, torch.nextafter(ends, ends + 1), torch.nextafter(ends, ends - 1)]
    ).contiguous()
    back = torch.empty(x.numel(), dtype=dtype)
    getattr(library, f"to_{name}")(pointer(x), pointer(back), ctypes.c_int64(x.numel()))
    expected = x.to(dtype)
    assert torch.equal(back.isnan(), expected.isnan())
    assert torch.equal(back.view(torch.int16)[~expected.isnan()], expected.view(torch.int16)[~expected.isnan()])
