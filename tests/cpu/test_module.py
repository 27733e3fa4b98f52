"""An optimised module is the module it was made from: state, modes, devices' casts, and everything its kernels do not cover."""

import copy
import gc
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modelnew


class Net(nn.Module):
    def __init__(self, features=12):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 16), nn.LayerNorm(16))
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x, power=2):
        return F.gelu(self.layers(x)) * self.scale**power


class Mode(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x):
        return self.norm(x).relu()


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = Net()
    return model, modelnew.optimize(model, torch.randn(5, 12))


def launches(module):
    return sum(type(module).kernels.calls.values())


def ran_on_kernels(module, *inputs, **options):
    before = launches(module)
    with torch.no_grad():
        result = module(*inputs, **options)
    return launches(module) > before, result


def test_same_answer_and_same_state(pair):
    model, new = pair
    x = torch.randn(9, 12)
    ran, result = ran_on_kernels(new, x)
    assert ran
    assert torch.allclose(result, model(x), atol=1e-6)
    assert isinstance(new, Net)
    assert list(new.state_dict()) == list(model.state_dict())
    assert new.scale is model.scale


def test_parameters_are_shared(pair):
    model, new = pair
    x = torch.randn(3, 12)
    with torch.no_grad():
        model.scale.mul_(2)
    assert torch.allclose(ran_on_kernels(new, x)[1], model(x), atol=1e-6)
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    new.load_state_dict(state)
    assert torch.allclose(ran_on_kernels(new, x)[1], model(x), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_cast_modules_run_on_kernels_of_that_dtype(dtype):
    model = Net()
    new = modelnew.optimize(model, torch.randn(5, 12)).to(dtype)
    ran, result = ran_on_kernels(new, torch.randn(4, 12).to(dtype))
    assert ran
    assert result.dtype == dtype


def test_copies_and_pickled_weights(pair):
    _, new = pair
    twin = copy.deepcopy(new)
    assert twin.scale is not new.scale
    x = torch.randn(4, 12)
    assert torch.equal(ran_on_kernels(twin, x)[1], ran_on_kernels(new, x)[1])
    twin.load_state_dict(pickle.loads(pickle.dumps(new.state_dict())))
    assert torch.equal(ran_on_kernels(twin, x)[1], ran_on_kernels(new, x)[1])


def test_a_pickled_module_runs_on_kernels_elsewhere(tmp_path):
    model = nn.Sequential(nn.Linear(12, 16), nn.GELU())
    new = modelnew.optimize(model, torch.randn(5, 12))
    x = torch.randn(4, 12)
    torch.save((new, x, ran_on_kernels(new, x)[1]), tmp_path / "saved.pt")
    code = (
        "import sys, torch\n"
        "new, x, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad():\n"
        "    assert torch.equal(new(x), expected)\n"
        "assert sum(type(new).kernels.calls.values()) == 1, 'the original ran'\n"
        "assert isinstance(new, torch.nn.Sequential)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "saved.pt"], check=True, timeout=300)
    assert type(copy.deepcopy(new)) is type(new), "a copy shares the kernels"
    new[0].weight.data.zero_()
    assert not torch.equal(
        pickle.loads(pickle.dumps(new))[0].weight, torch.load(tmp_path / "saved.pt", weights_only=False)[0][0].weight
    )


def test_other_values_of_plain_arguments_run_the_original(pair):
    model, new = pair
    x = torch.randn(4, 12)
    assert ran_on_kernels(new, x, 2)[0]
    ran, result = ran_on_kernels(new, x, power=3)
    assert not ran
    assert torch.equal(result, model(x, power=3))


def test_autograd_runs_the_original_and_gives_its_gradients(pair):
    model, new = pair
    before = launches(new)
    x = torch.randn(4, 12, requires_grad=True)
    new(x).sum().backward()
    assert launches(new) == before
    assert x.grad is not None
    for parameter in model.parameters():
        parameter.grad = None


def test_what_wants_to_see_pytorchs_ops_runs_the_original(pair):
    model, new = pair
    x = torch.randn(4, 12)
    before = launches(new)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(new(x), model(x))
        assert torch.allclose(torch.vmap(new)(x.unsqueeze(0)), model(x), atol=1e-6)
        exported = torch.export.export(new, (x,))
        assert torch.allclose(exported.module()(x), model(x), atol=1e-6)
    assert launches(new) == before


def test_other_ranks_dtypes_and_layouts(pair):
    model, new = pair
    for x in (torch.randn(2, 3, 12), torch.randn(12), torch.randn(12, 5).t(), torch.randn(0, 12), torch.randn(1, 12)):
        assert torch.allclose(ran_on_kernels(new, x)[1], model(x), atol=1e-5)
    with pytest.raises(RuntimeError):
        new(torch.randn(4, 12).double())  # as the original does


def test_a_hook_that_came_later_is_called():
    model = Net()
    new = modelnew.optimize(model, torch.randn(5, 12))
    seen = []
    handle = model.layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(4, 12)
    assert not ran_on_kernels(new, x)[0]
    assert seen
    handle.remove()
    assert ran_on_kernels(new, x)[0]


def test_the_mode_it_was_captured_in():
    """Batch norm trains as it did; in eval mode the original runs."""
    model = Mode()
    new = modelnew.optimize(model, torch.randn(8, 12))
    twin = copy.deepcopy(model)
    x = torch.randn(8, 12)
    ran, result = ran_on_kernels(new, x)
    assert ran
    assert torch.allclose(result, twin(x), atol=1e-6)
    assert torch.allclose(new.norm.running_var, twin.norm.running_var)
    assert int(new.norm.num_batches_tracked) == 1
    new.eval()
    ran, result = ran_on_kernels(new, x)
    assert not ran
    assert torch.allclose(result, twin.eval()(x), atol=1e-6)


def test_structured_arguments_and_results():
    class Nested(nn.Module):
        def forward(self, batch, pair):
            left, right = pair
            return {"sum": (batch["x"] + left).relu(), "rest": [right.sigmoid(), None, 3]}

    x, y, z = torch.randn(4, 5), torch.randn(4, 5), torch.randn(7)
    new = modelnew.optimize(Nested(), {"x": x}, (y, z))
    ran, result = ran_on_kernels(new, {"x": y}, (x, z))
    assert ran
    expected = Nested()({"x": y}, (x, z))
    assert torch.equal(result["sum"], expected["sum"])
    assert torch.allclose(result["rest"][0], expected["rest"][0])
    assert result["rest"][1:] == [None, 3]
    with pytest.raises(TypeError):
        new({"y": y}, None)


def test_an_input_changed_in_place_is_changed():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.mul_(2).relu() + 1

    x = torch.randn(20)
    mine, theirs = x.clone(), x.clone()
    new = modelnew.optimize(InPlace(), x.clone())
    ran, result = ran_on_kernels(new, mine)
    assert ran
    assert torch.equal(result, InPlace()(theirs))
    assert torch.equal(mine, theirs)


def test_branches_on_size_keep_their_way():
    """torch.export assumes that an open size is neither 0 nor 1: the guard does not."""

    class Branches(nn.Module):
        def forward(self, x):
            return x.sigmoid() if x.shape[0] == 1 else x.tanh() * 2

    new = modelnew.optimize(Branches(), torch.randn(4, 5))
    one, four = torch.randn(1, 5), torch.randn(6, 5)
    assert torch.allclose(ran_on_kernels(new, one)[1], one.sigmoid())
    ran, result = ran_on_kernels(new, four)
    assert ran
    assert torch.allclose(result, four.tanh() * 2, atol=1e-6)


def test_branches_on_rank_and_dtype_keep_their_way():
    class Branches(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float16:
                return x * 3
            return x.sigmoid() if x.dim() == 2 else x.tanh()

    new = modelnew.optimize(Branches(), torch.randn(4, 5))
    assert torch.equal(ran_on_kernels(new, torch.ones(2, 2).half())[1], torch.full((2, 2), 3.0).half())
    cube = torch.randn(2, 3, 4)
    assert torch.allclose(ran_on_kernels(new, cube)[1], cube.tanh())


def test_an_elementwise_model_takes_any_shape():
    class Chain(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x) * 2 - x

    new = modelnew.optimize(Chain(), torch.randn(4, 5))
    base = torch.randn(6, 7, 8, 9)
    cases = [
        torch.tensor(0.5),
        torch.randn(3),
        torch.randn(0, 4),
        base,
        base.permute(3, 0, 2, 1),
        base[:, ::2, 1:],
        base[:1].expand(5, 7, 8, 9),
    ]
    cases.append(torch.randn(101)[1:])
    for x in cases:
        ran, result = ran_on_kernels(new, x)
        expected = Chain()(x)
        assert ran == bool(x.numel())  # nothing to compute: a branch on that is the original's own
        assert torch.allclose(result, expected, atol=1e-6)
        assert result.stride() == expected.stride()


def test_results_are_fresh_memory():
    new = modelnew.optimize(Net(), torch.randn(5, 12))
    x = torch.randn(4, 12)
    with torch.no_grad():
        first = new(x)
        kept = first.clone()
        second = new(torch.randn(4, 12))
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, kept)


def test_nothing_is_kept_alive():
    """Plans remember sizes, not tensors."""
    new = modelnew.optimize(Net(), torch.randn(5, 12))
    x = torch.randn(4, 12)
    with torch.no_grad():
        new(x)
    alive = sum(isinstance(o, torch.Tensor) and o.shape == (4, 12) for o in gc.get_objects())
    del x
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert sum(isinstance(o, torch.Tensor) and o.shape == (4, 12) for o in gc.get_objects()) == alive - 1
