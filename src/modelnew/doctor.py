"""What this machine has for building and running kernels, what is missing, and how to get it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from modelnew.memory import free_memory, readable
from modelnew.runtime.build import BuildFailure, build, environment
from modelnew.runtime.cache import cache_dir, unusable
from modelnew.runtime.toolchain import GET_CUDA, GET_CXX, ask, find_cxx, find_nvcc, mapped_libraries

_EXPORT = 'extern "C" __attribute__((visibility("default"))) '
_CPU_TRIAL = f"""#include <omp.h>
{_EXPORT}int team(int n) {{
  int members = 0;
#pragma omp parallel num_threads(n) reduction(+ : members)
  members += 1;
  return members;
}}
"""
_CUDA_TRIAL = f"""#include <cuda_fp16.h>
__global__ void twice(__half* y) {{ y[threadIdx.x] = __hadd(y[threadIdx.x], y[threadIdx.x]); }}
{_EXPORT}int launch(__half* y, cudaStream_t stream) {{
  twice<<<1, 32, 0, stream>>>(y);
  return (int)cudaGetLastError();
}}
"""
_SIMD = ("avx512f", "avx2", "avx", "sse4_2", "sve2", "sve", "asimd")  # widest first, as /proc/cpuinfo names them
_NEEDED = frozenset({"C++ compiler", "ninja", "cache"})
_QUICK = {"MODELNEW_BUILD_TIMEOUT_S": "30"}
_NVIDIA = Path("/dev/nvidiactl")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ok: nothing has to be done. fix: what to do, or what would add to this machine."""

    name: str
    ok: bool
    detail: str
    fix: str = ""

    @property
    def blocks(self) -> bool:
        """Whether models cannot be optimised on this machine because of it: what only a GPU would gain from is no such thing."""
        needed = _NEEDED | {"CUDA compiler"} if torch.cuda.is_available() else _NEEDED
        return not self.ok and self.name in needed


def examine() -> list[Finding]:
    """Look at everything. Builds one small kernel with each compiler, in a temporary folder; takes a few seconds."""
    return [
        _python(),
        _torch(),
        _cxx(),
        _nvcc(),
        _ninja(),
        _gpu(),
        _cpu(),
        _openmp(),
        _huge_pages(),
        _cache(),
        _memory(),
    ]


def _python() -> Finding:
    return Finding("Python", True, f"{platform.python_version()}, {sys.executable}")


def _torch() -> Finding:
    kind = (
        f"CUDA {torch.version.cuda}"
        if torch.version.cuda
        else f"ROCm {torch.version.hip}"
        if torch.version.hip
        else "CPU"
    )
    return Finding("PyTorch", True, f"{torch.__version__}, built for {kind}")


def _cxx() -> Finding:
    command = find_cxx()
    if not command:
        return Finding("C++ compiler", False, "none found", GET_CXX)
    try:
        detail = f"{' '.join(command)}, {ask(*command, '--version').splitlines()[0]}"
        with _fresh_cache():
            members = build("trial", _CPU_TRIAL, "cpu").team(2)
    except BuildFailure as error:
        return Finding("C++ compiler", False, *_told(error))
    if members != 2:
        return Finding("C++ compiler", False, f"{detail}: two OpenMP threads were asked for, {members} ran", GET_CXX)
    return Finding("C++ compiler", True, f"{detail}; a kernel with OpenMP builds and runs")


def _nvcc() -> Finding:
    path = find_nvcc()
    if not path:
        needed = torch.cuda.is_available()
        return Finding("CUDA compiler", not needed, "no nvcc: kernels for a GPU cannot be built here", GET_CUDA)
    archs = os.environ.get("MODELNEW_CUDA_ARCHS") or ("" if torch.cuda.is_available() else "80")
    try:
        release = re.search(r"release ([\d.]+)", ask(path, "--version"))
        with _fresh_cache(), environment({"MODELNEW_CUDA_ARCHS": archs or None}):
            build("trial", _CUDA_TRIAL, "cuda")
    except BuildFailure as error:
        return Finding("CUDA compiler", False, *_told(error))
    version = release.group(1) if release else "unknown"
    return Finding("CUDA compiler", True, f"{path}, version {version}; a kernel builds")


