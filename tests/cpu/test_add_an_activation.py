"""docs/add-an-activation.md, done: an operator that modelnew does not know, one line, and it is part of a kernel."""

import pytest
import torch

import modelnew
from modelnew.kernel.ops import POINTWISE, call, pointwise

torch.library.define("mylib::squareplus", "(Tensor x, float b=4.0) -> Tensor")


@torch.library.impl("mylib::squareplus", "CompositeExplicitAutograd")
def squareplus(x, b=4.0):
    return (x + torch.sqrt(x * x + b)) / 2


torch.library.register_fake("mylib::squareplus", lambda x, b=4.0: torch.empty_like(x))


@pytest.fixture
def known():
    pointwise(torch.ops.mylib.squareplus, lambda x, b=4.0: (x + call("sqrt")(x * x + b)) / 2)
    yield
    del POINTWISE[torch.ops.mylib.squareplus.default]


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.tanh(torch.ops.mylib.squareplus(2 * x, b=1.0)) - 1


def test_unknown_it_stays_a_call():
    explanation = modelnew.explain(Model(), torch.randn(3))
    assert [entry["op"] for entry in explanation.as_dict()["library"]] == ["squareplus"]
    assert len(explanation.program.kernels) == 2, "one before it, one after it"


def test_one_line_makes_it_part_of_a_kernel(known):
    x = torch.linspace(-30, 30, 1001)
    model = Model()
    assert modelnew.check(model, modelnew.optimize(model, x), x, seed=0).accepted
    explanation = modelnew.explain(model, x)
    assert explanation.as_dict()["library"] == []
    assert len(explanation.program.kernels) == 1
