"""The examples: what they compute, at which sizes."""

from pathlib import Path

import pytest
import torch

from modelnew.problem import Problem

EXAMPLES = Path(__file__).parents[2] / "examples"

# file: shapes of the inputs, shape of the output, a size at which it runs in no time
SIZES = {
    "sigmoid": ([(4096, 393216)], (4096, 393216), {"batch_size": 3, "features": 50}),
    "hardsigmoid": ([(4096, 393216)], (4096, 393216), {"batch_size": 3, "features": 50}),
    "hardsigmoid_slope02": ([(4096, 393216)], (4096, 393216), {"batch_size": 3, "features": 50}),
    "softmax": ([(4096, 393216)], (4096, 393216), {"batch_size": 3, "features": 50}),
    "linear_sigmoid_sum": ([(128, 32768)], (128, 1), {"batch_size": 3, "in_features": 50, "out_features": 20}),
    "layernorm_gelu": ([(65536, 1024)], (65536, 1024), {"tokens": 3, "width": 50}),
    "swiglu_mlp": ([(4, 2048, 4096)], (4, 2048, 4096), {"batch_size": 2, "tokens": 3, "width": 8, "hidden": 12}),
    "conv_bn_hardswish": (
        [(128, 64, 128, 128)],
        (128, 64, 128, 128),
        {"batch_size": 2, "in_channels": 3, "out_channels": 4, "height": 5, "width": 6},
    ),
    "cross_entropy": ([(8192, 50257), (8192,)], (), {"tokens": 3, "vocabulary": 50}),
}


def test_the_list_is_the_folder():
    assert sorted(SIZES) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SIZES)
def test_full_size_shapes_without_the_memory(name):
    inputs, output, _ = SIZES[name]
    fake = Problem.load(EXAMPLES / f"{name}.py").abstract()
    assert [tuple(tensor.shape) for tensor in fake.inputs] == inputs
    assert fake.inputs[0].dtype == torch.float32
    with fake.mode:
        assert tuple(fake.model(*fake.inputs).shape) == output


@pytest.mark.parametrize("name", SIZES)
def test_every_size_can_be_set_and_runs(name):
    smaller = SIZES[name][2]
    problem = Problem.load(EXAMPLES / f"{name}.py", smaller)
    assert set(problem.constants) == set(smaller), "every constant has a small value here"
    result = problem.model()(*problem.inputs())
    assert torch.isfinite(result).all()


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
        ("hardsigmoid", lambda x: torch.clamp(x + 3, 0, 6) / 6),
        ("hardsigmoid_slope02", lambda x: torch.clamp(0.2 * x + 0.5, 0, 1)),
    ],
)
def test_the_activations_are_what_they_are_called(name, formula):
    problem = Problem.load(EXAMPLES / f"{name}.py", SIZES[name][2])
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    torch.testing.assert_close(problem.model()(x), formula(x), rtol=1e-15, atol=1e-16)
    shipped = problem.inputs()[0]
    assert shipped.min() >= 0
    assert shipped.max() < 1


def test_the_two_hard_sigmoids_differ():
    first, second = (Problem.load(EXAMPLES / f"{name}.py").model() for name in ("hardsigmoid", "hardsigmoid_slope02"))
    x = torch.linspace(-6, 6, 1001)
    assert (first(x) - second(x)).abs().max() > 0.05


def test_linear_sigmoid_sum_gives_a_number_per_row():
    problem = Problem.load(EXAMPLES / "linear_sigmoid_sum.py", SIZES["linear_sigmoid_sum"][2])
    model, (x,) = problem.model(), problem.inputs()
    expected = torch.sigmoid(x @ model.linear.weight.T + model.linear.bias).sum(1, keepdim=True)
    torch.testing.assert_close(model(x), expected)
    assert list(model.state_dict()) == ["linear.weight", "linear.bias"]


def test_a_convolution_example_trains_as_a_new_module_does():
    problem = Problem.load(EXAMPLES / "conv_bn_hardswish.py", SIZES["conv_bn_hardswish"][2])
    model = problem.model()
    before = model.norm.running_mean.clone()
    model(*problem.inputs())
    assert not torch.equal(model.norm.running_mean, before)
