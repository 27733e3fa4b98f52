"""Is it the candidate that does not build, or does nothing build here?

A candidate whose build fails on a machine without a working compiler was never judged. So where an error looks like a
build's, a program that is known to be right is compiled in the same way.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from modelnew.runtime.cache import cache_dir
from modelnew.runtime.toolchain import CPU_FLAGS, BuildFailure, ask, find_cxx, find_nvcc

SECONDS = 60.0  # for a few lines
LEFT = 64 << 20  # bytes of a disk that is not full

_BUILD = re.compile(
    r"BuildFailure|BuildError|Error (building|compiling)|CalledProcessError|CppCompileError|InvalidCxxCompiler|InductorError"
    r"|Ninja is required|CUDA_HOME|No space left|C\+\+ compiler|CUDA compiler"
    r"|(FileNotFound|Permission)Error.*\b(nvcc|ninja|cc|gcc|g\+\+|c\+\+|clang\+*)",
    re.DOTALL,
)
_CUDA = re.compile(r"nvcc|CUDA_HOME|\.cu\b|CUDA compiler|for cuda")
_PROGRAM = """
#include <cmath>
#include <cstdint>
#include <vector>
extern "C" double probe(int64_t n) { std::vector<double> v(n, 2.0); return std::sqrt(v[0]); }
"""
_KERNEL = """
__global__ void probe(float* y, long n) { long i = blockIdx.x * (long)blockDim.x + threadIdx.x; if (i < n) y[i] = 2.0f; }
extern "C" int launch(float* y, long n) { probe<<<(n + 255) / 256, 256>>>(y, n); return (int)cudaGetLastError(); }
"""


def fault(error: str) -> str:
    """Why a build that ended with this error could not succeed here whatever the source; empty where it could, or where
    the error is not a build's."""
    if not _BUILD.search(error):
        return ""
    for place in (tempfile.gettempdir(), os.path.dirname(cache_dir()) or "/"):
        if "No space left" in error and os.path.isdir(place) and shutil.disk_usage(place).free < LEFT:
            return f"the disk of {place} is full"
    if "Ninja is required" in error:
        return "there is no ninja, which PyTorch builds with: pip install ninja"
    try:
        compiler = find_cxx()
        if not compiler:
            wanted = f"CXX={os.environ['CXX']!r}" if os.environ.get("CXX") else "g++"
            return f"there is no C++ compiler here: {wanted} was not found"
        ask(*compiler, "--version")
        why = _tried([*compiler, *CPU_FLAGS, "-shared", "-fPIC"], ".cpp", _PROGRAM)
        if not why and _CUDA.search(error):
            nvcc = find_nvcc()
            why = _tried([nvcc, "-shared", "-Xcompiler", "-fPIC"], ".cu", _KERNEL) if nvcc else "there is no nvcc here"
    except (BuildFailure, ValueError) as failure:
        why = f"the compiler here does not work: {str(failure).splitlines()[0]}"
    return why


def _tried(command: list[str], suffix: str, source: str) -> str:
    """Why the command does not compile the source; empty where it does."""
    with tempfile.TemporaryDirectory(prefix="modelnew-probe-") as folder:
        file, library = Path(folder, "probe" + suffix), Path(folder, "probe.so")
        file.write_text(source)
        try:
            done = subprocess.run(
                [*command, "-o", str(library), str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                cwd=folder,
            )
        except OSError as error:
            return f"the compiler here does not run: {command[0]}: {error.strerror}"
        except subprocess.TimeoutExpired:
            return f"the compiler here does not end: {command[0]}"
        if done.returncode == 0 and library.exists():
            return ""
        said = done.stdout.decode(errors="replace").strip().splitlines()
        told = next((line for line in said if "error" in line), said[0] if said else "")
        return f"the compiler here does not compile a few right lines: {command[0]}: {told or 'no output'}"[:300]
