"""The text: one golden per family, the file around it, and what it may contain."""

import ast
import sys

import torch
import torch.nn.functional as F
from torch import nn

from modelnew.compiler import LiveModule, compile_module, compile_source
from modelnew.kernel.ir import Builder
from modelnew.render.carry import carry
from modelnew.render.expression import literal
from modelnew.render.file import Origin, render_file
from modelnew.render.kernel import render_kernel
from modelnew.render.library import libraries
from tests.compiled import Function

X = torch.randn(6, 10)

POINTWISE = """\
struct sigmoid_mul_body {
  MN_FN auto operator()(C x) const {
    return mn::values(mn::sigmoid<T>(x) * C(2.0));
  }
};

MN_EXPORT int launch_sigmoid_mul(void* mul, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::pointwise<sigmoid_mul_body, mn::types<T>, mn::types<T>>(
      {mul}, {x}, plan, queue);
}
MN_EXPORT void* call_sigmoid_mul(void* self, void* const* given, int64_t) {
  return mn::call<mn::queue>(launch_sigmoid_mul, self, given);
}
"""

ROWS = """\
struct softmax_body {
  template <class Row> MN_FN void operator()(Row& row) const {
    auto x = row.template load<0>();
    auto soft = mn::exponentials<C>(row, [](C x) { return mn::exp_below<T>(x); }, [=](C x) { return x; }, x);
    auto exp = soft.exp;
    const auto sum = soft.sum;
    const auto by_sum = mn::divisor(sum);
    row.template store<0>([=](C exp) { return exp / by_sum; }, exp);
  }
};

MN_EXPORT int launch_softmax(void* softmax, const void* x, const int64_t* plan, mn::queue queue) {
  return mn::rows<softmax_body, mn::types<T>, mn::types<T>>(
      {softmax}, {x}, plan, queue);
}
MN_EXPORT void* call_softmax(void* self, void* const* given, int64_t) {
  return mn::call<mn::queue>(launch_softmax, self, given);
}
"""


class Sigmoid(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * 2


class Softmax(nn.Module):
    def forward(self, x):
        return x.softmax(1)


def text_of(model, *inputs):
    (kernel,) = compile_module(model, inputs).kernels
    return "".join(line for line in render_kernel(kernel).splitlines(keepends=True) if not line.startswith("// "))


def written(model, *inputs):
    program = compile_source(LiveModule(model, inputs))
    return render_file(program, model, Origin("Model", None, "a test", "0", imports="# given"))


def test_golden_pointwise():
    assert text_of(Sigmoid(), X) == POINTWISE


def test_a_body_says_that_it_computes_much():
    """One light function hides behind the memory; two of them, or a costlier one, do not."""
    light = (torch.sigmoid, torch.tanh, lambda x: x * 2 + 1)
    heavy = (F.gelu, lambda x: torch.tanh(x) * torch.sigmoid(x))
    for function in (*light, *heavy):
        said = "heavy = true" in text_of(Function(lambda self, x, function=function: function(x)), X)
        assert said == (function in heavy)


def test_golden_row_program():
    assert text_of(Softmax(), X) == ROWS


def test_same_input_same_bytes():
    assert written(Softmax(), X) == written(Softmax(), torch.randn(6, 10))


def test_file_is_python_3_9_and_needs_only_torch():
    tree = ast.parse(written(Softmax(), X), feature_version=(3, 9))
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names) | {"torch"}


def test_only_the_library_that_is_used():
    """Row programs, and functions that no kernel calls, are not carried by a pointwise file."""
    kernels = compile_module(Sigmoid(), (X,)).kernels
    texts = libraries(kernels, products=False)
    assert "rows.h" not in texts["cpu"]
    assert "common/math/trig.h" not in texts["common"]
    assert "common/math/activations.h" in texts["common"]


def test_carried_names_stand_apart_from_the_references():
    """A reference that defines _Kernel and _build itself keeps its own."""
    text, public = carry({"_Kernels", "_build"})
    assert public["Kernels"] == "_kernels_Kernels"
    defined = {node.name for node in ast.parse(text).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert not defined & {"_Kernels", "_build"}
    assert all(name.startswith("_") for name in defined)


def test_no_carried_name_is_also_an_argument():
    """Names are changed wherever they stand: a parameter of the same name would part from its keyword at a call."""
    from importlib.resources import files

    from modelnew.render.carry import MODULES, _defined

    trees = [ast.parse(files("modelnew").joinpath("runtime", m + ".py").read_text()) for m in MODULES]
    defined = {name for tree in trees for name in _defined(tree)}
    keywords = {node.arg for tree in trees for node in ast.walk(tree) if isinstance(node, ast.keyword)}
    assert not defined & keywords


def test_literals():
    builder = Builder()
    assert literal(builder.const(0.1, "C")) == "C(0.1)"
    assert literal(builder.const(float("-inf"), "float")) == "float(-INFINITY)"
    assert literal(builder.const(float("nan"), "C")) == "C(NAN)"
    assert literal(builder.const(-(1 << 63), "int64_t")) == "int64_t(INT64_MIN)"
    assert literal(builder.const(1, "bool")) == "true"


def test_names_that_c_and_cpp_have_already():
    """Arguments called `double`, `row` and `T` get other names; a kernel called `exp` is not the C library's."""

    def function(self, x):
        return x.exp()

    class Odd(nn.Module):
        def forward(self, double, row, T):  # noqa: N803
            return (double + row * T).exp()

    text = text_of(Odd(), X, X, X)
    assert all(f"C {name}" in text for name in ("double2", "row2", "T2"))
    assert "int launch_exp(" in text_of(Function(function), X)


def test_values_that_die_are_deleted():
    class Chain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(10, 10), nn.Linear(10, 10)

        def forward(self, x):
            return self.b(F.relu(self.a(x))).sort().values

    lines = compile_module(Chain(), (X,)).forward.lines()
    assert any(line.startswith("del ") and "relu" in line for line in lines)
