"""Where nothing builds, a candidate that needs building was not judged: that is no rejection."""

import shutil
from pathlib import Path

import pytest

from modelnew.check import check_file, check_files
from modelnew.check.toolchain import fault
from modelnew.problem import Problem

from ...examples import FOLDER, SMALL, write

REFERENCE = """
import torch
class Model(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)
def get_inputs():
    return [torch.randn(33, 70)]
def get_init_inputs():
    return []
"""
NEW = """
import os, subprocess, torch
from torch.utils.cpp_extension import load_inline
{build}
class ModelNew(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)
"""
INLINE = """
os.makedirs("built")
load_inline("one", "{source}", functions=None, is_python_module=False, no_implicit_headers=True, build_directory="built")
"""
BY_HAND = (
    """subprocess.run([os.environ.get("CXX", "g++"), "-fsyntax-only", "-x", "c++", "-"], input=b"int x;", check=True)"""
)


@pytest.fixture
def problem(tmp_path) -> Problem:
    (tmp_path / "reference.py").write_text(REFERENCE)
    return Problem.load(tmp_path / "reference.py")


def new(folder: Path, name: str, build: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(NEW.format(build=build))
    return path


@pytest.fixture(params=["missing", "broken", "stops at every source"])
def no_compiler(request, tmp_path, monkeypatch):
    script = tmp_path / "cxx"
    if request.param != "missing":
        # each argument for itself: a folder's name may have -v in it
        works = f'for a; do case $a in --version|-v|-dump*) exec {shutil.which("g++")} "$@";; esac; done\n'
        script.write_text(
            "#!/bin/sh\n" + (works if request.param != "broken" else "") + "echo 'error: internal' >&2; exit 1\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    return request.param


def test_a_candidate_is_not_rejected_for_a_compiler_that_does_not_work(problem, tmp_path, no_compiler):
    candidates = [new(tmp_path, "inline", INLINE.format(source="int one;")), new(tmp_path, "hand", BY_HAND)]
    for report in check_files(problem, candidates, seed=1):
        assert report.accepted is None, report.headline
        assert report.headline.startswith("could not judge: the") and "compiler" in report.headline


def test_nor_is_an_optimised_file(tmp_path, no_compiler, monkeypatch):
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(tmp_path / "cache"))
    path = write("sigmoid", tmp_path)
    report = check_file(Problem.load(FOLDER / "sigmoid.py", SMALL["sigmoid"]), path, seed=1)
    assert report.accepted is None, report.headline
    assert "compiler" in report.headline


def test_a_source_that_is_wrong_is_rejected_with_the_compilers_first_error(problem, tmp_path):
    path = new(tmp_path, "typo", INLINE.format(source="int one = ;"))
    report = check_file(problem, path, seed=1)
    assert report.accepted is False
    assert "it does not build: the compiler says main.cpp:" in report.headline


def test_an_error_of_another_kind_asks_no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/at/all")
    assert fault("ValueError: only 16 rows") == ""
    assert "was not found" in fault("RuntimeError: Error building extension 'one'")
