"""What a call may skip: it answers as nn.Module and the original forward would, whichever way it takes."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import modelnew
from modelnew.runtime import call, launch, quick


class Chain(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * 2


class Pair(nn.Module):
    def forward(self, x, y):
        return torch.relu(x) - y


class Two(nn.Module):
    """Two kernels, a parameter between them: calls go through forward."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5))

    def forward(self, x):
        return torch.softmax(torch.sigmoid(x) * self.scale, -1).sum(0)


@pytest.fixture(scope="module")
def chain():
    return warm(modelnew.optimize(Chain(), torch.randn(4, 5)))


def warm(module):
    """Called until calls take the shortest way."""
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(4, 5))
    return module


def launches(module):
    return sum(type(module).kernels.calls.values())


def assert_takes_the_long_way(module, x):
    """The original answers, where just before the kernel did."""
    with torch.no_grad():
        before = launches(module)
        module(torch.randn(4, 5))
    assert launches(module) == before + 1
    result = module(x)
    assert launches(module) == before + 1
    return result


def test_repeated_calls_are_recognised_in_one_step(chain, monkeypatch):
    monkeypatch.setattr(type(chain).guard, "covers", lambda *given: pytest.fail("went through forward"))
    x = torch.randn(4, 5)
    assert torch.allclose(chain(x), Chain()(x))


def test_other_tensors_in_turn(chain):
    cases = [
        torch.randn(4, 5),
        torch.randn(5, 4).t(),
        torch.randn(4, 5).double(),
        torch.randn(7),
        torch.randn(4, 5)[:, ::2],
    ]
    for _ in range(3):
        for x in cases:
            result, expected = chain(x), Chain()(x)
            assert torch.allclose(result, expected)
            assert (result.dtype, result.stride()) == (expected.dtype, expected.stride())


