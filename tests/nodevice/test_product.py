"""Kernels that take in a matrix product: which do, what is written for them, and when their launch is chosen."""

import itertools
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modelnew import optimize
from modelnew.compiler import compile_module, with_products
from modelnew.render.product import plain_products, render_product
from modelnew.runtime.plan_cuda import Device
from modelnew.runtime.plan_product import (
    ACROSS_AT,
    AMPERE,
    HOPPER,
    STRIDES_AT,
    TILE_AT,
    Factors,
    choose,
    launch_of,
    plan_product,
)
from modelnew.runtime.product import Hints, collapsed_stride, factors_of, gathered, scale_name
from tests.compile_gate import Case, check
from tests.compiled import Function, compiled
from tests.examples import load, write

X = torch.randn(6, 10)
SWEEP = Path(__file__).parents[2] / "benchmarks" / "results" / "product-sweep-nvidia-h200.json"
CARD = Device(index=0, sms=132, capability=(9, 0), shared_per_block=227 << 10, l2_bytes=60 << 20)


def layers():
    return {"linear": nn.Linear(10, 7), "other": nn.Linear(10, 7, bias=False), "norm": nn.LayerNorm(7)}


def kernels_of(forward, *inputs):
    return compile_module(Function(forward, **layers()), inputs).kernels


TAKEN_IN = {
    "an activation": (lambda s, x: F.gelu(s.linear(x)), (X,)),
    "a sum over the result's rows": (lambda s, x: torch.sigmoid(s.linear(x)).sum(1, keepdim=True), (X,)),
    "a mean, with what follows it": (lambda s, x: s.linear(x).relu().mean(-1) * 2 + 1, (X,)),
    "a maximum": (lambda s, x: s.linear(x).amax(1), (X,)),
    "more dims before the last": (lambda s, x: F.silu(s.linear(x)), (torch.randn(2, 3, 10),)),
    "a residual": (lambda s, x, y: s.linear(x) + y, (X, torch.randn(6, 7))),
    "one of two products": (lambda s, x: F.silu(s.other(x)) * s.linear(x), (X,)),
    "mm": (lambda s, a, b: torch.mm(a, b).relu(), (X, torch.randn(10, 4))),
    "matmul": (lambda s, a, b: (a @ b).relu(), (X, torch.randn(10, 4))),
    "several products": (lambda s, a, b: torch.bmm(a, b).relu(), (torch.randn(3, 6, 10), torch.randn(3, 10, 4))),
    "their rows summed": (lambda s, a, b: (a @ b).sigmoid().sum(-1), (torch.randn(2, 3, 6, 10), torch.randn(3, 10, 4))),
    "baddbmm": (
        lambda s, a, b, c: torch.baddbmm(c, a, b, beta=0.5, alpha=2),
        (torch.randn(3, 6, 10), torch.randn(3, 10, 4), torch.randn(4)),
    ),
    "addmm": (lambda s, a, b, c: torch.addmm(c, a, b).relu(), (X, torch.randn(10, 4), torch.randn(6, 1))),
    "addmm with factors": (
        lambda s, a, b, c: torch.addmm(c, a, b, beta=0.5, alpha=-2).relu(),
        (X, torch.randn(10, 4), torch.randn(4)),
    ),
    "logsumexp": (lambda s, x: torch.logsumexp(s.linear(x), 1), (X,)),
    "logsumexp with what surrounds it": (lambda s, x: F.leaky_relu(torch.logsumexp(s.linear(x) * 3, -1, True)), (X,)),
    "softmax's divisor": (lambda s, x: (lambda y: torch.exp(y - y.amax(1, True)).sum(1))(s.linear(x)), (X,)),
}

LEFT = {
    "its value is returned too": lambda s, x: (lambda y: (y, y.relu()))(s.other(x)),
    "two sums over a row": lambda s, x: s.norm(s.linear(x)),
    "a softmax": lambda s, x: s.linear(x).softmax(1),
    "exponentials below another's maximum": lambda s, x: (lambda y: torch.exp(y * 2 - y.amax(1, True)).sum(1))(
        s.linear(x)
    ),
    "a sum over the batch": lambda s, x: s.linear(x).relu().sum(0),
    "a position": lambda s, x: s.linear(x).argmax(1),
    "an operand beyond the reduction": lambda s, x: s.linear(x).relu().sum(1) + x[:, 0],
}


@pytest.mark.parametrize("name", TAKEN_IN)
def test_a_product_is_taken_in(name):
    forward, inputs = TAKEN_IN[name]
    (kernel,) = kernels_of(forward, *inputs)
    assert kernel.product is not None
    assert f"launch_{kernel.name}_product" in render_product(kernel)


