"""What a call does beside computing: every trace that it leaves on its inputs, the module or PyTorch is a fact."""

import contextlib

import pytest
import torch
from torch import nn

from modelnew.check import tamper
from modelnew.check.observe import Observer, flatten


class Calling(nn.Module):
    """Does `act(self, x)`, then answers."""

    def __init__(self, act):
        super().__init__()
        self.linear, self.act = nn.Linear(5, 3), act

    def forward(self, x):
        y = self.linear(x)
        return self.act(self, x, y) if self.act else y


def facts(act, calls: int = 1, under: str = "no_grad") -> list[str]:
    observer = Observer(Calling(act))
    answers = [observer.call([torch.rand(4, 5)], seed=1, poison=True, training=True, under=under) for _ in range(calls)]
    assert not any(answer.error for answer in answers), answers[0].error_text
    return answers[-1].facts


def swapped(module, x, y):
    x.data = x.data * 2
    return y


def taking_gradients(module, x, y):
    x.requires_grad_()
    return y


def frozen(module, x, y):
    module.linear.weight.requires_grad_(False)
    return y


def replaced(module, x, y):
    module.linear.bias = nn.Parameter(module.linear.bias.detach().clone())
    return y


def in_eval(module, x, y):
    module.linear.eval()
    return y


def recording(module, x, y):
    torch._C._set_grad_enabled(True)
    return y


def drawing(module, x, y):
    import random

    random.random()
    return y


def twice(module, x, y):
    return y, y.view(-1)[3:].view(3, 3)


def in_turn(module, x, y):
    """Eight buffers: what is returned is overwritten long after."""
    ring = module.__dict__.setdefault("ring", [torch.empty_like(y) for _ in range(8)])
    ring.append(ring.pop(0))
    return ring[-1].copy_(y)


@pytest.mark.parametrize(
    ("act", "fact"),
    [
        (swapped, "input 0 has another shape, memory or requires_grad"),
        (taking_gradients, "input 0 has another shape, memory or requires_grad"),
        (frozen, "parameter linear.weight is replaced or frozen"),
        (replaced, "parameter linear.bias is replaced or frozen"),
        (in_eval, "the call changes whether the module trains"),
        (recording, "the grad mode is changed"),
        (drawing, "the random state is changed"),
        (twice, "output[1] shares memory with output[0]"),
    ],
)
def test_what_a_call_changes_is_a_fact(act, fact):
    assert facts(act) == [fact]


@pytest.mark.parametrize("under", ["no_grad", "autograd", "frozen", "inference_mode"])
def test_a_call_that_only_computes_leaves_no_trace(under):
    assert facts(None, 9, under) == []
    assert facts(lambda module, x, y: y.chunk(3, 1), 2, under) == []  # columns lie between each other


def test_an_output_overwritten_many_calls_later_is_a_fact():
    assert facts(in_turn, 8) == []
    assert facts(in_turn, 9) == ["an output changed after it was returned"]


class Mode(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def hooked():
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, out: None)
    yield
    handle.remove()


@contextlib.contextmanager
def overridden():
    library = torch.library.Library("aten", "IMPL")
    library.impl("exp", lambda x: x.sigmoid(), "CPU")
    yield
    library._destroy()


@pytest.mark.filterwarnings("ignore:.*Warning only once for all operators")
@pytest.mark.parametrize(
    ("left_on", "fact"),
    [
        (lambda: torch.autocast("cpu"), "autocast is changed from False to True"),
        (Mode, "the number of modes that PyTorch is in is changed from 0 to 1"),
        (lambda: torch.device("cpu"), "the number of modes that PyTorch is in is changed from 0 to 1"),
        (hooked, "a hook on every module is changed from False to True"),
        (overridden, "what torch.exp gives is changed from "),
    ],
)
def test_what_stays_switched_on_is_a_fact(left_on, fact):
    before = tamper.flags()
    with left_on():
        found = tamper.changed_flags(before)
    assert any(text.startswith(fact) for text in found), found
    assert tamper.changed_flags(before) == []


def test_outputs_of_every_kind_have_a_form():
    complex_, real = flatten(torch.tensor([1 + 2j])), flatten(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(complex_[0]["output"], real[0]["output"]) and complex_[1] != real[1]
    assert flatten((None, "text", 3))[1] == "list(None, 'text', int)"
    with pytest.raises(RuntimeError, match="output is sparse_coo: only dense tensors"):
        flatten(torch.eye(3).to_sparse())
    with pytest.raises(RuntimeError, match=r"output\[0\] is a object, which cannot be judged"):
        flatten([object()])
