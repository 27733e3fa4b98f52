"""Modules whose products run by Ampere's instructions, as `precision="emulated"` has it on GPUs of 8.x and 12.x: on other
ones that have the instructions the module takes the GPU for one of 8.0."""

import copy

import pytest
import torch
from torch import nn

import modelnew
from modelnew.runtime.plan_product import AMPERE
from tests.compiled import Function, assert_closer
from tests.cuda.product_kernels import covered

pytestmark = pytest.mark.usefixtures("in_fp32")


@pytest.fixture
def on_ampere(monkeypatch):
    """Makes a module take the GPU for one of 8.0."""
    capability = torch.cuda.get_device_capability()
    if not covered(AMPERE, capability):
        pytest.skip("Ampere's instructions are for compute capability 8.0 and later")

    def disguise(fast):
        its_file = fast.kernels.alone.__globals__
        known = its_file["_card_of"]
        if capability[0] not in (8, 12):
            monkeypatch.setitem(its_file, "_card_of", lambda device: known(device)._replace(capability=(8, 0)))
        return fast

    return disguise


MODELS = {
    "rows reduced": lambda: Function(lambda s, x: torch.sigmoid(s.linear(x)).sum(1, keepdim=True), linear=layer()),
    "stored": lambda: Function(lambda s, x: torch.nn.functional.gelu(s.linear(x)), linear=layer()),
    "alone": lambda: layer(),
}


def layer():
    return nn.Linear(1036, 777)  # whose rows begin at multiples of 16 bytes


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("m", [2, 16, 100])
def test_products_are_ours_where_that_was_asked_for(name, m, on_ampere):
    model = MODELS[name]().cuda()
    x = torch.randn(m, 1036, device="cuda")
    fast = on_ampere(modelnew.optimize(model, x, precision="emulated"))
    assert_closer(fast(x), model(x), copy.deepcopy(model).double()(x.double()))
    if torch.cuda.get_device_capability()[0] in (8, 9, 12):
        assert {kind for kind, _ in fast.kernels.libraries if "product" in kind} == {AMPERE}
    calls = sum(fast.kernels.calls.values())
    assert calls == 1
    torch.backends.cuda.matmul.allow_tf32 = True  # the user's word: the library's product is what was asked for
    fast(x)
    assert {kind for kind, _ in fast.kernels.libraries if "product" in kind} == {AMPERE}
    assert name != "alone" or sum(fast.kernels.calls.values()) == calls
