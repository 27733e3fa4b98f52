"""The file by itself: run where modelnew is not installed, edited by hand, constructed otherwise."""

import json
import os
import subprocess
import sys

import pytest
import torch

import modelnew
from modelnew import api
from tests.examples import SMALL, load, write

ALONE = """
import json, runpy, sys, torch
sys.modules["modelnew"] = None  # importing it fails
before = "sympy" in sys.modules
space = runpy.run_path(sys.argv[1])
torch.manual_seed(0); model = space["Model"](*space["get_init_inputs"]())
torch.manual_seed(0); new = space["ModelNew"](*space["get_init_inputs"]())
same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), new.state_dict().values()))
with torch.no_grad():
    inputs = space["get_inputs"]()
    made = new(*inputs)
    slow = "sympy" in sys.modules and not before
    model.double()
    error = (made.double() - model(*[x.double() if x.is_floating_point() else x for x in inputs])).abs().max().item()
print(json.dumps({"same": same, "error": error, "calls": sum(new.kernels.calls.values()), "slow": slow}))
"""


@pytest.mark.parametrize("example", SMALL)
def test_runs_without_modelnew(example, tmp_path):
    path = write(example, tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["same"], "a seed gives both the same weights"
    assert found["calls"] >= 1
    assert found["error"] < 1e-4
    assert not found["slow"], "a first call must not import SymPy: it takes longer than loading the kernels"


def test_the_two_hardsigmoids_are_told_apart(tmp_path):
    """relu6(x + 3) / 6 and clamp(0.2 x + 0.5, 0, 1): at 1 they are 0.6667 and 0.7."""
    ones = torch.ones(2, 3)
    with torch.no_grad():
        sixth = load(write("hardsigmoid", tmp_path))["ModelNew"]()(ones)
        fifth = load(write("hardsigmoid_slope02", tmp_path))["ModelNew"]()(ones)
    assert torch.allclose(sixth, torch.full((2, 3), 4 / 6))
    assert torch.allclose(fifth, torch.full((2, 3), 0.7))


def test_same_bytes_every_time(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert write("softmax", tmp_path / "a").read_bytes() == write("softmax", tmp_path / "b").read_bytes()


def test_a_kernel_changed_by_hand_is_what_runs(tmp_path):
    path = write("sigmoid", tmp_path)
    path.write_text(
        path.read_text().replace(
            "return mn::values(mn::sigmoid<T>(x));", "return mn::values(mn::sigmoid<T>(x) + C(1));"
        )
    )
    new = load(path)["ModelNew"]()
    x = torch.randn(10)
    with torch.no_grad():
        assert torch.allclose(new(x), torch.sigmoid(x) + 1)


def test_a_kernel_that_does_not_compile_says_where(tmp_path):
    path = write("sigmoid", tmp_path)
    path.write_text(path.read_text().replace("mn::sigmoid<T>(x)", "mn::sigmiod(x)"))
    with torch.no_grad(), pytest.raises(RuntimeError, match="sigmiod"):
        load(path)["ModelNew"]()(torch.randn(10))


def test_other_constructor_arguments_run_the_original(tmp_path):
    module = load(write("linear_sigmoid_sum", tmp_path))
    torch.manual_seed(0)
    new = module["ModelNew"](50, 60)
    assert not new.covered
    x = torch.randn(3, 50)
    with torch.no_grad():
        assert torch.allclose(new(x), torch.sigmoid(new.linear(x)).sum(1, keepdim=True), rtol=1e-5)
    assert sum(new.kernels.calls.values()) == 0


def test_settings_are_carried(tmp_path):
    text = write("sigmoid", tmp_path, features=77).read_text()
    assert "features = 77" in text
    assert "--set features=77" in text


def test_a_reference_with_names_like_ours(tmp_path):
    reference = tmp_path / "clash.py"
    reference.write_text(
        "from __future__ import annotations\nimport torch\nfrom time import time\n"
        "KERNELS_OF = 3\ndef _build(x): return x * 2\nclass _Kernels: pass\ndef _Guard(x): return x + 1\nos = re = 5\n"
        "class Model(torch.nn.Module):\n    def forward(self, x):\n        time()\n        return _Guard(_build(x)).relu() * os\n"
        "def get_inputs(): return [torch.randn(4, 5)]\ndef get_init_inputs(): return []\n"
    )
    result = api.optimize_file(reference, output=tmp_path / "out.py", device="cpu", check=False, bench=False)
    new = load(result.output)["ModelNew"]()
    x = torch.randn(3, 5)
    with torch.no_grad():
        assert torch.allclose(new(x), (x * 2 + 1).relu() * 5)
    assert sum(new.kernels.calls.values()) == 1


def test_version_and_mark(tmp_path):
    head = write("sigmoid", tmp_path).read_text()[:500]
    assert f"Written by modelnew {modelnew.__version__}" in head
