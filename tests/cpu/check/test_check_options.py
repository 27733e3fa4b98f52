"""Precision, gradients, sizes, what a run could not see, and live modules."""

import copy
import random
import textwrap
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from modelnew.check import check_file, check_files, check_module, junit
from modelnew.errors import CheckError, UsageError
from modelnew.problem import Problem

REFERENCE = """
import torch
import torch.nn as nn
rows = 24
width = 48
class {name}(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = nn.Linear(width, width)
    def forward(self, x):
{forward}
def get_inputs():
    return [torch.rand(rows, width)]
def get_init_inputs():
    return [width]
"""


def write(path, name: str, forward: str):
    path.write_text(REFERENCE.format(name=name, forward=textwrap.indent(textwrap.dedent(forward).strip(), " " * 8)))
    return path


@pytest.fixture
def files(tmp_path):
    """(problem, function that writes a candidate)."""

    def make(reference: str, overrides=None):
        problem = Problem.load(write(tmp_path / "reference.py", "Model", reference), overrides)
        return problem, lambda forward: write(tmp_path / f"new{abs(hash(forward))}.py", "ModelNew", forward)

    return make


LINEAR = "return torch.tanh(self.linear(x))"
TF32 = """
def r(t): return ((t.contiguous().view(torch.int32) + 0x1000) & ~0x1fff).view(torch.float32)
return torch.tanh(r(x) @ r(self.linear.weight).t() + self.linear.bias)
"""
BF16 = "return torch.tanh((x.bfloat16() @ self.linear.weight.t().bfloat16()).float() + self.linear.bias)"


def test_a_lower_precision_is_named_and_accepted_only_when_asked_for(files):
    problem, new = files(LINEAR)
    candidates = [new(LINEAR), new(TF32), new(BF16)]
    strict = check_files(problem, candidates, seed=3)
    assert [report.accepted for report in strict] == [True, False, False]
    assert [report.accuracy_class for report in strict] == ["fp32", "TF32-like", "bf16-like"]
    assert strict[1].headline.startswith("rejected: TF32-like precision, ")
    open_to_tf32 = check_files(problem, candidates, seed=3, precision="tf32")
    assert [report.accepted for report in open_to_tf32] == [True, True, False]
    assert "(TF32-like precision)" in open_to_tf32[1].headline
    with pytest.raises(UsageError, match="no precision 'fp8'"):
        check_file(problem, candidates[0], precision="fp8")


def test_gradients_are_compared_when_asked_for(files):
    problem, new = files(LINEAR)
    detached = new("return torch.tanh(self.linear(x)).detach()")
    wrong = new(
        "y = torch.tanh(self.linear(x))\nif len(x) == 7 and y.requires_grad: y.register_hook(lambda g: 2 * g)\nreturn y"
    )
    right = new("return torch.tanh(x @ self.linear.weight.t() + self.linear.bias)")
    assert all(report.accepted for report in check_files(problem, [detached, wrong, right], seed=3))
    found = check_files(problem, [detached, wrong, right], seed=3, gradients=True)
    assert [report.accepted for report in found] == [False, False, True]
    assert "for inference only" in found[0].headline
    assert "wrong for gradients, batch 7" in found[1].headline


def test_ops_that_no_case_misses_are_named(files):
    problem, new = files("return torch.softmax(self.linear(x) + 3, -1)")
    report = check_file(problem, new("return torch.softmax(self.linear(x), -1)"), seed=1)
    assert report.accepted is True
    assert report.ops_unseen == ("add (op 1 of 2)",)
    assert report.ops_left_out == 2


def test_large_sizes_are_reduced_and_one_case_is_larger(files):
    problem, new = files("return torch.sigmoid(x) * 2", {"rows": 200_000})
    good, bad = new("return 2 * torch.sigmoid(x)"), new("y = 2 * torch.sigmoid(x)\ny[20_000:] += 1e-3\nreturn y")
    right, wrong = check_files(problem, [good, bad], seed=1)
    assert right.accepted is True and right.sizes["rows"] < 10_000
    assert right.notes[0] == f"judged at rows={right.sizes['rows']}"
    assert wrong.headline.startswith("rejected: wrong for larger sizes (row ")


def test_kernels_made_for_the_full_parameters_are_seen(files):
    problem, new = files(LINEAR, {"width": 2048})
    special = "y = torch.tanh(self.linear(x))\nreturn y * 1.001 if x.shape[1] == 2048 else y"
    right, wrong = check_files(problem, [new(LINEAR), new(special)], seed=1)
    assert right.accepted is True
    assert "changes the shapes of the parameters" in right.notes[0]
    assert wrong.headline.startswith("rejected: wrong for larger sizes")


