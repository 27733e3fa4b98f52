"""The five files that somebody new to kernels writes, built for real: each rejection says what to repair."""

import shutil
from pathlib import Path

import pytest
import torch

from modelnew.check import Report, check_files
from modelnew.problem import Problem

REFERENCE = """
import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.hardsigmoid(x)
def get_inputs():
    return [torch.randn(33, 70)]
def get_init_inputs():
    return []
"""

# built at import, as such files do it; `launch` is the kernel, called through its C interface
FILE = '''
import ctypes, os, subprocess, tempfile
import torch
from torch.utils.cpp_extension import load_inline

SOURCE = """
#include <cmath>
#include <cstdint>
{source}
"""
folder = tempfile.mkdtemp()
{build}
launch = ctypes.CDLL(library).launch

class ModelNew(torch.nn.Module):
    def forward(self, x):
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        {take}
        launch(ctypes.c_void_p(y.data_ptr()), ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(x.numel()))
        return y
'''

LOOP = """
extern "C" void launch(float* y, const float* x, int64_t n) {{
  for (int64_t i = 0; i < n; ++i) y[i] = {body};
}}
"""
KERNEL = """
__global__ void kernel(float* y, const float* x, int64_t n) {{
  int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i < n) y[i] = {body};
}}
extern "C" void launch(float* y, const float* x, int64_t n) {{ kernel<<<(n + 255) / 256, 256>>>(y, x, n); }}
"""
RIGHT = "(x[i] < -3.0f ? 0.0f : x[i] > 3.0f ? 6.0f : x[i] + 3.0f) / 6.0f"
DENSE = "x = x.contiguous()"
INLINE = """
library = load_inline(
    "newcomer", SOURCE, functions=None, is_python_module=False, no_implicit_headers=True, build_directory=folder
)
"""
NVCC = """
open(folder + "/kernel.cu", "w").write(SOURCE)
library = folder + "/kernel.so"
subprocess.run(["nvcc", "-shared", "-Xcompiler", "-fPIC", "-o", library, folder + "/kernel.cu"], check=True)
"""

FILES = {
    "right": {"source": LOOP.format(body=RIGHT), "take": DENSE},
    "slope": {"source": LOOP.format(body="fminf(fmaxf(0.2f * x[i] + 0.5f, 0.0f), 1.0f)"), "take": DENSE},
    "strides": {"source": LOOP.format(body=RIGHT), "take": "pass"},
    "typo": {"source": LOOP.format(body=RIGHT + " +* 1"), "take": DENSE},
}


def write(folder: Path, name: str, source: str, take: str, build: str = INLINE) -> Path:
    path = folder / f"{name}.py"
    path.write_text(FILE.format(source=source, take=take, build=build))
    return path


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    path = tmp_path_factory.mktemp("newcomers") / "reference.py"
    path.write_text(REFERENCE)
    return Problem.load(path)


@pytest.fixture(scope="module")
def reports(problem, tmp_path_factory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp("files")
    return dict(
        zip(FILES, check_files(problem, [write(folder, n, **f) for n, f in FILES.items()], seed=1), strict=True)
    )


def test_the_right_one_is_accepted(reports):
    assert reports["right"].accepted is True, reports["right"].headline


def test_another_slope_is_shown_by_an_element_and_its_true_value(reports):
    assert reports["slope"].headline.startswith("rejected: wrong for shipped (row ")
    worst = next(case.worst for case in reports["slope"].cases if case.worst is not None)
    assert abs(worst.got - worst.truth) > 0.05 and abs(worst.eager - worst.truth) < 1e-6


def test_strides_that_are_ignored_are_named(reports):
    assert "it ignores the strides of its inputs" in reports["strides"].headline
    assert next(case for case in reports["strides"].cases if case.outcome == "rejected").name == "transposed memory"


def test_a_file_that_does_not_compile_shows_the_compilers_first_error(reports):
    assert reports["typo"].headline.startswith("rejected: it does not build: the compiler says main.cpp:")
    assert "error: " in reports["typo"].headline and "\n" not in reports["typo"].headline


def test_fp32_pointers_on_fp16_data(problem, tmp_path):
    path = write(tmp_path, "pointers", **FILES["right"])
    (report,) = check_files(problem, [path], dtype="fp16", seed=1)
    assert report.accepted is False
    assert "does a kernel read the 16-bit data through fp32 pointers?" in report.headline


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_a_kernel_that_does_not_look_where_its_tensors_are(problem, tmp_path):
    path = write(tmp_path, "device", KERNEL.format(body=RIGHT), DENSE, NVCC)
    (report,) = check_files(problem, [path], device="cpu", seed=1)
    assert report.accepted is False
    assert "did a kernel fail unseen?" in report.headline or torch.cuda.is_available()  # else it crashes, or is refused
