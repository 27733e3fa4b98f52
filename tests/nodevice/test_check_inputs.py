"""Generators, redrawn parameters, layouts and sizes."""

import random
import textwrap

import pytest
import torch
from torch import nn

from modelnew.check import sizes
from modelnew.check.cases import Cases
from modelnew.check.generators import GENERATORS, redraw
from modelnew.check.inputs import FileInputs, GivenInputs
from modelnew.check.layouts import LAYOUTS, expanded, laid_out, with_specials
from modelnew.check.literals import ranked
from modelnew.check.resized import Resizer
from modelnew.check.truth import Reference
from modelnew.problem import Problem

BY_NAME = {generator.name: generator for generator in GENERATORS}


def problem(tmp_path, inputs: str, constants: str = "rows = 6", forward: str = "return x") -> Problem:
    path = tmp_path / "reference.py"
    text = f"""
    import torch
    from torch import nn, randn
    {constants}
    class Model(nn.Module):
        def forward(self, x, *rest):
            {forward}
    def get_inputs():
        return [{inputs}]
    def get_init_inputs():
        return []
    """
    path.write_text(textwrap.dedent(text))
    return Problem.load(path)


@pytest.mark.parametrize(
    "inputs",
    [
        "torch.rand(rows, 9)",
        "randn(rows, 9)",
        "torch.empty(rows, 9).uniform_()",
        "torch.rand_like(torch.ones(rows, 9))",
    ],
)
def test_random_functions_are_substituted_however_they_are_called(tmp_path, inputs):
    source = FileInputs(problem(tmp_path, inputs), None)
    (integers,) = source.inputs(BY_NAME["integers"], 1)
    assert set(integers.unique().tolist()) <= set(range(-3, 4)) and integers.unique().numel() > 3
    (one_hot,) = source.inputs(BY_NAME["one-hot"], 1)
    assert bool(((one_hot != 0).sum(1) == 1).all())
    (offset,) = source.inputs(BY_NAME["offset"], 1)
    assert 99 < float(offset.mean()) < 101
    again = source.inputs(BY_NAME["offset"], 1)[0]
    assert torch.equal(again, offset) and not torch.equal(source.inputs(BY_NAME["offset"], 2)[0], offset)


def test_inputs_without_random_numbers_have_no_other_generators(tmp_path):
    source = FileInputs(problem(tmp_path, "torch.arange(6.0)"), None)
    assert source.inputs(BY_NAME["normal"], 1) is None
    assert source.inputs(BY_NAME["shipped"], 1) is not None


def test_what_get_inputs_does_afterwards_still_holds(tmp_path):
    source = FileInputs(problem(tmp_path, "torch.rand(rows, 9).softmax(-1), torch.randint(0, 4, (rows,))"), None)
    probabilities, classes = source.inputs(BY_NAME["wide"], 1)
    assert torch.allclose(probabilities.sum(-1), torch.ones(6))
    assert classes.dtype == torch.int64


def test_redrawn_parameters_are_no_defaults_and_variances_stay_positive():
    norm = nn.BatchNorm2d(50)
    new = redraw(norm.state_dict(), 3)
    assert float((new["weight"] - 1).abs().min()) > 0 and float(new["bias"].abs().min()) > 0
    assert float(new["running_var"].min()) > 0 and float(new["running_mean"].std()) > 0.1
    assert int(new["num_batches_tracked"]) == 0


def test_layouts_keep_the_values():
    x = torch.randn(2, 3, 4, 5)
    found = {name: varied for name, change in LAYOUTS.items() if (varied := laid_out([x], change))}
    assert set(found) == {
        "transposed memory", "rows of a wider tensor", "one element off alignment", "a slice of a longer tensor",
        "every second element", "channels last", "first dims swapped",
    }  # fmt: skip
    for (new,) in found.values():
        assert torch.equal(new, x)
    assert found["one element off alignment"][0].data_ptr() % 16 == 4
    (piece,) = found["a slice of a longer tensor"]
    assert piece.is_contiguous() and piece.storage_offset() > 0 and piece.data_ptr() % 16 == 0
    assert expanded([x], 0)[0].stride()[0] == 0 and expanded([x], -1)[0].stride()[-1] == 0


