"""Kernels that a measurement finds slower than what they stand for are left to PyTorch."""

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelnew import api, delivery, drafts, kept
from modelnew.bench.kernels import Contest, contest
from modelnew.bench.stats import Ratio
from modelnew.compiler import compile_module, without
from modelnew.kept import originals
from modelnew.live import live_origin, load_source, wrap
from modelnew.render.file import render_file
from tests.compiled import Function, names
from tests.examples import FOLDER, SMALL

X = torch.randn(6, 10)


def write_and_read(x):
    x.cumsum_(1)  # the call that reads names the tensor, not the write
    return x.relu() * 2


STAND_FOR = {
    "an op": (lambda s, x: x.sigmoid(), [["sigmoid"]]),
    "a composite": (lambda s, x: x.softmax(-1), [["softmax"]]),
    "a chain": (lambda s, x: F.gelu(s.norm(x)) * 2, [["layer_norm", "gelu", "mul"]]),
    "two kernels": (lambda s, x: x.exp().cumsum(1).sin(), [["exp"], ["sin"]]),
    "two results": (lambda s, x: (x.exp(), x.exp().relu()), [["exp", "exp_1", "relu"]]),
    "a call over two kernels is theirs together": (
        lambda s, x: F.cross_entropy(x, torch.arange(6)),
        [["cross_entropy_loss"]],
    ),
    "part of a product": (lambda s, x: s.linear(x).relu(), []),
    "after a write": (lambda s, x: x.clone().mul_(2).cumsum(1).relu(), []),
    "of what was written to": (lambda s, x: write_and_read(x.clone()), []),
}


def program_of(name):
    function, expected = STAND_FOR[name]
    model = Function(function, norm=nn.LayerNorm(10), linear=nn.Linear(10, 7))
    return model, compile_module(model, (X,)), expected


@pytest.mark.parametrize("name", STAND_FOR)
def test_the_calls_that_a_kernel_stands_for(name):
    _, program, expected = program_of(name)
    assert [[call.name for call in one.calls.calls] for one in originals(program)] == expected


@pytest.mark.parametrize("name", [name for name, (_, expected) in STAND_FOR.items() if expected])
def test_what_is_put_back_is_forwards_own_calls(name):
    """Bit for bit: the same calls as eager makes, not the pieces that they were decomposed into."""
    model, program, expected = program_of(name)
    smaller = without(program, [one.calls for one in originals(program)])
    assert smaller.kernels == ()
    assert len([node for node in smaller.captured.graph.nodes if node.op == "call_function"]) >= len(expected)
    runnable = torch.fx.GraphModule(model, smaller.captured.graph)
    state = list(smaller.captured.state.values())
    with torch.no_grad():
        found = runnable(*(eval(path, {"self": model}) for path in state), X)
        wanted = model(X)
    for mine, theirs in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert torch.equal(mine, theirs)


def test_one_kernel_of_two_is_left():
    model, program, _ = program_of("two kernels")
    first, _ = originals(program)
    smaller = without(program, [first.calls])
    assert names(smaller) == ["sin"]
    new = wrap(model, load_source(render_file(smaller, model, live_origin(model)), type(model)))
    with torch.no_grad():
        assert torch.allclose(new(X), model(X), atol=1e-6)
    assert type(new).kernels.calls == {"sin": 1}


def test_a_slow_kernel_loses_and_a_fast_one_does_not():
    _, program, _ = program_of("an op")
    ((parts, reads, calls),) = originals(program)
    name = parts[0].name

    def slow(*tensors):
        return X + 0 * sum(range(100_000))

    assert contest(name, slow, reads, calls, "cpu").lost
    assert not contest(name, lambda *tensors: X, reads, calls, "cpu").lost