def test_autograd_records_what_it_did(chain):
    x = torch.randn(4, 5, requires_grad=True)
    assert_takes_the_long_way(chain, x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        for _ in range(3):
            assert not chain(x).requires_grad
    assert chain(x).requires_grad, "accepted while nothing was recorded"


def test_inference_mode(chain):
    with torch.inference_mode():
        x = torch.randn(4, 5)
        for _ in range(3):
            assert chain(x).is_inference() == Chain()(x).is_inference()
    assert not chain(torch.randn(4, 5)).is_inference()


class Seen(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def test_what_wants_to_see_pytorchs_ops(chain):
    x = torch.randn(4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_takes_the_long_way_in_mode(chain, x)
    with Seen() as seen:
        assert_takes_the_long_way_in_mode(chain, x)
    assert seen.names == ["aten.sigmoid.default", "aten.mul.Tensor"]
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert_takes_the_long_way_in_mode(chain, x)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert forward_ad.unpack_dual(assert_takes_the_long_way_in_mode(chain, dual)).tangent is not None
    before = launches(chain)
    assert torch.allclose(torch.vmap(chain)(x), Chain()(x))
    assert launches(chain) == before
    assert torch.allclose(torch.func.jvp(chain, (x,), (x,))[1], torch.func.jvp(Chain(), (x,), (x,))[1])
    assert launches(chain) == before
    traced = torch.jit.trace(chain, x)
    assert torch.allclose(traced(x + 1), Chain()(x + 1))
    assert torch.allclose(torch.fx.symbolic_trace(nn.Sequential(chain))(x), Chain()(x))


def assert_takes_the_long_way_in_mode(module, x):
    before = launches(module)
    result = module(x)
    assert launches(module) == before
    return result


def test_compiled_whole(chain):
    x = torch.randn(4, 5)
    before = launches(chain)
    assert torch.allclose(torch.compile(chain, fullgraph=True, backend="eager")(x), Chain()(x))
    compiled = copy.deepcopy(chain)
    compiled.compile(fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), Chain()(x))
    assert launches(chain) == before


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_are_called(chain, kind):
    seen = []
    x = torch.randn(4, 5, requires_grad="backward" in kind)
    handle = getattr(chain, kind)(lambda *given: seen.append(given))
    result = chain(x)
    if "backward" in kind:
        result.sum().backward()
    handle.remove()
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_of_all_modules_are_called(chain, kind):
    seen = []
    handle = getattr(nn.modules.module, kind)(lambda *given: seen.append(given))
    chain(torch.randn(4, 5))
    handle.remove()
    chain(torch.randn(4, 5))
    assert len(seen) == 1


def test_another_forward_is_called(chain):
    x = torch.randn(4, 5)

    class Sub(type(chain)):
        def forward(self, x):
            return super().forward(x) + 1

    sub = Sub()
    assert torch.equal(sub(x), chain(x) + 1)
    patched = copy.copy(chain)
    patched.forward = lambda x: "mine"
    assert patched(x) == "mine"


def test_a_module_call_that_was_replaced_is_used(chain, monkeypatch):
    usual, seen = nn.Module.__call__, []
    monkeypatch.setattr(nn.Module, "__call__", lambda self, *given: (seen.append(self), usual(self, *given))[1])
    chain(torch.randn(4, 5))
    assert seen == [chain]


def test_keywords_and_wrong_arguments(chain):
    x = torch.randn(4, 5)
    assert torch.equal(chain(x=x), chain(x))
    for wrong in ((), (x, x), (None,), ("text",)):
        with pytest.raises(TypeError):
            chain(*wrong)


def test_one_tensor_twice():
    new = modelnew.optimize(Pair(), torch.randn(4, 5), torch.randn(4, 5))
    x, y = torch.randn(4, 5), torch.randn(4, 5)
    for _ in range(3):
        assert torch.equal(new(x, y), Pair()(x, y))
        assert torch.equal(new(x, x), Pair()(x, x))


def test_subclasses_and_views_of_another_kind(chain):
    class Tagged(torch.Tensor):
        pass

    x = torch.randn(4, 5)
    assert type(assert_takes_the_long_way(chain, x.as_subclass(Tagged))) is Tagged
    assert torch.allclose(assert_takes_the_long_way(chain, torch._neg_view(x)), Chain()(-x))
    assert torch.allclose(assert_takes_the_long_way(chain, x.to_sparse().to_dense()[:0]), Chain()(x[:0]))
    with pytest.raises((RuntimeError, NotImplementedError)):
        chain(torch.quantize_per_tensor(x, 0.1, 0, torch.qint8))


def test_copies_and_casts(chain):
    x = torch.randn(4, 5)
    for twin in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        assert torch.equal(twin(x), chain(x))
    two = modelnew.optimize(Two(), x)
    with torch.no_grad():
        warm(two)
        before = launches(two)
        assert two.half()(x.half()).dtype == torch.float16, "weights that changed are another kind"
        assert two.double()(x.double()).dtype == torch.float64
        assert launches(two) > before
    assert two(x.double()).requires_grad


def test_function_modes_are_left_alone(chain):
    class Mode(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    x = torch.randn(4, 5)
    with Mode():
        assert torch.equal(chain(x), chain(x))
    with torch.device("meta"):
        assert chain(x).device.type == "cpu"


def test_threads_at_once(chain):
    """Sizes differ from thread to thread, so that what one remembers is never what the other has."""
    wrong = []

    def work(size):
        torch.set_num_threads(1)
        with torch.no_grad():
            x = torch.full((size,), float(size))
            expected = Chain()(x)
            for _ in range(3000):
                if not torch.allclose(chain(x), expected):
                    wrong.append(size)
                    return

    threads = [threading.Thread(target=work, args=(size,)) for size in (3, 64, 1000, 40000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("missing", ["guards", "data address", "all"])
def test_without_the_quick_ways(missing, monkeypatch):
    """As with a PyTorch that does not have them, or whose own do something else."""
    if missing == "guards":
        monkeypatch.setattr(quick, "_checkers_tell", lambda: False)
    elif missing == "data address":
        monkeypatch.setattr(quick, "data_address", lambda: None)
    else:
        monkeypatch.setattr(quick, "_GUARDS", None)
        monkeypatch.setattr(quick, "_checkers_tell", quick._checkers_tell.__wrapped__)
        monkeypatch.setattr(quick, "data_address", quick.data_address.__wrapped__)
        assert not quick._checkers_tell()
    assert call.direct is quick.direct
    assert launch.checker is quick.checker
    kernel = modelnew.optimize(Two(), torch.randn(4, 5)).kernels
    fields = ("name", "inputs", "outputs", "rank", "reduced", "any_rank", "layouts", "passes", "kept")
    live = {
        name: launch.Kernel(kernel, *(getattr(one, field) for field in fields)) for name, one in kernel.by_name.items()
    }
    x = torch.randn(4, 5)
    for one in live.values():
        given = [x] if len(one.inputs) == 1 else [x, torch.rand(5)]
        for _ in range(2):
            assert torch.equal(one(*given), kernel.by_name[one.name](*given))


def test_guards_that_tell_too_little_are_not_used(monkeypatch):
    quick._checkers_tell.cache_clear()
    monkeypatch.setattr(quick, "_checker", lambda tensors: lambda *given: True)
    assert not quick._checkers_tell()
    quick._checkers_tell.cache_clear()
    monkeypatch.undo()
    assert quick._checkers_tell()