def _told(error: BuildFailure) -> tuple[str, str]:
    """What a failed build says, as the detail and the fix of a finding."""
    told, _, hint = str(error).partition("hint: ")
    lines = [line.strip() for line in told.splitlines() if "full log:" not in line]  # the log goes with its folder
    return " ".join(lines), hint


@contextlib.contextmanager
def _fresh_cache() -> Iterator[None]:
    """A cache folder of its own, so that the compiler really runs; and no long wait for one that hangs."""
    with tempfile.TemporaryDirectory() as folder, environment({**_QUICK, "MODELNEW_CACHE_DIR": folder}):
        yield


def _ninja() -> Finding:
    found = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if not found:
        return Finding("ninja", False, "none found", "pip install ninja")
    try:
        return Finding("ninja", True, f"{found}, version {ask(found, '--version')}")
    except BuildFailure as error:
        return Finding("ninja", False, str(error), "pip install --force-reinstall ninja")


def _gpu() -> Finding:
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        told = [f"{gpu.name}, compute capability {gpu.major}.{gpu.minor}, {readable(gpu.total_memory)}" for gpu in gpus]
        return Finding("GPU", True, "; ".join(told))
    if not _NVIDIA.exists():
        return Finding("GPU", True, "none: models run on the CPU")
    if torch.version.cuda:
        return Finding(
            "GPU", False, "there is one, but PyTorch cannot use it", "update the NVIDIA driver; see nvidia-smi"
        )
    return Finding(
        "GPU", False, "there is one, but this PyTorch is built without CUDA", "install a CUDA build of PyTorch"
    )


def _cpu() -> Finding:
    lines = _read("/proc/cpuinfo").split("\n\n")[0].splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (about.get("flags") or about.get("Features") or "").split()
    simd = next((name for name in _SIMD if name in flags), "no known SIMD")
    model = about.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0))
    return Finding(
        "CPU", True, f"{model}, {simd}, {cores} cores to use, PyTorch uses {torch.get_num_threads()} threads"
    )


def _openmp() -> Finding:
    found = [path for path in mapped_libraries() if re.match(r"lib(gomp|iomp5|omp)[-.]", Path(path).name)]
    if len(found) > 1:
        fix = "keep one: each has its own threads, and they slow each other down"
        return Finding("OpenMP", False, "several runtimes are loaded: " + ", ".join(found), fix)
    return Finding("OpenMP", True, found[0] if found else "none loaded by PyTorch: the compiler's own is used")


def _huge_pages() -> Finding:
    text = _read(_HUGE_PAGES)
    chosen = re.search(r"\[(\w+)\]", text)
    if not chosen:
        return Finding("huge pages", True, "not known to this kernel")
    fix = "large outputs cost less with them: as root, echo madvise >" + str(_HUGE_PAGES)
    on = chosen.group(1) in ("always", "madvise")
    return Finding("huge pages", on, f"transparent huge pages: {chosen.group(1)}", "" if on else fix)


def _cache() -> Finding:
    folder = Path(cache_dir())
    trouble = unusable(str(folder))
    if trouble:
        return Finding(
            "cache", False, f"{folder}: {trouble}", "set MODELNEW_CACHE_DIR to a folder that you can write to"
        )
    builds = list(folder.glob("*/sha256"))
    size = sum(file.stat().st_size for build in builds for file in build.parent.iterdir())
    return Finding("cache", True, f"{folder}, {len(builds)} builds, {readable(size)}")


def _memory() -> Finding:
    free, total = free_memory(torch.device("cpu"))
    return Finding("memory", True, f"{readable(free)} free of {readable(total)}")


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
