"""Reference files: what they may be, and what a user is told when they are not."""

import sys

import pytest
import torch

from modelnew.errors import MemoryShortError, ModelnewError, ReferenceFileError, UnsupportedError
from modelnew.problem import Problem

GOOD = """
import torch
from torch import nn
rows, width = 8, 16

class Model(nn.Module):
    def __init__(self, width, bias=True):
        super().__init__()
        self.linear = nn.Linear(width, width, bias=bias)
        self.tied = self.linear
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        return torch.sigmoid(self.norm(self.linear(x))).sum(1, keepdim=True)

def get_inputs():
    return [torch.rand(rows, width)]

def get_init_inputs():
    return [width]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="ref.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def changed(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_seed_gives_the_same_model_and_inputs_as_pytorch_does(write):
    problem = Problem.load(write(GOOD), {"rows": "3"})
    torch.manual_seed(5)
    expected = torch.rand(3, 16)
    assert torch.equal(problem.inputs(seed=5)[0], expected)
    torch.manual_seed(7)
    assert torch.equal(problem.model(seed=7).linear.weight, torch.nn.Linear(16, 16).weight)
    assert "rows, width = 3, 16" in problem.source
    assert problem.overrides == {"rows": 3}


def test_the_callers_random_state_is_left_alone(write):
    problem = Problem.load(write(GOOD))
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    problem.model()
    problem.inputs(seed=3)
    assert torch.equal(torch.rand(4), expected)


def test_the_model_trains_and_is_cast_with_sharing_kept(write):
    model = Problem.load(write(GOOD)).model(dtype="fp16")
    assert model.training
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.steps.dtype == torch.int64, "integer buffers keep their dtype"
    assert model.tied.weight is model.linear.weight
    assert len(list(model.parameters())) == 4


def test_only_floating_inputs_are_cast(write):
    text = changed("[torch.rand(rows, width)]", "[{'x': torch.rand(2)}, torch.arange(3), 2.5, None]")
    inputs = Problem.load(write(text)).inputs(dtype=torch.bfloat16)
    assert inputs[0]["x"].dtype == torch.bfloat16
    assert inputs[1].dtype == torch.int64
    assert inputs[2:] == [2.5, None]


@pytest.mark.parametrize(
    "returned",
    ["[width]", "(width, False)", "{'width': width}", "[[width], {'bias': False}]", "[(), {'width': width}]"],
)
def test_constructor_arguments_may_be_a_list_keywords_or_both(write, returned):
    model = Problem.load(write(changed("return [width]", f"return {returned}"))).model()
    assert (model.linear.bias is None) == ("False" in returned)


def test_fakes_describe_a_model_that_would_not_fit(write):
    problem = Problem.load(write(GOOD), {"rows": 2**30, "width": 2**16})
    fake = problem.abstract(dtype="fp16")
    assert fake.inputs[0].shape == (2**30, 2**16)
    assert fake.inputs[0].dtype == fake.model.linear.weight.dtype == torch.float16
    assert fake.model.training
    assert fake.model.tied.weight is fake.model.linear.weight
    with fake.mode:
        assert fake.model(*fake.inputs).shape == (2**30, 1)


def test_fakes_can_be_exported_with_dynamic_sizes(write):
    fake = Problem.load(write(GOOD)).abstract()
    rows = torch.export.Dim("rows")
    program = torch.export.export(fake.model, tuple(fake.inputs), dynamic_shapes=({0: rows},))
    assert "sigmoid" in str(program.graph)


@pytest.mark.parametrize(
    "data",
    ["torch.tensor(torch.rand(rows, width).tolist())", "torch.rand(rows, width) * torch.rand(1).item()"],
)
def test_inputs_that_need_real_data_become_fakes_too(write, data):
    problem = Problem.load(write(changed("torch.rand(rows, width)", data)))
    fake = problem.abstract()
    assert type(fake.inputs[0]).__name__ == "FakeTensor"
    assert fake.inputs[0].shape == (8, 16)


def test_a_model_that_needs_real_data_becomes_a_fake_too(write):
    text = changed("        self.tied", "        self.scale = torch.rand(3).tolist()\n        self.tied")
    fake = Problem.load(write(text)).abstract(dtype="fp64")
    assert type(fake.model.linear.weight.data).__name__ == "FakeTensor"
    assert fake.model.linear.weight.dtype == torch.float64
    assert fake.model.tied.weight is fake.model.linear.weight


def test_a_plain_tensor_attribute_is_no_obstacle(write):
    text = changed("        self.tied", "        self.scale = torch.tensor([2.0])\n        self.tied")
    text = text.replace("self.linear(x)", "self.linear(x * self.scale)")
    assert Problem.load(write(text)).footprint().outputs == 8 * 4


def test_the_footprint_counts_each_storage_while_it_lives(write):
    text = """