@pytest.mark.parametrize("name", LEFT)
def test_a_product_is_left(name):
    assert all(kernel.product is None for kernel in kernels_of(LEFT[name], X))


@pytest.mark.parametrize("name", ["an activation", "one of two products", "mm", "addmm with factors"])
def test_where_no_device_has_the_launch_the_answer_is_the_same(name):
    forward, inputs = TAKEN_IN[name]
    model = Function(forward, **layers())
    with torch.no_grad():
        expected = model(*inputs)
        new, _ = compiled(model, inputs)
        torch.testing.assert_close(new(*inputs), expected)
    assert sum(new.kernels.calls.values()) == 1


ALONE = {
    "linear": (lambda s, x: s.linear(x), (X,)),
    "bmm": (lambda s, x, y: torch.bmm(x, y), (torch.randn(3, 6, 10), torch.randn(3, 10, 4))),
    "matmul": (lambda s, x, y: x @ y, (torch.randn(2, 3, 6, 10), torch.randn(10, 4))),
    "addmm": (
        lambda s, x, y, c: torch.addmm(c, x, y, beta=0.5, alpha=1e-3),
        (X, torch.randn(10, 4), torch.randn(6, 1)),
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_product_alone_has_a_launch_too(name):
    program = compile_module(Function(ALONE[name][0], **layers()), ALONE[name][1])
    assert program.products
    assert program.kernels == ()
    assert any(f"= self.kernels.{name}(" in line for line in program.forward.lines())
    assert program.forward.scales == (((0.5, 1e-3),) if name == "addmm" else ())


def test_what_has_no_launch():
    assert not compile_module(Function(lambda s, x: x.sort().values, **layers()), (X,)).products
    assert not compile_module(Function(lambda s, x, y: x @ y), (X, torch.randn(10))).products


def test_a_factor_of_an_addmm_that_is_0_leaves_its_operand_unread():
    """Neither a kernel after the product nor a launch of ours would."""
    c, y = torch.full((4,), torch.nan), torch.randn(10, 4)
    for follows in (lambda y: y, torch.relu):
        model = Function(lambda s, c, x, y: follows(torch.addmm(c, x, y, beta=0)))  # noqa: B023
        with torch.no_grad():
            new, program = compiled(model, (c, X, y))
            torch.testing.assert_close(new(c, X, y), follows(X @ y))
        assert program.forward.scales == () and all(kernel.product is None for kernel in program.kernels)


def test_a_small_factor_of_an_addmm_stays_in_its_product():
    """Without it the product might be too large for 16 bits."""
    model = Function(lambda s, c, x, y: torch.addmm(c, x, y, alpha=1e-3).relu())
    (kernel,) = compile_module(model, (torch.randn(4), X, torch.randn(10, 4))).kernels
    assert kernel.product is None


@pytest.mark.parametrize(("beta", "alpha"), [(0.5, 2.0), (-1e-30, 1.0), (1.0, 2.5e20)])
def test_launches_with_factors_have_names_of_their_own(beta, alpha):
    text = plain_products([(beta, alpha), (3.0, 4.0)])
    (name,) = {f"launch_linear_with_bias{scale_name(beta, alpha)}_product"}
    assert text.count(f" {name}(") == 1 and name.isidentifier()


@pytest.mark.parametrize("forward", [lambda s, x: s.linear(x), lambda s, x: s.linear(x).relu()])
def test_ieee_leaves_every_product_to_the_library(forward):
    program = compile_module(Function(forward, **layers()), (X,))
    assert program.products
    theirs = with_products(program, precision="ieee")
    assert not theirs.products
    assert any("torch.nn.functional.linear(" in line for line in theirs.forward.lines())


def plan(m=128, n=4096, k=4096, w=None, device=CARD, alone=True, unmeasured=False):
    x, weight = torch.empty(m, k, device="meta"), torch.empty(n, k, device="meta")
    factors = factors_of(F.linear, x, weight if w is None else w(weight))
    others = {"alone": alone, "unmeasured": unmeasured}
    return None if factors is None else plan_product(factors, [(1, 0), (0, 1)], device, **others)


def test_the_launch_is_chosen_for_what_it_covers():
    chosen = plan()
    assert chosen.numbers[:6] == (0, 0, 128, 4096, 4096, 128)
    assert chosen.numbers[7] == 132
    # the output, x, the weight, the other operand, none of them apart from others
    assert chosen.numbers[STRIDES_AT:] == (0, 0, 1, 0, 0, 0, 4096, 1, 0, 0, 4096, 1, 0, 0, 0, 1)
    assert plan(m=16).numbers[TILE_AT] == 16
    assert plan(m=64).numbers[TILE_AT : TILE_AT + 2] == (64, 4)
    assert plan(m=5000).numbers[TILE_AT : TILE_AT + 2] == (128, 1)
    assert plan(m=32).numbers[TILE_AT] == 64
    assert plan(m=24, n=2048, k=4096).numbers[TILE_AT] == 16  # more blocks than with larger tiles
    assert plan(device=CARD._replace(capability=(8, 0))) is None
    assert plan(m=2, n=64, k=64) is None  # too little to do
    assert plan(m=1) is None  # the library reads the weight as fast
    assert plan(m=2, n=11008, k=4096) is None  # what the library is as fast at
    assert plan(m=192, n=1024, k=1024) is None  # it has done this before the host has prepared a launch
    assert plan(m=192, n=1024, k=1024, alone=False) is not None  # but not with a kernel after it
    assert plan(w=lambda w: w.t()).numbers[ACROSS_AT] == 1  # its columns are contiguous
    assert plan(k=4095, w=lambda w: w) is None  # rows that do not begin at multiples of 16 bytes
    assert plan(k=4094) is None  # nor do these


def test_factors_the_other_way_round():
    """Where the weight does not lie as the copy engine brings it."""
    oddly = Factors(1000, 2001, 4096, (4096, 1), (1, 2001))
    turned = plan_product(oddly, [(2001, 1), (1, 0)], CARD, alone=True)
    assert turned.turned
    assert turned.numbers[2:5] == (2001, 1000, 4096)
    assert turned.numbers[STRIDES_AT:] == (0, 0, 1, 2001, 0, 0, 1, 2001, 0, 0, 4096, 1, 0, 0, 0, 1)
    assert plan_product(oddly, [(2001, 1)], CARD, reduces=True) is None  # rows are then along the other dim
    assert plan_product(oddly._replace(w=(1, 2004)), [(2001, 1)], CARD, alone=True).turned is False


@pytest.mark.parametrize(
    ("sizes", "stored", "reduced"),  # whether ours was measured to be faster on an H200, and is expected to be
    [
        ((16, 1024, 1024, 1024), True, True),
        ((8, 4096, 4096, 128), True, False),
        ((64, 512, 512, 512), True, True),
        ((4, 2048, 2048, 2048), True, True),
        ((128, 128, 64, 2048), False, False),
        ((8, 4096, 4096, 64), False, False),
        ((256, 128, 128, 128), False, False),
        ((32, 16, 4096, 1024), False, False),
    ],
)
def test_several_products_are_launched_where_that_is_faster(sizes, stored, reduced):
    batch, m, n, k = sizes
    factors = Factors(m, n, k, (k, 1), (1, n), (batch,), (m * k,), (n * k,))
    assert (plan_product(factors, [(m * n, n, 1)], CARD, alone=True) is not None) == stored
    assert (plan_product(factors, [(m, 1, 0)], CARD, reduces=True) is not None) == reduced


def test_the_launch_is_chosen_where_it_was_measured_to_be_faster():
    """By every tile and number of parts of k, at 366 sizes on an H200."""
    regrets, ratios = [], []
    for row in json.loads(SWEEP.read_text())["rows"]:
        factors = Factors(*row["sizes"], (row["sizes"][2], 1), (row["sizes"][2], 1))
        plain = min(row["library"], row["library, no bias"])
        for kind, theirs in (("rows reduced", plain + row["a kernel after it"]), ("stored", plain)):
            _, tile, splits = choose(factors, kind == "rows reduced", CARD)
            time = row[kind][f"{tile},{splits}"]
            if plan_product(factors, [(1, 0)], CARD, kind == "rows reduced", kind == "stored") is not None:
                ratios.append(theirs / time)
                regrets.append(time / min(row[kind].values()))
    assert len(ratios) > 280
    assert min(ratios) > 1
    assert max(regrets) < 1.1 and statistics.mean(regrets) < 1.005


def test_what_is_remembered_of_a_weight_goes_when_it_is_written_to():
    hints, weight, x = Hints(), torch.zeros(4, 8), torch.zeros(3, 8)

    def remembered(weight):
        return hints.of(weight, factors_of(F.linear, x[:, : weight.shape[1]], weight))

    assert remembered(weight) is None
    first = remembered(weight)
    assert first.tolist() == [0, 0, 0, 0]
    assert remembered(weight) is first
    assert remembered(weight.t()[:3].t()) is None
    assert remembered(weight[:, :8]) is first  # another view of it
    weight.add_(1)
    assert remembered(weight) is None
    assert remembered(weight) is not first
    with torch.inference_mode():
        fixed = torch.zeros(4, 8)
        assert [remembered(fixed) is None for _ in range(3)] == [True, False, False]


def test_nothing_is_remembered_of_what_is_computed_again_at_the_same_address():
    """It would be taken for the same weight, and rows that have become too wide for halves would not be noticed."""
    hints, place, x = Hints(), torch.zeros(4, 8), torch.zeros(3, 8)
    for _ in range(3):
        weight = torch.empty(0).set_(place.untyped_storage(), 0, (4, 8), (8, 1))
        assert hints.of(weight, factors_of(F.linear, x, weight)) is None


def test_leading_dims_collapse_where_they_can():
    assert collapsed_stride((2, 3), (30, 10)) == 10
    assert collapsed_stride((2, 1), (30, 7)) == 30
    assert collapsed_stride((1, 1), (5, 7)) == 0
    assert collapsed_stride((2, 3), (0, 0)) == 0
    assert collapsed_stride((2, 3), (31, 10)) is None


def test_batches_are_rows_of_one_product_where_they_can():
    x, weight = torch.empty(2, 3, 8), torch.empty(5, 8)
    found, steps = gathered(factors_of(F.linear, x, weight), [(15, 5, 1), (0, 0, 1)])
    assert found == Factors(6, 5, 8, (8, 1), (8, 1))
    assert steps == [(5, 1), (0, 1)]
    assert gathered(factors_of(torch.matmul, x, weight.t()[None]), [(15, 5, 1)])[0] == found
    apart = factors_of(torch.matmul, x.transpose(0, 1), weight.t())
    assert gathered(apart, [(10, 5, 1)])[0] == Factors(2, 5, 8, (24, 1), (8, 1), (3,), (8,), (0,))


def test_what_the_function_does_not_take_is_left_to_it():
    def factors(product, x, weight):
        return factors_of(product, torch.empty(x), torch.empty(weight))

    assert factors(F.linear, (0, 8), (5, 8)) is None  # nothing to multiply
    assert factors(torch.mm, (2, 3, 8), (8, 5)) is None
    assert factors(torch.bmm, (2, 3, 8), (1, 8, 5)) is None
    assert factors(torch.matmul, (2, 3, 8), (1, 8, 5)).batches == 2
    assert factors(torch.matmul, (2, 3, 8), (3, 8, 5)) is None
    assert factors(torch.matmul, (8,), (8, 5)) is None
    assert factors(torch.matmul, (3, 8), (7, 5)) is None


def test_batches_in_two_dims():
    """Attention's scores: heads lie between the dims of a matrix, so that they do not make one dim with the batch."""
    x = torch.empty(2, 100, 4, 64).transpose(1, 2)
    found, _ = gathered(factors_of(torch.matmul, x, x.transpose(2, 3)), [(40000, 10000, 100, 1)])
    assert found == Factors(100, 100, 64, (256, 1), (256, 1), (2, 4), (25600, 64), (25600, 64))
    numbers = launch_of(found, [(40000, 10000, 100, 1)], CARD, False, 64, 1).numbers
    assert numbers[8:10] == (2, 4)
    assert numbers[STRIDES_AT:] == (40000, 10000, 100, 1, *(25600, 64, 256, 1) * 2)
    several = torch.empty(3, 2, 5, 100, 64).transpose(1, 2).transpose(0, 1).transpose(1, 2)
    assert gathered(factors_of(torch.matmul, several, several.transpose(-1, -2)), [(1, 1, 1, 1, 1)]) is None


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("reduces", [False, True])
def test_several_products_have_several_times_the_workspace(reduces, splits):
    """Of what is shared there is one."""
    one = Factors(100, 300, 256, (256, 1), (256, 1))
    shared = one._replace(batch=(6,), x_apart=(0,), w_apart=(76800,))
    every = one._replace(batch=(6,), x_apart=(25600,), w_apart=(76800,))

    def sizes(factors):
        found = launch_of(factors, [(0,) * len(factors.batch) + (300, 1)], CARD, reduces, 64, splits)
        starts = (0, *found.numbers[10:STRIDES_AT], found.workspace)
        return [end - start for start, end in itertools.pairwise(starts)]

    halves, x_units, w_units, _, sums, partials = sizes(every)
    one_halves, one_x_units, one_w_units, _, one_sums, one_partials = sizes(one)
    assert halves == 6 * one_halves and x_units == 6 * one_x_units and sums == 6 * one_sums
    assert sizes(shared)[:2] == [one_halves, one_x_units] and sizes(shared)[2] == w_units
    assert 6 * 300 * 4 <= w_units < 6 * 300 * 4 + 256 and one_w_units >= 300 * 4
    assert 6 * one_partials - 6 * 256 < partials <= 6 * one_partials and bool(partials) == reduces


def test_a_kernel_after_two_functions_prepares_a_launch_for_each(monkeypatch):
    """Factors of one shape: what was prepared for x · wᵀ must not be launched for x · w."""
    prepared = []
    model = Function(lambda s, x: (F.linear(x, s.square).relu(), torch.mm(x, s.square).relu()))
    model.square = nn.Parameter(torch.randn(10, 10))
    kernels = optimize(model, torch.randn(6, 10)).kernels
    assert len(kernels.by_name) == 1
    monkeypatch.setattr(kernels.relu, "_prepare_product", lambda product, *factors: prepared.append(product))
    x, square = X.as_subclass(OnAGpu), model.square.detach().as_subclass(OnAGpu)
    for product in (F.linear, torch.mm, F.linear):
        assert kernels.relu.with_product(product, x, square) is None
    assert prepared == [F.linear, torch.mm]


class OnAGpu(torch.Tensor):
    """Says that it is where launches of products are."""

    is_cuda = True


def test_a_linear_layer_of_nothing_goes_to_the_library(monkeypatch):
    seen = []
    kernels = optimize(Function(lambda s, x: s.linear(x), **layers()), X).kernels
    monkeypatch.setattr(kernels, "alone", lambda product, rows, *factors: seen.append(rows.shape))
    with FakeTensorMode():
        x, weight = torch.empty(2, 3, 0, device="cuda"), torch.empty(5, 0, device="cuda")
        assert kernels.linear(x, weight).shape == (2, 3, 5)
    assert seen == [(6, 0)]


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (12, 0)])
def test_where_nothing_was_measured_products_are_ours_only_when_asked_for(capability):
    device = CARD._replace(capability=capability, sms=108)
    assert plan(device=device) is None
    assert plan(device=device, unmeasured=True).kind == AMPERE
    asked = {"device": device, "unmeasured": True}
    assert plan(m=16, **asked).numbers[TILE_AT : TILE_AT + 2] == (16, 6)  # 192 blocks: an SM has two of them
    assert plan(m=17, **asked).numbers[TILE_AT : TILE_AT + 2] == (
        64,
        3,
    )  # 96: a fourth part would come after the others
    assert plan(m=4096, **asked).numbers[TILE_AT : TILE_AT + 2] == (64, 1)
    assert plan(m=2, n=64, k=64, **asked).numbers[TILE_AT : TILE_AT + 2] == (16, 1)
    assert plan(m=1, **asked) is None
    assert plan(w=lambda w: w[:, 1:], k=4097, **asked) is None