def test_kernels_of_one_call_are_timed_together(monkeypatch):
    """What they compute is what the call does, and what loses is the call that was there before."""
    model, program, _ = program_of("a call over two kernels is theirs together")

    def lost(name, kernel, reads, calls, device):
        (given, targets) = (torch.rand(6, 10), torch.arange(6))
        kernel(*(targets if read.name == "arange" else given for read in reads))  # they fit together
        return Contest(name, Ratio(0.5, 0.4, 0.6), "slower")

    monkeypatch.setattr(kept, "contest", lost)
    with torch.no_grad():
        smaller, held = kept.contested(program, model, "cpu", lambda text: None)
    assert [one.name for one in held] == ["cross_entropy_loss, cross_entropy_loss_2"]
    assert smaller.kernels == () and not smaller.launches
    _, program, _ = program_of("a call over two kernels is theirs together")
    (one,) = originals(program)
    held = contest(", ".join(one.names), lambda *given: sum(range(1_000_000)), one.reads, one.calls, "cpu")
    assert held.ratio is not None and held.ratio.value < 1


def test_a_contest_that_would_take_the_memory_is_not_held(monkeypatch):
    _, program, _ = program_of("an op")
    ((parts, reads, calls),) = originals(program)
    name = parts[0].name
    monkeypatch.setattr(sys.modules[contest.__module__], "free_memory", lambda device: (1000, 1000))
    held = contest(name, lambda *tensors: pytest.fail("it ran"), reads, calls, "cpu")
    assert held.ratio is None and not held.lost


@pytest.mark.parametrize("verdict", ["slower", "faster"])
def test_the_file_and_its_report_say_what_was_kept(verdict, tmp_path, monkeypatch):
    def decided(name, kernel, reads, calls, device):
        return Contest(name, Ratio(0.5, 0.4, 0.6) if verdict == "slower" else Ratio(2.0, 1.9, 2.1), verdict)

    monkeypatch.setattr(kept, "contest", decided)
    options = {"overrides": SMALL["softmax"], "device": "cpu", "check": False}
    monkeypatch.setattr(delivery, "_timed", lambda *args: [])
    result = api.optimize_file(FOLDER / "softmax.py", output=tmp_path / "new.py", bench=True, **options)
    assert [entry["verdict"] for entry in result.report["kernels"]] == [verdict]
    text = result.output.read_text()
    line = "Left to PyTorch, which was faster there: softmax." if verdict == "slower" else "Kept by a measurement"
    assert line in text and any(line in told for told in result.summary)
    space = {}
    exec(compile(text, "new.py", "exec"), space)
    x = torch.randn(3, 2051)
    with torch.no_grad():
        assert torch.allclose(space["ModelNew"]()(x), x.softmax(1), atol=1e-7)
    assert hasattr(space["ModelNew"], "kernels") == (verdict == "faster")
    unmeasured = api.optimize_file(FOLDER / "softmax.py", output=tmp_path / "plain.py", bench=False, **options)
    plain = unmeasured.output.read_text()
    assert "Left to PyTorch, which was faster" not in plain and "Kept by a measurement" not in plain


def test_bytes_depend_on_what_was_decided_and_not_on_figures(tmp_path, monkeypatch):
    """The names of what was kept, left, or given to oneDNN are in the file; times, ratios and verdicts are not."""
    monkeypatch.setattr(delivery, "_timed", lambda *args: [])
    options = {"overrides": SMALL["linear_sigmoid_sum"], "device": "cpu", "check": False}

    def written(number, ratio, verdict, products):
        monkeypatch.setattr(kept, "contest", lambda name, *_: Contest(name, ratio, verdict))
        monkeypatch.setattr(drafts, "faster_products", lambda captured: products)
        path = tmp_path / str(number) / "new.py"
        path.parent.mkdir()
        return api.optimize_file(FOLDER / "linear_sigmoid_sum.py", output=path, **options).output.read_text()

    fast = written(1, Ratio(2.0, 1.9, 2.1), "faster", ["linear"])
    assert fast == written(2, Ratio(1.01, 0.9, 1.1), "ambiguous", ["linear"])
    assert "Products left to oneDNN, which was faster than PyTorch's own there: linear." in fast
    assert fast != written(3, Ratio(2.0, 1.9, 2.1), "faster", [])