def test_junit_has_a_suite_per_candidate(files):
    problem, new = files(LINEAR)
    found = check_files(problem, [new(LINEAR), new("return self.linear(x)")], seed=1)
    suites = list(ElementTree.fromstring(junit(found)))
    assert [suite.get("failures") == "0" for suite in suites] == [True, False]
    assert all(int(suite.get("tests")) == len(report.cases) for suite, report in zip(suites, found, strict=True))


class Reordered(nn.Module):
    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        linear, norm = self.inner[0], self.inner[1]
        return torch.relu(norm(x @ linear.weight.t() + linear.bias))

    def state_dict(self, *args, **kwargs):
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        return self.inner.load_state_dict(*args, **kwargs)


def test_live_modules_that_share_parameters_come_back_as_they_were():
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU())
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(9, 12)
    random_state = torch.get_rng_state()
    report = check_module(model, Reordered(model), [x], seed=2)
    assert report.accepted is True, report.headline
    assert "other mode" in {case.name for case in report.cases}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not model[1].training and torch.equal(random_state, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_live_modules_of_other_dtypes(dtype):
    model = nn.Sequential(nn.Linear(33, 20), nn.LayerNorm(20), nn.GELU()).to(dtype)
    x = torch.randn(17, 33).to(dtype)
    assert check_module(model, copy.deepcopy(model), [x], seed=2).accepted is True
    wrong = nn.Sequential(*copy.deepcopy(model)[:2], nn.GELU(approximate="tanh")) if dtype == torch.float64 else None
    if wrong is not None:
        assert check_module(model, wrong, [x], seed=2).accepted is False


def test_a_model_that_does_not_run_is_an_error():
    with pytest.raises(CheckError, match="the model raises"):
        check_module(nn.Linear(3, 4), nn.Linear(3, 4), [torch.randn(2, 5)])


def test_the_files_own_sizes_are_judged_in_slices(files):
    problem, new = files("return torch.sigmoid(x) * 2", {"rows": 120_000})
    good, bad = new("return 2 * torch.sigmoid(x)"), new("y = 2 * torch.sigmoid(x)\ny[119_998:] *= 1.001\nreturn y")
    right, wrong = check_files(problem, [good, bad], seed=1)
    assert right.accepted is True and "whole sizes" in {case.name for case in right.cases}, right.notes
    assert "one at the file's own sizes, in slices of the batch" in right.notes
    assert wrong.headline.startswith("rejected: wrong for whole sizes (row 11999")  # one of the last two


@pytest.mark.parametrize("forward", ["return x - x.mean(0)", "return (x * 2).sum()"])
def test_rows_that_depend_on_each_other_are_not_judged_by_themselves(files, forward):
    problem, new = files(forward, {"rows": 120_000})
    report = check_file(problem, new(forward), seed=1)
    assert report.accepted is True
    assert any(note.startswith("none at the file's own sizes: ") for note in report.notes)


def test_a_reference_that_looks_at_strides_has_a_truth_for_each(files):
    forward = "y = self.linear(x)\nreturn y.tanh() if x.is_contiguous() else y.sigmoid()"
    problem, new = files(forward)
    itself, blind = check_files(problem, [new(forward), new("return self.linear(x).tanh()")], seed=1)
    assert itself.accepted is True, itself.headline
    assert blind.accepted is False and blind.headline.startswith("rejected: wrong for transposed memory")


def test_a_seed_repeats_the_sizes_that_were_drawn(files):
    problem, new = files(LINEAR)
    path = new(LINEAR + "  # 100 < 200 < 300 < 400 < 500")
    names = [[case.name for case in check_file(problem, path, seed=seed).cases] for seed in (5, 5, 6)]
    assert names[0] == names[1] != names[2]


class Limited(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y * 1.01 if x.shape[0] > 70 else y


def test_a_live_candidates_source_is_looked_at_too():
    model = nn.Linear(12, 8)
    wrong = Limited(12, 8)
    report = check_module(model, wrong, [torch.randn(9, 12)], seed=2)
    assert report.accepted is False and "wrong for batch " in report.headline
    assert {"batch 70", "batch 71"} <= {case.name for case in report.cases}


def test_a_reference_that_looks_at_grad_mode_is_no_fault_of_its_copy(files):
    problem, new = files("return torch.tanh(self.linear(x)) * (2 if torch.is_grad_enabled() else 1)")
    report = check_files(problem, [new("return torch.tanh(self.linear(x)) * (2 if torch.is_grad_enabled() else 1)")])[0]
    assert report.accepted, report.headline
    assert "inference mode" in [case.name for case in report.cases]
    assert "recorded by autograd" not in [case.name for case in report.cases]


def test_a_reference_that_writes_to_its_inputs_is_given_the_same_each_time(files):
    problem, new = files("return torch.tanh(self.linear(x.mul_(3)))")
    report = check_files(problem, [new("return torch.tanh(self.linear(x.mul_(3)))")])[0]
    assert report.accepted, report.headline


class Viewed(nn.Module):
    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own, self.buffer = own, torch.empty(4, 15)

    def forward(self, x):
        if self.own and x.shape == (4, 3, 5):
            return x.sigmoid(), self.buffer.copy_(x.flatten(1))
        return x.sigmoid(), x.flatten(1)


@pytest.mark.parametrize("own, accepted", [(False, True), (True, False)])
def test_a_view_of_an_input_may_lie_where_the_last_one_lay(own, accepted):
    report = check_module(Viewed(False), Viewed(own), [torch.randn(4, 3, 5)], seed=3)
    assert report.accepted is accepted, report.headline


class Counting(nn.Module):
    def __init__(self, step: float) -> None:
        super().__init__()
        self.linear, self.step = nn.Linear(12, 8), step
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        self.n.add_(self.step)
        return torch.sigmoid(self.linear(x)) * self.n.round()


@pytest.mark.parametrize("step, accepted", [(1.0, True), (1.0001, False)])
def test_a_state_that_no_input_moves_is_compared_all_the_same(step, accepted):
    report = check_module(Counting(1.0), Counting(step), [torch.randn(9, 12)], seed=2)
    assert report.accepted is accepted, report.headline
    assert accepted or {case.output for case in report.cases if case.outcome == "rejected"} == {"state n"}


class Doing(nn.Module):
    def __init__(self, act) -> None:
        super().__init__()
        self.act = act

    def forward(self, x):
        return self.act(x)


def last(x):
    return x.sigmoid().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("act", "other"),
    [
        (torch.sigmoid, last),  # laid out alike, but for the strides of no elements
        (lambda x: torch.complex(x, x * 2), lambda x: torch.complex(x, x + x)),
        (lambda x: x.tanh().numpy(), lambda x: torch.tanh(x).numpy()),
    ],
    ids=["channels last", "complex", "numpy"],
)
def test_outputs_of_unusual_kinds_are_judged(act, other):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    report = check_module(Doing(act), Doing(other), [x], seed=2)
    assert report.accepted is True, report.headline
    wrong = check_module(Doing(act), Doing(lambda x: other(x * 1.0001)), [x], seed=2)
    assert wrong.accepted is False and "wrong for shipped" in wrong.headline


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda x: x * random.random(), "the reference answers differently to the same inputs"),
        (lambda x: x[:0], "the reference's output is empty"),
    ],
)
def test_what_cannot_be_judged_is_told(act, why):
    report = check_module(Doing(act), Doing(act), [torch.randn(9, 4)], seed=2)
    assert report.accepted is None and why in report.headline


