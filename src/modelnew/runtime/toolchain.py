"""The compilers, and the flags that fit this machine: g++ or CXX, nvcc, the GPUs' architectures, PyTorch's OpenMP."""

import functools
import glob
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
from typing import NamedTuple

import torch

# Hidden but for what a kernel exports: two kernels may hold inline functions of the same name that differ.
# Without the two -fno flags gcc keeps comparisons and roots apart from its vectors, for the sake of traps and errno that nobody
# looks at; results are the same bits. Without the others it takes a clamp to a constant for a branch, works out beforehand what
# follows for that constant, and selects at every step.
CPU_FLAGS = (
    "-O3",
    "-march=native",
    "-std=c++17",
    "-fopenmp",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-fno-tree-pre",
    "-fno-thread-jumps",
)
_GCC_ONLY = ("-fno-tree-pre", "-fno-thread-jumps")  # clang has no such passes, and may refuse the names
# Products and sums are rounded as they are written, as on the CPU: the library's compensated sums depend on it.
CUDA_FLAGS = ("-O3", "-std=c++17", "-fmad=false", "-Xcompiler", "-fvisibility=hidden")
GET_CXX = "install g++ (apt-get install g++, or conda install gxx), or set CXX"
GET_CUDA = "install the CUDA toolkit, or pip install nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl"


class BuildFailure(RuntimeError):
    """A kernel that could not be built or loaded: the compiler's first error, the source there, the log, a hint."""


class Tools(NamedTuple):
    """The compilers of one target. `identity`: what of them and of the machine decides the bytes of a build."""

    cxx: tuple[str, ...]
    cuda_home: str
    flags: tuple[str, ...]
    link: tuple[str, ...]
    identity: tuple[str, ...]


def find_cxx() -> tuple[str, ...]:
    """The C++ compiler's command: CXX, or the first of g++, c++, clang++ on PATH. Empty where there is none."""
    for command in [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]:
        first, *rest = shlex.split(command)
        found = shutil.which(first)
        if found:
            return (os.path.abspath(found), *rest)
    return ()


def find_nvcc() -> str:
    """Path of nvcc: in CUDA_HOME, on PATH, in /usr/local/cuda, in the pip package nvidia-cuda-nvcc. Empty: none."""
    homes = [os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or ""]
    places = [os.path.join(home, "bin", "nvcc") for home in homes if home]
    places += [shutil.which("nvcc") or "", "/usr/local/cuda/bin/nvcc"]
    package = importlib.util.find_spec("nvidia")
    for site in package.submodule_search_locations or () if package else ():
        places += sorted(glob.glob(os.path.join(glob.escape(site), "*", "bin", "nvcc")), reverse=True)
    return next((path for path in places if path and os.access(path, os.X_OK)), "")


