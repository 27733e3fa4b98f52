"""Generators, redrawn parameters, layouts and sizes."""

import textwrap

import pytest
import torch
from torch import nn

from modelnew.check import sizes
from modelnew.check.cases import expanded, layouts, resized, with_specials
from modelnew.check.generators import GENERATORS, redraw
from modelnew.check.inputs import FileInputs
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
    found = dict(layouts([x]))
    assert set(found) == {
        "transposed memory", "rows of a wider tensor", "one element off alignment", "every second element", "channels last",
    }  # fmt: skip
    for (new,) in found.values():
        assert torch.equal(new, x)
    assert found["one element off alignment"][0].data_ptr() % 16 == 4
    assert expanded([x])[0].stride()[0] == 0


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


def test_sizes_change_together_where_they_must():
    found = dict(resized(Two(), [torch.randn(16, 20), torch.randn(16, 4)], 1))
    assert {"batch 1", "batch 7", "batch 31", "batch 33"} <= set(found)
    assert all(x.shape[0] == y.shape[0] for name, (x, y) in found.items() if name.startswith("batch"))
    assert all(x.shape[1] == 20 for x, _ in found.values())


def test_constants_are_reduced_until_the_work_fits(tmp_path):
    large = problem(tmp_path, "torch.rand(rows, 512)", "rows = 2**20", "return torch.sigmoid(x) + 1")
    reduced = sizes.reduce(large, "cpu", None, lambda text: None)
    assert reduced.sizes == {} or reduced.sizes["rows"] < 2**20
    plain = problem(tmp_path, "torch.rand(rows, 512)", "rows = 1048576", "return torch.sigmoid(x) + 1")
    reduced = sizes.reduce(plain, "cpu", None, lambda text: None)
    assert reduced.same_parameters and 4 <= reduced.sizes["rows"] <= 400
    assert reduced.sizes["rows"] < reduced.larger["rows"] < 1048576