def test_inputs_that_cannot_be_handed_over_are_told(tmp_path):
    made = REFERENCE.replace("torch.rand(rows, width)", "torch.rand(rows, width, dtype=torch.complex64)")
    for name in ("Model", "ModelNew"):
        (tmp_path / f"{name}.py").write_text(made.format(name=name, forward=" " * 8 + "return x.abs()"))
    with pytest.raises(CheckError, match="a tensor of complex64"):
        check_file(Problem.load(tmp_path / "Model.py"), tmp_path / "ModelNew.py", seed=1)


MASKED = """
import torch
batch, seq = 40, 64
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.ones(seq, seq).triu(1).bool())
    def forward(self, x):
        return x.masked_fill(self.mask, 0.0).softmax(-1)
def get_inputs():
    return [torch.rand(batch, seq, seq)]
def get_init_inputs():
    return []
"""


@pytest.mark.parametrize("given", [{}, {"seq": 16}])
def test_what_the_model_reads_of_its_file_is_as_large_as_the_candidates(tmp_path, given):
    """Both files have a `seq` of their own: it is not reduced behind the candidate's back, and `--set` changes both."""
    (tmp_path / "reference.py").write_text(MASKED)
    (tmp_path / "new.py").write_text(MASKED.replace("Model(", "ModelNew("))
    report = check_file(Problem.load(tmp_path / "reference.py", given), tmp_path / "new.py", seed=1)
    assert report.accepted is True, report.headline
    assert set(report.sizes) == ({"batch"} if not given else set())  # small enough then