@functools.cache
def ask(*command: str) -> str:
    """What a program prints, stdout and stderr together. Raises BuildFailure where it does not run or answer."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    plain = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, stdin=nothing, stdout=pipe, stderr=subprocess.STDOUT, timeout=30, check=True, env=plain
        )
    except OSError as error:
        raise BuildFailure(f"{shlex.join(command)} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildFailure(f"{shlex.join(command)} gives no answer") from error
    except subprocess.CalledProcessError as error:
        said = error.stdout.decode(errors="replace").strip().splitlines()
        told = f": {said[0]}" if said else ""
        raise BuildFailure(f"{shlex.join(command)} exits with status {error.returncode}{told}") from error
    return done.stdout.decode(errors="replace").strip()


def find_tools(target: str) -> Tools:
    """The compilers and flags for target "cpu" or "cuda" on this machine. Raises BuildFailure where one is missing."""
    if target not in ("cpu", "cuda"):
        raise ValueError(f"target must be 'cpu' or 'cuda', not {target!r}")
    cxx = find_cxx()
    if not cxx:
        wanted = f"CXX={os.environ['CXX']!r}" if os.environ.get("CXX") else "g++"
        raise BuildFailure(f"no C++ compiler: {wanted} was not found.\n  hint: {GET_CXX}")
    version = ask(*cxx, "--version")
    if target == "cpu":
        runtime = openmp_runtime("clang" in version)
        openmp = (runtime, "-Wl,-rpath," + os.path.dirname(runtime)) if runtime else ("-fopenmp",)
        known = tuple(flag for flag in CPU_FLAGS if "clang" not in version or flag not in _GCC_ONLY)
        return Tools(cxx, "", known, openmp, (version, _processor()))
    nvcc = find_nvcc()
    if not nvcc:
        where = "in CUDA_HOME, on PATH, in /usr/local/cuda or among pip's packages"
        raise BuildFailure(f"no CUDA compiler: nvcc was not found {where}.\n  hint: {GET_CUDA}")
    home = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
    if not os.path.exists(os.path.join(home, "include", "cuda_runtime.h")):  # a script that starts the real one
        top = re.search(r"^#\$ TOP=(.*)$", ask(nvcc, "--dryrun", "-E", "-x", "cu", os.devnull), re.MULTILINE)
        home = os.path.realpath(top.group(1).strip()) if top else home
    flags = CUDA_FLAGS + tuple(f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in _cuda_archs())
    wishes = [os.environ.get(variable, "") for variable in ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")]
    link = ("-Wl,--exclude-libs,ALL", "-Wl,--no-as-needed", "-ldl", "-lrt", "-lpthread")
    return Tools(cxx, home, flags, link, (version, ask(nvcc, "--version"), platform.machine(), *wishes))


def _cuda_archs() -> list[str]:
    """MODELNEW_CUDA_ARCHS, or what the visible GPUs are; from 9.0 on with the suffix a: all that this GPU can do."""
    asked = [word.replace(".", "") for word in re.split(r"[;,\s]+", os.environ.get("MODELNEW_CUDA_ARCHS", "")) if word]
    wrong = [word for word in asked if not re.fullmatch(r"\d{2,3}[af]?", word)]
    if wrong:
        raise BuildFailure(f"MODELNEW_CUDA_ARCHS names {wrong[0]!r}.\n  hint: it is a list such as 80;90a")
    if asked:
        return sorted(set(asked))
    if not torch.cuda.is_available():
        raise BuildFailure(
            "no GPU to build for.\n  hint: set MODELNEW_CUDA_ARCHS, for example to 90a, to build without one"
        )
    found = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    return sorted(f"{major}{minor}{'a' if major >= 9 else ''}" for major, minor in found)


def _processor() -> str:
    """What -march=native looks at: two machines that differ in it must not share a build."""
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "flags",
        "Features",
        "CPU implementer",
        "CPU part",
        "CPU variant",
        "isa",
    )
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(1 << 16).split("\n\n")[0]
    except OSError:
        return platform.machine() + " " + platform.processor()
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].split(":")[0].strip() in wanted)


def mapped_libraries() -> list[str]:
    """Paths of the shared libraries that this process has loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
            paths = {line.rstrip("\n").split(None, 5)[-1] for line in file}
    except OSError:
        return []
    return sorted(
        path for path in paths if path.startswith("/") and ".so" in os.path.basename(path) and os.path.exists(path)
    )


def openmp_runtime(clang: bool = False) -> str:
    """Path of the OpenMP runtime that PyTorch runs on; empty where none is loaded.

    Linking another one would give the process two thread pools, which fight for its cores. Code compiled by clang needs
    LLVM's or Intel's runtime; g++'s works with all three.
    """
    kinds = ("omp", "iomp5") if clang else ("gomp", "iomp5", "omp")
    site = os.path.dirname(os.path.dirname(os.path.abspath(torch.__file__)))
    found = []
    for path in mapped_libraries():
        kind = re.match(r"lib(gomp|iomp5|omp)[-.]", os.path.basename(path))
        if kind and kind.group(1) in kinds:
            found.append((not path.startswith(site), kinds.index(kind.group(1)), path))
    return min(found)[2] if found else ""
