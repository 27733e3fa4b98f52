"""Builds a kernel's source with PyTorch's load_inline, keeps the result in a cache, and loads it with ctypes.

A build is one folder, named by the hash of everything that decides its bytes: source, flags, compiler, processor,
PyTorch. Change a kernel by hand and the next call builds it. The folder holds the source, the library and the recipe.
It is made elsewhere and renamed into place whole, under a lock that the system drops when its owner dies: a killed
build never blocks the next one, and processes that start together compile once.

Environment: MODELNEW_CACHE_DIR (else XDG_CACHE_HOME/modelnew, else ~/.cache/modelnew), MODELNEW_BUILD_TIMEOUT_S (600),
MODELNEW_CUDA_ARCHS ("90a" or "80;90a"; else those of the visible GPUs), CXX, CUDA_HOME.
"""

import contextlib
import ctypes
import glob
import hashlib
import inspect
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import torch

from modelnew.runtime.cache import (
    build_lock,
    cache_dir,
    kill_inside,
    load_build,
    publish_build,
    seal_build,
    sweep_builds,
    time_limit,
    writable_dir,
    write_text,
)
from modelnew.runtime.toolchain import GET_CUDA, Tools, find_tools
from modelnew.runtime.toolchain import BuildFailure as BuildFailure

# What load_inline links. Kernels use nothing of it: empty archives in its place keep the library free of PyTorch's ABI.
_NOT_LINKED = ("c10", "c10_cuda", "torch", "torch_cpu", "torch_cuda", "torch_python")
_ONE_BUILD = threading.Lock()  # load_inline is steered by environment variables, which belong to the whole process

_HINTS = (  # what the log says, what to do about it; the first that matches is shown
    (r"Ninja is required", "install ninja: pip install ninja"),
    (r"No module named '(\w+)'", "install it: pip install {0}"),
    (r"No space left on device", "free some space, or set MODELNEW_CACHE_DIR to a folder on another disk"),
    (r"Killed|out of memory|memory exhausted", "the compiler ran out of memory: free some and run again"),
    (
        r"[Uu]nsupported gpu architecture '(\w+)'",
        "this nvcc does not know {0}: install a newer one, or set MODELNEW_CUDA_ARCHS",
    ),
    (r"unsupported (GNU|clang) version", "nvcc does not work with this C++ compiler: set CXX to an older g++"),
    (r"(cuda_\w+\.h|nv/target|crt/\w+\.h)\W+No such file", "the CUDA headers are missing: " + GET_CUDA),
    (r"cannot find -lcudart", "the CUDA runtime library is missing: " + GET_CUDA),
    (
        r"libgomp.spec|omp.h\W+No such file|option '-fopenmp'",
        "the C++ compiler lacks OpenMP: install g++, or set CXX to one",
    ),
    (r"Permission denied|Operation not permitted", "set MODELNEW_CACHE_DIR to a folder where programs may run"),
    (r"undefined symbol: (\S+)", "nothing defines {0}: is it declared in the source but not written?"),
    (r"was stopped after", "if it is only slow, set MODELNEW_BUILD_TIMEOUT_S higher"),
)


