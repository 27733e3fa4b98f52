"""Runs CUDA source on the GPU as tests/simt runs it in the emulator: the same requests, the same tests.

Programs are executables without Python or PyTorch in them, so compute-sanitizer sees the kernels' own allocations:

    MODELNEW_SANITIZER=memcheck python -m pytest tests/cuda/test_cuda_plans.py
"""

import ctypes
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from modelnew.runtime.toolchain import CUDA_FLAGS
from tests.builds import DEVICE, built_once, headers_of
from tests.simt.harness import Program, SimtError

HERE = Path(__file__).parent
REQUESTS = HERE.parent / "simt" / "requests.h"
SANITIZER = os.environ.get("MODELNEW_SANITIZER", "")
FOUND = 66  # exit status of a program in which compute-sanitizer found something


NATIVE = ("-arch=native",)


def build(source: str, defines: Sequence[str] = (), arch: Sequence[str] = NATIVE) -> Path:
    """Compiles `source` with the driver for the GPU at hand, once per content. Returns the program's path."""
    command = [find_tool("nvcc"), *CUDA_FLAGS, "-lineinfo", *arch, *(f"-D{define}" for define in defines)]
    command += [f"-I{DEVICE}", "-Xlinker=-export-dynamic", "-ldl", "--cudart=static"]
    files = [*headers_of(DEVICE), REQUESTS, HERE / "driver.cu"]
    return built_once("cuda", source, command, files, lambda text: [f'-DMN_SOURCE="{text}"', str(HERE / "driver.cu")])


def library(source: str, flags: Sequence[str]) -> ctypes.CDLL:
    """The launchers of `source`, which is compiled by nvcc with these flags besides ours, once per content."""
    command = [find_tool("nvcc"), *CUDA_FLAGS, *flags, "-shared", "-Xcompiler=-fPIC", f"-I{DEVICE}"]
    return ctypes.CDLL(str(built_once("cuda", source, command, headers_of(DEVICE), lambda text: [str(text)])))


class GpuProgram(Program):
    """The launchers of one source on the GPU, under compute-sanitizer's tool SANITIZER where one is named."""

    def __init__(self, source: str, defines: Sequence[str] = (), arch: Sequence[str] = NATIVE) -> None:
        self.environment = dict(os.environ)
        self.process = None
        self.path = build(source, defines, arch)
        self.log = Path(f"{self.path}.{os.getpid()}.log")
        self.command: list[str | Path] = [self.path]
        if SANITIZER:
            tool = [find_tool("compute-sanitizer"), "--tool", SANITIZER, "--log-file", str(self.log)]
            self.command = [*tool, f"--error-exitcode={FOUND}", self.path]

    def close(self) -> None:
        """Ends the program. Raises SimtError where compute-sanitizer found something."""
        if self.process is None:
            return
        process, self.process = self.process, None
        process.communicate()  # the end of its input is the end of the program
        if process.returncode == FOUND:
            raise SimtError(f"compute-sanitizer {SANITIZER}:\n{self.log.read_text()[:4000]}")


def find_tool(name: str) -> str:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which(name) or shutil.which(name, path=f"{home}/bin")
    if not found:
        raise SimtError(f"no {name} in PATH or CUDA_HOME")
    return found