def test_elsewhere_asking_changes_nothing():
    assert plan(unmeasured=True) == plan()
    for capability in ((7, 5), (10, 0)):
        assert plan(device=CARD._replace(capability=capability), unmeasured=True) is None


def test_a_file_has_the_kernels_that_were_asked_for():
    model = Function(lambda s, x: F.gelu(s.linear(x)), **layers())
    by_default, asked = optimize(model, X), optimize(model, X, precision="emulated")
    assert {HOPPER, AMPERE} & set(by_default.kernels.sources) == {HOPPER}
    assert {HOPPER, AMPERE} & set(asked.kernels.sources) == {HOPPER, AMPERE}
    assert asked.kernels.sources[HOPPER] == by_default.kernels.sources[HOPPER]
    assert "cp.async.cg" in asked.source and "cp.async.cg" not in by_default.source
    assert "never run" in asked.source and "never run" not in by_default.source
    torch.testing.assert_close(asked(X), model(X))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_the_launch_compiles_without_spills(tmp_path):
    kernels = load(write("linear_sigmoid_sum", tmp_path))["ModelNew"].kernels
    cases = [Case("Hopper's", kernels.sources[HOPPER], ("MN_T=float", "MN_BATCH_TILE=16"), ("sm_90a",))]
    asked = optimize(Function(lambda s, x: F.gelu(s.linear(x)), **layers()), X, precision="emulated").kernels
    defines = ("MN_T=float", "MN_BATCH_TILE=64", "MN_WEIGHT_ACROSS=1")
    cases.append(Case("Ampere's, across", asked.sources[AMPERE], defines, ("sm_80",)))
    assert [f"{c.case}: {said}" for c in check(cases) for said in c.complaints] == []