@pytest.mark.parametrize("name", ["rows of a wider tensor", "a slice of a longer tensor", "every second element"])
def test_what_lies_beside_the_values_is_nan(name):
    (x,) = laid_out([torch.rand(4, 6)], LAYOUTS[name])
    memory = torch.empty(0).set_(x.untyped_storage())
    assert bool(memory.isnan().any()) and int(memory.isfinite().sum()) == x.numel()


def test_whole_numbers_stay_such_as_the_model_takes():
    (x,) = laid_out([torch.randint(3, 9, (4, 6))], LAYOUTS["rows of a wider tensor"])
    assert int(torch.empty(0, dtype=torch.int64).set_(x.untyped_storage()).min()) >= 3


def test_special_values_leave_half_the_rows_alone():
    (x,) = with_specials([torch.randn(10, 30)], 1)
    assert bool(x[:5].isnan().any()) and bool(x.isposinf().any()) and bool(x.isneginf().any())
    assert bool(x[5:].isfinite().all())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(20, 4)

    def forward(self, x, y):
        return self.linear(x) * y

    class One(nn.Linear):
        def __init__(self):
            super().__init__(20, 4)


def test_sizes_change_together_where_they_must():
    resizer = Resizer(Two(), [torch.randn(16, 20), torch.randn(16, 4)], 1)
    ((label, group),) = resizer.groups
    assert label == "batch" and group == [(0, 0), (1, 0)]
    x, y = resizer.at(group, 7)
    assert x.shape == (7, 20) and y.shape == (7, 4)
    assert resizer.at(group, 16) is None and resizer.at(group, 10**7) is None


class Deciding(nn.Module):
    def forward(self, x):
        if x.shape[0] > 100:
            return x
        return x * 2 if x.shape[0] % 12 else x * 3


def test_the_numbers_that_forward_decides_by_are_found():
    assert Resizer(Deciding(), [torch.randn(16, 20)], 1).decisions() == {100, 12}


def test_numbers_that_code_compares_with_come_first():
    text = '''
BLOCK = 128
KERNEL = """for (int i = 0; i < 48; ++i) y[i] = x[i + 96] * 2.5f + 1e3f;"""
def forward(x):
    return x if x.shape[0] > 64 else x + 17
'''
    assert ranked(text) == [{64}, {48}, {128, 17}, {96}]
    assert ranked("no Python at all (") == []


def cases_of(model: nn.Module, text: str, batch: int) -> dict[str, tuple[int, ...]]:
    reference = Reference(lambda dtype: model, device=torch.device("cpu"), dtype=None, seed=0)
    maker = Cases(reference, GivenInputs([torch.randn(batch, 20)]), random.Random(3))
    found = [*maker.all(), *maker.at_boundaries(ranked(text), 12, random.Random(3))]
    assert len({case.name for case in found}) == len(found)
    return {case.name: tuple(case.inputs[0].shape) for case in found}


def test_sizes_around_the_numbers_of_a_source_are_tried():
    found = cases_of(Deciding(), "def forward(x):\n    return x if x.shape[0] > 50 else 2 * x", 16)
    assert {"batch 49", "batch 50", "batch 51", "dim 1 of input 0 = 51"} <= set(found)
    by_elements = cases_of(Two.One(), "def forward(x):\n    return x if x.numel() > 4000 else 2 * x", 16)
    assert {"batch 200", "batch 201"} <= set(by_elements)  # 20 elements each


def test_cases_are_the_same_under_the_same_seed():
    assert cases_of(Deciding(), "x < 99", 16) == cases_of(Deciding(), "x < 99", 16)


def test_constants_are_reduced_until_the_work_fits(tmp_path):
    large = problem(tmp_path, "torch.rand(rows, 512)", "rows = 2**20", "return torch.sigmoid(x) + 1")
    reduced = sizes.reduce(large, "cpu", None, lambda text: None)
    assert reduced.sizes == {} or reduced.sizes["rows"] < 2**20
    plain = problem(tmp_path, "torch.rand(rows, 512)", "rows = 1048576", "return torch.sigmoid(x) + 1")
    reduced = sizes.reduce(plain, "cpu", None, lambda text: None)
    assert reduced.same_parameters and 4 <= reduced.sizes["rows"] <= 400
    assert reduced.sizes["rows"] < reduced.larger["rows"] < 1048576