def build(name: str, source: str, target: str, defines: Sequence[str] = ()) -> ctypes.CDLL:
    """Load the kernels of `source`, building them first where no earlier build of the same thing is in the cache.

    name: what files and messages call it. source: C++ (target "cpu") or CUDA C++ (target "cuda"); what it exports is
    `extern "C"` and of default visibility. defines: macros, as "NAME=VALUE". Raises BuildFailure.
    Safe to call from several threads and processes at once.
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    tools = find_tools(target)
    recipe = {"target": target, "defines": list(defines), "torch": torch.__version__, **tools._asdict()}
    key = name + "-" + hashlib.sha256(json.dumps([recipe, source]).encode()).hexdigest()[:16]
    library = load_build(os.path.join(cache_dir(), key), name)
    if library is not None:
        return library
    limit = time_limit()
    folder = os.path.join(writable_dir(), key)
    with _ONE_BUILD, build_lock(folder + ".lock", limit) as alone:
        library = load_build(folder, name)  # built by another process while this one waited?
        if library is None:
            if alone:
                sweep_builds(folder, limit)
            work = os.path.realpath(tempfile.mkdtemp(prefix=key + ".tmp-", dir=os.path.dirname(folder)))
            try:
                _compile(work, name, source, target, defines, tools, limit)
                seal_build(work, name, recipe)
                publish_build(work, folder, name)
            except BaseException as error:
                kill_inside(work)  # Ctrl-C leaves compilers behind
                if isinstance(error, Exception):
                    raise _failure(error, work, folder, name, source, target) from error
                raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
            library = load_build(folder, name)
    if library is None:
        raise BuildFailure(f"building kernel {name!r} for {target}: the result in {folder} cannot be read back")
    return library


def _compile(
    work: str, name: str, source: str, target: str, defines: Sequence[str], tools: Tools, limit: float
) -> None:
    """Run load_inline in the empty folder `work`, and leave `name`.so there. Raises what load_inline raises."""
    from torch.utils import cpp_extension  # here: it takes longer to import than a warm load does

    file_name = name + (".cu" if target == "cuda" else ".cpp")
    write_text(os.path.join(work, file_name), source)
    cxx = _one_word(tools.cxx, work)
    host = ["-ccbin", cxx] if target == "cuda" else []
    flags = [_quoted(flag) for flag in [*tools.flags, *host, *("-D" + define for define in defines)]]
    options: dict[str, Any] = {"name": name, "build_directory": work, "is_python_module": False}
    options.update(extra_ldflags=["-Llink", *map(_quoted, tools.link)])
    options.update({"extra_cuda_cflags": flags} if target == "cuda" else {"extra_cflags": flags})
    text = f'#line 1 "{file_name}"\n{source}\n'
    with _settings_for_load_inline(cpp_extension, work, cxx, tools.cuda_home), _watch(work, limit):
        if "no_implicit_headers" in inspect.signature(cpp_extension.load_inline).parameters:
            options.update(cuda_sources=[text] if target == "cuda" else [], functions=None, no_implicit_headers=True)
            cpp_extension.load_inline(cpp_sources=["" if target == "cuda" else text], **options)
        else:  # an older PyTorch puts half a minute of headers before each source; its `load` takes the file as it is
            cpp_extension.load(sources=[os.path.join(work, file_name)], **options)
    (made,) = glob.glob(os.path.join(glob.escape(work), "*.so"))  # load_inline numbers repeated builds of one name
    os.rename(made, os.path.join(work, name + ".so"))


@contextlib.contextmanager
def _settings_for_load_inline(cpp_extension: Any, work: str, cxx: str, cuda_home: str) -> Iterator[None]:
    """Point load_inline at our compilers and libraries; puts everything back afterwards."""
    links = os.path.join(work, "link")
    for library in _NOT_LINKED:
        write_text(os.path.join(links, f"lib{library}.a"), "!<arch>\n")
    # The static CUDA runtime always fits the nvcc at hand; the one that PyTorch brings along may be older.
    places = [os.path.join(glob.escape(cuda_home), place) for place in ("lib64", "lib", "targets/*/lib") if cuda_home]
    runtimes = [found for place in places for found in glob.glob(place + "/libcudart_static.a")]
    if runtimes:
        os.symlink(runtimes[0], os.path.join(links, "libcudart.a"))
    beside_python = os.path.dirname(sys.executable)  # where ninja is when the virtual environment is not activated
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), beside_python])
    wanted = {
        "PATH": search,
        "LC_ALL": "C",  # the compiler's errors are searched for "error"
        "CXX": cxx,
        "TORCH_DONT_CHECK_COMPILER_ABI": "1",
        "TORCH_NO_COMPILER_WRAPPER": "1",
        "PYTORCH_NVCC": None,
    }
    home = cpp_extension.CUDA_HOME
    with environment(wanted):
        try:
            cpp_extension.CUDA_HOME = cuda_home or home
            yield
        finally:
            cpp_extension.CUDA_HOME = home


@contextlib.contextmanager
def environment(values: dict[str, Optional[str]]) -> Iterator[None]:
    """Environment variables set (None: unset) for a while."""
    before = {variable: os.environ.get(variable) for variable in values}
    try:
        _set_environment(values)
        yield
    finally:
        _set_environment(before)


def _set_environment(values: dict[str, Optional[str]]) -> None:
    for variable, value in values.items():
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def _one_word(cxx: Sequence[str], work: str) -> str:
    """The compiler's command as the one word without spaces that load_inline and nvcc take."""
    os.mkdir(os.path.join(work, "link"))
    if len(cxx) == 1 and " " not in cxx[0]:
        return cxx[0]
    script = os.path.join(work, "link", "g++")
    write_text(script, f'#!/bin/sh\nexec {shlex.join(cxx)} "$@"\n')
    os.chmod(script, 0o700)
    return "link/g++"  # commands run in `work`, whose own path may have spaces


@contextlib.contextmanager
def _watch(work: str, limit: float) -> Iterator[None]:
    """Stop a build that takes longer than `limit` seconds: load_inline would wait for a hung compiler for ever."""
    done, late = threading.Event(), threading.Event()

    def watch() -> None:
        if not done.wait(limit):
            late.set()
            while not done.wait(0.1):
                kill_inside(work)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise TimeoutError(f"the compiler was stopped after {limit:g} s (MODELNEW_BUILD_TIMEOUT_S)") from error
        raise
    finally:
        done.set()
        watcher.join()


def _quoted(flag: str) -> str:
    """`flag` as it must stand in a ninja file, whose commands go through a shell."""
    return shlex.quote(flag).replace("$", "$$")


def _failure(error: Exception, work: str, folder: str, name: str, source: str, target: str) -> BuildFailure:
    """Say what went wrong in `work`, and keep the source and the whole log where the message says."""
    log, kept = f"{error}\n{error.__cause__ or ''}".strip() or type(error).__name__, folder + ".failed"
    with contextlib.suppress(OSError):
        os.makedirs(kept, mode=0o700, exist_ok=True)
        write_text(os.path.join(kept, "build.log"), log + "\n")
        for file in glob.glob(os.path.join(glob.escape(work), name + ".c*")):
            shutil.copy(file, kept)
    telling = r"\berror\s*:|\bfatal\s*:|was stopped|undefined|cannot find|not found"
    first = next((line for line in log.splitlines() if re.search(telling, line)), log.splitlines()[0])
    message = [f"building kernel {name!r} for {target}: {first.strip()}"]
    place = re.match(rf"{name}\.cpp:(\d+)|{name}\.cu\((\d+)\)", first)
    if place:
        message += _excerpt(source, int(place.group(1) or place.group(2)))
    message.append(f"  full log: {os.path.join(kept, 'build.log')}")
    for pattern, advice in _HINTS:
        match = re.search(pattern, log)
        if match:
            message.append("  hint: " + advice.format(*match.groups()))
            break
    return BuildFailure("\n".join(message))


def _excerpt(source: str, at: int) -> list[str]:
    """Line number `at` of the source, marked, between its neighbours."""
    numbered = list(enumerate(source.splitlines(), 1))[max(0, at - 3) : at + 2]
    return [f"  {'>' if number == at else ' '} {number:5} | {line}" for number, line in numbered]
