"""Every operator of the table, against float64, in every dtype, at values where functions go wrong."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.compiled import Function, assert_closer, compiled

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    3.0,
    -3.0,
    6.0,
    20.0,
    -20.0,
    88.0,
    -88.0,
    1e-3,
    -1e-3,
    math.inf,
    -math.inf,
    math.nan,
]


def values(dtype):
    generator = torch.Generator().manual_seed(7)
    drawn = torch.randn(3000, generator=generator, dtype=torch.float64) * 4
    return torch.cat([torch.tensor(SPECIAL, dtype=torch.float64), drawn]).to(dtype)


ACTIVATIONS = {
    "relu": F.relu,
    "relu6": F.relu6,
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 1.5),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.2),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "softplus_beta": lambda x: F.softplus(x, 2.0, 10.0),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 2.0),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "threshold": lambda x: F.threshold(x, 0.1, -2.0),
    "prelu": lambda x: F.prelu(x, x.new_full((1,), 0.25)),
}
ARITHMETIC = {
    "add": lambda x: x + x.flip(0),
    "add_alpha": lambda x: torch.add(x, x, alpha=3),
    "rsub": lambda x: 2 - x,
    "mul": lambda x: x * x.flip(0),
    "div": lambda x: x / (x.flip(0) + 0.3),
    "div_trunc": lambda x: torch.div(x, 0.7, rounding_mode="trunc"),
    "reciprocal": torch.reciprocal,
    "neg": torch.neg,
    "abs": torch.abs,
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "square": torch.square,
    "pow_2": lambda x: x**2,
    "pow_half": lambda x: x**0.5,
    "pow_third": lambda x: x.abs() ** 0.3,
    "pow_tensor": lambda x: x.abs() ** (x * 0.1),
    "exponent": lambda x: 1.3**x,
    "sqrt": torch.sqrt,
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 0.1),
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log2": torch.log2,
    "log10": torch.log10,
    "log1p": torch.log1p,
    "sin": torch.sin,
    "cos": torch.cos,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "asin": lambda x: torch.asin(x * 0.05),
    "acos": lambda x: torch.acos(x * 0.05),
    "atan": torch.atan,
    "atan2": lambda x: torch.atan2(x, x.flip(0)),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "fmod": lambda x: torch.fmod(x, 0.7),
    "maximum": lambda x: torch.maximum(x, x.flip(0)),
    "minimum": lambda x: torch.minimum(x, x.flip(0)),
    "clamp": lambda x: x.clamp(-0.5, 1.5),
    "clamp_tensor": lambda x: torch.clamp(x, x.flip(0) - 1, x.flip(0) + 1),
    "lerp": lambda x: torch.lerp(x, x.flip(0), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(0), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.flip(0) + 0.3, value=0.5),
    "where": lambda x: torch.where(x > 0.2, x * 2, -1.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 3.0),
    "nan_to_num": lambda x: torch.nan_to_num(x, 1.0, 2.0, -2.0),
}
LOGIC = {
    "comparisons": lambda x: (x > 0.5) | (x <= -0.5) & (x != 1),
    "equal": lambda x: x == x.round(),
    "xor": lambda x: torch.logical_xor(x > 0, x > 1),
    "not": lambda x: torch.logical_not(x),
    "isnan": lambda x: x.isnan() | x.isinf(),
    "isfinite": torch.isfinite,
    "bitwise": lambda x: ~(x > 0) & (x < 3),
}
EVERY = {**ACTIVATIONS, **ARITHMETIC, **LOGIC}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_pointwise_operator(dtype):
    """All of them in a few kernels; each result is judged by itself."""
    x = values(dtype)
    table = list(EVERY.items())
    for start in range(0, len(table), 20):
        part = dict(table[start : start + 20])
        model = Function(lambda s, x, part=part: [function(x) for function in part.values()])
        new, program = compiled(model, (x,))
        with torch.no_grad():
            made, eager, truth = new(x), model(x), model(x.double())
        assert program.kernels
        assert sum(type(new).kernels.calls.values()) > 0
        for name, a, b, t in zip(part, made, eager, truth, strict=True):
            try:
                assert_closer(a, b, t)
            except AssertionError as error:
                raise AssertionError(f"{name} {dtype}: {error}") from None


INTEGERS = {
    "add": lambda x: x + 3,
    "mul": lambda x: x * x,
    "sub": lambda x: 7 - x,
    "neg": lambda x: -x,
    "abs": lambda x: x.abs(),
    "and": lambda x: x & 6,
    "or": lambda x: x | 9,
    "xor": lambda x: x ^ 5,
    "invert": lambda x: ~x,
    "clamp": lambda x: x.clamp(-2, 3),
    "where": lambda x: torch.where(x > 1, x, 0),
    "to_float": lambda x: x * 0.5,
    "sigmoid": lambda x: torch.sigmoid(x),
    "to_bool": lambda x: x.bool(),
    "to_half": lambda x: x.half(),
    "sum": lambda x: x.sum(),
    "max": lambda x: x.max(),
    "compare": lambda x: x >= 2,
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8], ids=str)
def test_integers_are_exact(dtype):
    """Wrapping included: int8 squares overflow."""
    x = torch.arange(-128, 128).to(dtype)
    model = Function(lambda s, x: [function(x) for function in INTEGERS.values()])
    new, _ = compiled(model, (x,))
    for name, a, b in zip(INTEGERS, new(x), model(x), strict=True):
        assert a.dtype == b.dtype, name
        assert torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-12), name


def test_casts_round_as_eager():
    """fp32 → bf16 → fp32 loses digits in eager; a kernel that kept them would be another model."""
    x = torch.randn(1000)
    model = Function(lambda s, x: (x.to(torch.bfloat16).float() - x, x.half().float() * 3, x.double().float(), x.int()))
    new, program = compiled(model, (x,))
    assert len(program.kernels) == 1
    for a, b in zip(new(x), model(x), strict=True):
        assert torch.equal(a, b)


def test_mixed_dtypes_promote_as_eager():
    x, h, i, b = torch.randn(50), torch.randn(50).half(), torch.arange(50), torch.arange(50) % 2 == 0
    model = Function(lambda s, x, h, i, b: (x + h, h * i, i + b, x * b, h / 3, i / 2, torch.where(b, h, x)))
    new, _ = compiled(model, (x, h, i, b))
    for a, e in zip(new(x, h, i, b), model(x, h, i, b), strict=True):
        assert a.dtype == e.dtype
        assert torch.allclose(a.double(), e.double(), rtol=2e-3 if a.dtype == torch.float16 else 1e-6)


def test_zeros_keep_their_sign():
    zeros = torch.tensor([-0.0, 0.0])
    model = Function(
        lambda s, x: [x.relu(), F.relu6(x), x.clamp(min=0), x.clamp(max=0), F.hardtanh(x), x.neg(), x.abs()]
    )
    new, _ = compiled(model, (zeros,))
    with torch.no_grad():
        for a, b in zip(new(zeros), model(zeros), strict=True):
            assert torch.equal(a.signbit(), b.signbit())


def test_rounding_of_integers_is_nothing():
    x = torch.arange(-5, 5)
    model = Function(lambda s, x: [torch.floor(x) + 1, torch.ceil(x) * 2, torch.trunc(x) - 1, torch.round(x) + 3])
    new, _ = compiled(model, (x,))
    assert all(torch.equal(a, b) for a, b in zip(new(x), model(x), strict=True))


def test_results_are_laid_out_as_eager_lays_them_out():
    """The first operand, from left to right, that tells two dims apart decides."""
    x, y = torch.randn(5, 7).t(), torch.randn(7, 5)
    for function in (
        lambda s, x, y: x + (y * 2),
        lambda s, x, y: (y * 2) + x,
        lambda s, x, y: torch.where(y > 0, x, y),
    ):
        model = Function(function)
        new, _ = compiled(model, (x, y))
        assert new(x, y).stride() == model(x, y).stride()


LIE = {
    "contiguous": torch.randn(4, 6, 8, 10),
    "permuted": torch.randn(8, 4, 10, 6).permute(1, 3, 0, 2),
    "channels last": torch.randn(4, 6, 8, 10).to(memory_format=torch.channels_last),
    "transposed": torch.randn(4, 6, 10, 8).transpose(2, 3),
    "sliced": torch.randn(4, 7, 9, 11)[:, 1:, 1:, 1:],
}


def group_norm(s, x):
    return F.group_norm(x, 2)


@pytest.mark.parametrize("made_on", LIE)
@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: F.softmax(x, 1),
        lambda s, x: F.log_softmax(x, -1),
        lambda s, x: F.layer_norm(x, x.shape[-1:]),
        group_norm,
        lambda s, x: F.normalize(x, dim=-1),
        lambda s, x: x - x.mean((2, 3), keepdim=True),
        lambda s, x: x.sum(-1, keepdim=True) * x,
        lambda s, x: x.amax(1).exp(),
    ],
    ids="softmax log_softmax layer_norm group_norm normalize centred by_sum largest".split(),
)
def test_results_of_row_programs_are_laid_out_as_eager_lays_them_out(function, made_on):
    """Some ops return a contiguous tensor whatever they are given, others follow their input.

    Group norm does one or the other, and its kernel follows.
    """
    model = Function(function)
    new, _ = compiled(model, (LIE[made_on],))
    for name, x in LIE.items():
        truth = model(x)
        either = function is group_norm and name in ("permuted", "transposed")
        assert either or new(x).stride() == truth.stride()
        torch.testing.assert_close(new(x), truth)


def test_a_region_that_needs_a_call_later_than_its_own_first_user():
    """One kernel for both ends of `x`: the floor division needs it, and it needs the shift."""
    x = torch.randint(0, 50, (4, 6))
    model = Function(lambda s, x: (x * 3 // 2 % 7, (x & 5) | (x >> 1)))
    new, _ = compiled(model, (x,))
    assert all(torch.equal(a, b) for a, b in zip(new(x), model(x), strict=True))
