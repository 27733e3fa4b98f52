"""`--set NAME=VALUE` on the text of a reference file."""

import ast

import pytest

from modelnew.constants import constants, override, override_known, read_by
from modelnew.errors import UsageError

SOURCE = '''"""A file."""
import math, torch

batch_size = 128  # rows
width: int = 32
hidden, heads = 4 * width, 8
scale = -0.5
mode = "tanh"
causal = True
shape = (
    3,
    4,
)
limit = math.floor(width / 3)
dtype = torch.float16
if torch.cuda.is_available():
    blocks = 64
else:
    blocks = 2
steps = 1
steps += 1

def get_inputs():
    local = 7
    return [local]

if __name__ == "__main__":
    rounds = 3
'''


def test_constants_are_literals_and_arithmetic_on_them():
    assert constants(SOURCE) == {
        "batch_size": 128, "width": 32, "hidden": "4 * width", "heads": 8, "scale": -0.5, "mode": "tanh",
        "causal": True, "shape": (3, 4), "limit": "math.floor(width / 3)", "blocks": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("batch_size", "64", 64),
        ("batch_size", 64, 64),
        ("width", " 8 ", 8),
        ("heads", "1", 1),
        ("scale", "2", 2),
        ("scale", "-1e-3", -1e-3),
        ("mode", "none", "none"),
        ("mode", "'it''s'", "its"),
        ("causal", "False", False),
        ("shape", "(5, 6)", (5, 6)),
        ("hidden", "100", 100),
    ],
)
def test_an_override_changes_the_value_where_it_is_set_and_nothing_else(name, given, value):
    text, values = override(SOURCE, {name: given}, on="f.py")
    assert values == {name: value}
    before, after = SOURCE.split("\n"), text.split("\n")
    assert len(before) == len(after), "line numbers must stay what they were"
    executed: dict[str, object] = {}
    exec(text, executed)
    assert executed[name] == value
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4


def test_what_is_computed_from_a_constant_follows_it():
    text, _ = override(SOURCE, {"width": "96"}, on="f.py")
    executed: dict[str, object] = {}
    exec(text, executed)
    assert executed["hidden"] == 384
    assert executed["limit"] == 32


def test_every_branch_that_sets_a_constant_is_changed():
    text, _ = override(SOURCE, {"blocks": "9"}, on="f.py")
    assert text.count("blocks = 9") == 2


def test_text_around_non_ascii_characters_stays_whole():
    text, _ = override('é, n = "ü", 4  # größe\n', {"n": "5"}, on="f.py")
    assert text == 'é, n = "ü", 5  # größe\n'


def test_no_override_leaves_the_text_alone():
    assert override(SOURCE, {}, on="f.py") == (SOURCE, {})


@pytest.mark.parametrize("name", ["bath_size", "dtype", "local", "rounds", "steps"])
def test_an_unknown_name_lists_the_constants(name):
    with pytest.raises(UsageError) as caught:
        override(SOURCE, {name: "1"}, on="f.py")
    message = str(caught.value)
    assert name in message
    assert "f.py" in message
    assert "batch_size=128, width=32, hidden=4 * width" in message


@pytest.mark.parametrize(
    ("name", "given"),
    [("batch_size", "6.5"), ("batch_size", "many"), ("batch_size", "True"), ("scale", "low"), ("causal", "1"),
     ("shape", "3"), ("batch_size", "__import__('os')")],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused(name, given):
    with pytest.raises(UsageError, match="is needed") as caught:
        override(SOURCE, {name: given}, on="f.py")
    assert f"{name}={given}" in str(caught.value)


def test_the_new_text_parses_whatever_the_value():
    text, values = override(SOURCE, {"mode": 'it\'s "quoted"\n', "shape": "(1,)"}, on="f.py")
    ast.parse(text)
    assert constants(text)["mode"] == values["mode"] == 'it\'s "quoted"\n'


READ = """
rows, width, seq, heads, depth = 2, 8, 16, 4, 3
hidden = 4 * width
def block(x): return x * heads
class Base: size = depth
class Model(Base):
    def __init__(self, width, extra=hidden):
        self.mask = [seq for _ in range(width)]
    def forward(self, rows): return block(rows)
def inputs(): return rows, width
"""


def test_what_a_class_reads():
    """Through bases, functions, defaults and what is computed; a parameter of a constant's name is not that."""
    assert read_by(READ, "Model") & set(constants(READ)) == {"hidden", "width", "seq", "heads", "depth"}
    assert read_by(READ.replace("extra=hidden", "extra=0"), "Model") & set(constants(READ)) == {"seq", "heads", "depth"}
    assert read_by(READ, "inputs") & set(constants(READ)) == {"rows", "width"}


def test_constants_that_another_file_lacks_are_left_out():
    assert override_known("width = 8\nx = 1", {"width": "4", "rows": "2"}, on="file.py") == "width = 4\nx = 1"
    assert override_known("x = 1", {"rows": 2}, on="file.py") == "x = 1"