import torch
class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1000))
        self.view = torch.nn.Parameter(self.weight.data.view(10, 100))
    def forward(self, x):
        for _ in range(50):
            x = torch.relu(x + 1)  # the old x is freed as the new one comes
        return x.view(-1)
def get_inputs():
    x = torch.rand(250000)
    return [x, ] if False else [x]
def get_init_inputs():
    return []
"""
    footprint = Problem.load(write(text)).footprint()
    assert footprint.inputs == footprint.outputs == 10**6
    # the input, x + 1 and its relu: at most three live at a time besides the result of the round before
    assert 3 * 10**6 <= footprint.peak - footprint.parameters <= 4 * 10**6
    assert footprint.parameters in (4000, 8000)
    assert 0 < footprint.free <= footprint.total


def test_what_would_fit_is_said(write):
    problem = Problem.load(write(GOOD), {"rows": 2**20, "width": 2**10})
    need = problem.footprint().peak
    free = problem.footprint().free
    problem.require_memory(free // 2, "optimising")
    with pytest.raises(MemoryShortError) as caught:
        problem.require_memory(6 * free, "optimising")
    message = str(caught.value)
    assert "optimising" in message
    assert "--set rows=131072 or --set width=128" in message
    smaller = problem.load(problem.path, {**problem.overrides, "rows": 131072}).footprint().peak
    assert smaller * 6 * free <= free * need, "what is proposed must fit"


def test_a_reference_with_no_constants_gets_no_empty_proposal(write):
    problem = Problem.load(write(GOOD.replace("rows, width = 8, 16", "rows, width = sorted([8, 16])")))
    with pytest.raises(MemoryShortError, match="No single constant"):
        problem.require_memory(2**60, "optimising")


BROKEN = {
    "syntax": ("def f(:\n", "syntax error", ":1"),
    "no model": (changed("class Model(", "class Net("), "defines no Model", "Add: class Model"),
    "no inputs": (changed("def get_inputs", "def inputs"), "defines no get_inputs", "Add: def get_inputs"),
    "no init inputs": (changed("def get_init_inputs", "def i"), "defines no get_init_inputs", "return []"),
    "model is a function": (GOOD + "Model = len\n", "Model is no torch.nn.Module", "class Model"),
    "inputs is a list": (GOOD + "get_inputs = [1]\n", "get_inputs is no function", "def get_inputs"),
    "raises": (changed("rows, width = 8, 16", "rows, width = 8, 16\n1 / 0"), "ZeroDivisionError", ":5"),
    "exits": (GOOD + "import sys; sys.exit(0)\n", "sys.exit", '__name__ == "__main__"'),
    "import": ("import no_such_thing\n", "ModuleNotFoundError", "Install no_such_thing"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_does_not_load_is_told_why_and_where(write, case):
    text, problem, more = BROKEN[case]
    with pytest.raises(ReferenceFileError) as caught:
        Problem.load(write(text))
    message = str(caught.value)
    assert problem in message
    assert more in message
    assert "ref.py" in message


DATA = "torch.rand(rows, width)"
BROKEN_USE = {
    "constructor": (changed("return [width]", "return [width, 1, 2, 3]"), "does not fit Model(width, bias=True)", ":7"),
    "constructor returns": (changed("return [width]", "return width"), "returns an int, not a list", ":20"),
    "model raises": (changed("        self.tied", "        self.x.y = 1\n        self.tied"), "AttributeError", ":10"),
    "inputs raise": (changed(DATA, "torch.rand(rows, -1)"), "get_inputs() raises RuntimeError", ":18"),
    "inputs return": (changed(f"[{DATA}]", DATA), "returns a Tensor, not a list", ":17"),
    "too many inputs": (changed("rand(rows, width)]", "rand(2), 3]"), "does not fit forward(x)", "[Tensor (2,), 3]"),
    "shapes": (changed("torch.rand(rows, width)", "torch.rand(rows, 5)"), "forward() raises", ":15"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_USE)
def test_a_file_that_does_not_run_is_told_why_and_where(write, case):
    text, problem, more = BROKEN_USE[case]
    loaded = Problem.load(write(text))
    with pytest.raises(ReferenceFileError) as caught:
        loaded.footprint()
    message = str(caught.value)
    assert problem in message
    assert more in message


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("use", [lambda p: p.abstract(), lambda p: p.footprint()])
@pytest.mark.parametrize("dtype", ["complex64", "quint8"])
def test_complex_and_quantised_inputs_are_refused(write, dtype, use):
    data = {
        "complex64": "torch.zeros(3, dtype=torch.complex64)",
        "quint8": "torch.quantize_per_tensor(torch.rand(3), 0.1, 0, torch.quint8)",
    }
    problem = Problem.load(write(changed("torch.rand(rows, width)", data[dtype])))
    with pytest.raises(UnsupportedError, match=f"input 0 is {dtype}"):
        use(problem)


@pytest.mark.parametrize("dtype", ["complex64", "int8", "fp8", ""])
def test_a_model_cannot_be_run_in_a_dtype_that_is_not_floating(write, dtype):
    with pytest.raises(UnsupportedError, match="Choose one of fp64, fp32, fp16, bf16"):
        Problem.load(write(GOOD)).model(dtype=dtype)


def test_out_of_memory_is_said_as_such(write):
    problem = Problem.load(write(GOOD), {"rows": 2**45})
    with pytest.raises(MemoryShortError, match=r"ref\.py:18"):
        problem.inputs()


@pytest.mark.parametrize("kind", ["missing", "folder", "binary", "latin-1", "null"])
def test_what_is_no_python_file_is_said_to_be_none(tmp_path, kind):
    path = tmp_path / "ref.py"
    contents = {"binary": bytes(range(256)), "latin-1": b"x = '\xe9'", "null": b"x = 1\0\n"}
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    with pytest.raises(ReferenceFileError, match=r"no such file|a folder|not a? ?Python") as caught:
        Problem.load(path)
    assert str(path) in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path):
    path = tmp_path / "ref.py"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert "rows, width = 4, 16\n" in Problem.load(path, {"rows": 4}).source


def test_a_file_may_import_its_neighbours_and_hides_nothing(write):
    write("WIDTH = 24\n", "neighbour.py")
    write("raise RuntimeError('this is not the json that is meant')\n", "json.py")
    path = write("import json, neighbour\n" + changed("rows, width = 8, 16", "rows = 8; width = neighbour.WIDTH"))
    before = list(sys.path)
    assert Problem.load(path).model().linear.in_features == 24
    assert sys.path == before


def test_what_a_file_prints_stays_out_of_stdout(write, capsys):
    text = "print('loading')\n" + changed("    return [torch.rand", "    print('making')\n    return [torch.rand")
    Problem.load(write(text)).inputs()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "loading\nmaking\n"


def test_two_files_of_one_name_do_not_meet(tmp_path):
    for folder, width in (("a", 16), ("b", 32)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ref.py").write_text(changed("rows, width = 8, 16", f"rows, width = 8, {width}"))
    first, second = (Problem.load(tmp_path / folder / "ref.py") for folder in "ab")
    assert first.model().linear.in_features == 16
    assert second.model().linear.in_features == 32
    assert first.module.__name__ != second.module.__name__


def test_errors_survive_pickling_and_carry_their_parts():
    import pickle

    error = ReferenceFileError("bad", doing="loading", on="x.py:3", hint="Do this.")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, ModelnewError)
    assert str(again) == str(error) == "bad\n  while loading: x.py:3\n  Do this."
