"""The maximum over "is this the place" becomes one load per row, and nothing else does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelnew.compiler import compile_module
from modelnew.kernel.ir import layout_of, walk
from modelnew.kernel.schedule import schedule
from modelnew.render.kernel import render_kernel
from tests.compiled import Function

X, TARGET = torch.randn(6, 10), torch.arange(6)


def body(function, *inputs):
    program = compile_module(Function(function), inputs)
    kernel = next(kernel for kernel in program.kernels if kernel.reduced)
    return kernel, render_kernel(kernel)


def here(x, target):
    return torch.arange(x.shape[1]) == target.unsqueeze(1)


def picked(x, target):
    return torch.where(here(x, target), x, -math.inf).amax(1)


def test_cross_entropy_compares_no_position():
    """One sweep, which does no more than a logsumexp's; the target's logit is one load."""
    kernel, text = body(lambda s, x, y: F.cross_entropy(x, y), X, TARGET)
    assert "mn::eq" not in text and "row.index" not in text and "together" not in text
    assert text.count("row.template pick<1>(inputs_1)") == 1
    assert "mn::types<int64_t, T>, mn::types<T>>(" in text, "vectors are as wide as the logits' type allows"
    plan = schedule(kernel)
    assert (plan.passes, plan.kept) == (1, 1)


def test_images():
    _, text = body(lambda s, x, y: F.cross_entropy(x, y), torch.randn(2, 5, 4, 3), torch.zeros(2, 4, 3).long())
    assert "row.index" not in text and "row.template pick<1>(inputs_1)" in text


PICKS = {
    "position on the right": lambda s, x, y: torch.where(y.unsqueeze(1) == torch.arange(10), x, -math.inf).amax(1),
    "narrow targets": lambda s, x, y: picked(x, y.int()),
    "targets computed": lambda s, x, y: picked(x, y + 1),
    "alone": lambda s, x, y: picked(x, y),
    "of converted values": lambda s, x, y: picked(x.double(), y),
}
OTHERS = {
    "places along the row": lambda s, x, y: torch.where(torch.arange(10) == x.long(), x, -math.inf).amax(1),
    "all other elements": lambda s, x, y: torch.where(~here(x, y), x, -math.inf).amax(1),
    "not equal": lambda s, x, y: torch.where(torch.arange(10) != y.unsqueeze(1), x, -math.inf).amax(1),
    "exchanged": lambda s, x, y: torch.where(here(x, y), -math.inf, x).amax(1),
    "0 elsewhere": lambda s, x, y: torch.where(here(x, y), x, 0.0).amax(1),
    "inf elsewhere": lambda s, x, y: torch.where(here(x, y), x, math.inf).amax(1),
    "minimum": lambda s, x, y: torch.where(here(x, y), x, -math.inf).amin(1),
    "sum": lambda s, x, y: torch.where(here(x, y), x, -math.inf).sum(1),
    "shifted": lambda s, x, y: torch.where(torch.arange(10) + 1 == y.unsqueeze(1), x, -math.inf).amax(1),
    "before": lambda s, x, y: torch.where(torch.arange(10) <= y.unsqueeze(1), x, -math.inf).amax(1),
}


@pytest.mark.parametrize("case", PICKS)
def test_is_one_load(case):
    kernel, text = body(PICKS[case], X, TARGET)
    assert "row.template pick<" in text and "row.index" not in text and "row.reduce" not in text
    assert schedule(kernel).passes == 0


@pytest.mark.parametrize("case", OTHERS)
def test_is_a_sweep(case):
    kernel, text = body(OTHERS[case], X, TARGET)
    assert "pick<" not in text and "row.reduce" in text
    assert schedule(kernel).passes == 1


def test_a_value_made_of_several_inputs():
    """Each of them is picked; what is one per row, or the position, is not."""
    kernel, text = body(
        lambda s, x, y, w, b: torch.where(
            here(x, y), x * w + b + torch.arange(10) - x.sum(1, keepdim=True), -math.inf
        ).amax(1),
        *(X, TARGET, torch.randn(10), torch.randn(6, 1)),
    )
    assert {expr.detail for expr in walk(kernel.results) if expr.kind == "pick"} == {
        number for number, operand in enumerate(kernel.inputs) if operand.varies_along(kernel.reduced)
    }
    assert text.count("pick<") == 2 and text.count("row.reduce") == 1 and "row.index" not in text


def test_a_pick_within_a_pick():
    """The inner one is made already when the outer one is met: no load of a whole row may be left behind."""
    kernel, text = body(
        lambda s, x, y: torch.where(here(x, y), x - picked(x, y - 1).unsqueeze(1), -math.inf).amax(1), X, TARGET
    )
    assert not any(id(expr) in schedule(kernel).elements for expr in walk(kernel.results))
    assert text.count("row.template pick<") == 2


def test_a_value_per_row_is_computed_before_it_is_stored_along_it():
    """A functor captures values; it does not ask the row."""
    _, text = body(lambda s, x, y: picked(x, y).unsqueeze(1) + torch.zeros_like(x), X, TARGET)
    (store,) = (line for line in text.splitlines() if "store<0>" in line)
    assert "row." not in store.replace("row.template store<0>", "")


def test_lies_as_the_maximum_did():
    found = []
    for other in (-math.inf, 0.0):
        kernel, _ = body(
            lambda s, x, y, other=other: torch.where(here(x, y), x, other).amax(1) * y, torch.randn(6, 10), TARGET
        )
        found.append([layout_of(result, kernel) for result in kernel.results])
    assert found[0] == found[1]


def test_a_product_is_not_drawn_in():
    """A kernel of the product has its elements one by one, and no row to pick from."""
    model = nn.Sequential(nn.Linear(10, 10, bias=False))
    program = compile_module(Function(lambda s, x, y: picked(s.linear(x), y), linear=model), (X, TARGET))
    assert [kernel.product for kernel in program.kernels] == [None]
