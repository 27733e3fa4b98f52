"""Runs CUDA source on the GPU as tests/simt runs it in the emulator: the same requests, the same tests.

Programs are executables without Python or PyTorch in them, so compute-sanitizer sees the kernels' own allocations:

    MODELNEW_SANITIZER=memcheck python -m pytest tests/cuda/test_cuda_plans.py
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modelnew.runtime.toolchain import CUDA_FLAGS
from tests.simt.harness import DEVICE, Program, SimtError

HERE = Path(__file__).parent
SANITIZER = os.environ.get("MODELNEW_SANITIZER", "")
FOUND = 66  # exit status of a program in which compute-sanitizer found something


def build(source: str, defines: Sequence[str] = ()) -> Path:
    """Compiles `source` with the driver for the GPU at hand, once per content. Returns the program's path."""
    command = [find_tool("nvcc"), *CUDA_FLAGS, "-lineinfo", "-arch=native", *(f"-D{define}" for define in defines)]
    command += [f"-I{DEVICE}", "-Xlinker=-export-dynamic", "-ldl", "--cudart=static"]
    headers = sorted([*DEVICE.rglob("*.h"), *DEVICE.rglob("*.cuh"), HERE / "driver.cu"])
    key = hashlib.sha256("\0".join([source, *command, *(h.read_text() for h in headers)]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"modelnew-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    program = folder / key
    if not program.exists():
        text = folder / f"{key}.inc"
        text.write_text(source)
        made = folder / f"{key}.{os.getpid()}"
        command += [f'-DMN_SOURCE="{text}"', str(HERE / "driver.cu"), "-o", str(made)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise SimtError(result.stdout + result.stderr)
        os.replace(made, program)
    return program


class GpuProgram(Program):
    """The launchers of one source on the GPU, under compute-sanitizer's tool SANITIZER where one is named."""

    def __init__(self, source: str, defines: Sequence[str] = ()) -> None:
        self.environment = dict(os.environ)
        self.process = None
        self.path = build(source, defines)
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
