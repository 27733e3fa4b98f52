"""doctor: what it finds where all is well, and what it says where something is missing."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from modelnew import doctor
from modelnew.doctor import Finding, examine


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_a_machine_that_builds_kernels(cache: Path) -> None:
    before, start = dict(os.environ), time.monotonic()
    findings = {finding.name: finding for finding in examine()}
    assert time.monotonic() - start < 10
    assert "a kernel with OpenMP builds and runs" in findings["C++ compiler"].detail
    assert torch.__version__ in findings["PyTorch"].detail
    assert findings["cache"].detail == f"{cache}, 0 builds, 0 B"
    assert dict(os.environ) == before
    for finding in findings.values():
        assert finding.detail and (finding.ok or finding.fix), finding


def test_a_machine_without_any_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(doctor, "find_nvcc", lambda: "")
    findings = {finding.name: finding for finding in examine()}
    assert not findings["C++ compiler"].ok and "install g++" in findings["C++ compiler"].fix
    assert not findings["ninja"].ok and findings["ninja"].fix == "pip install ninja"
    assert findings["CUDA compiler"].ok == (not torch.cuda.is_available()), "only a GPU makes nvcc necessary"
    assert "nvidia-cuda-nvcc" in findings["CUDA compiler"].fix


def test_a_compiler_that_cannot_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "g++"
    body = "echo 'fatal error: omp.h: No such file or directory' >&2\nexit 1\n"
    compiler.write_text('#!/bin/sh\ncase "$*" in *--version*) echo mine 1.0; exit 0;; esac\n' + body)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    finding = doctor._cxx()
    assert not finding.ok and "omp.h: No such file" in finding.detail and "lacks OpenMP" in finding.fix
    assert "build.log" not in finding.detail, "the log is gone by the time anyone reads this"


def test_two_openmp_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ["/torch/lib/libgomp-a34b.so.1", "/usr/lib/libiomp5.so", "/usr/lib/libompx.so", "/usr/lib/libm.so.6"]
    monkeypatch.setattr(doctor, "mapped_libraries", lambda: paths)
    finding = doctor._openmp()
    assert not finding.ok and finding.fix
    assert finding.detail.endswith("/torch/lib/libgomp-a34b.so.1, /usr/lib/libiomp5.so")


@pytest.mark.parametrize(("setting", "ok"), [("always [madvise] never", True), ("always madvise [never]", False)])
def test_huge_pages(setting: str, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "enabled").write_text(setting + "\n")
    monkeypatch.setattr(doctor, "_HUGE_PAGES", tmp_path / "enabled")
    finding = doctor._huge_pages()
    assert finding.ok == ok and bool(finding.fix) != ok


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODELNEW_CACHE_DIR", str(tmp_path / "file" / "cache"))
    finding = doctor._cache()
    assert not finding.ok and "Not a directory" in finding.detail and "MODELNEW_CACHE_DIR" in finding.fix


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
def test_a_gpu_that_pytorch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert doctor._gpu() == Finding(
        "GPU", False, "there is one, but this PyTorch is built without CUDA", "install a CUDA build of PyTorch"
    )
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver" in doctor._gpu().fix
