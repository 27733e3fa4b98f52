"""The cache of builds: one folder per build, found by name, trusted only when whole and ours."""

import contextlib
import ctypes
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import tempfile
import time
import warnings
from collections.abc import Iterator
from typing import Any, Optional

from modelnew.runtime.toolchain import BuildFailure


def cache_dir() -> str:
    """The folder that builds are kept in; it need not exist."""
    named = os.environ.get("MODELNEW_CACHE_DIR")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    base = os.environ.get("XDG_CACHE_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    return os.path.join(base, "modelnew") if os.path.isabs(base) else spare_dir()


def spare_dir() -> str:
    return os.path.join(os.path.realpath(tempfile.gettempdir()), f"modelnew-{os.geteuid()}")


def writable_dir() -> str:
    """The cache folder, created where missing; where it cannot be used, one for temporary files, with a warning."""
    trouble = unusable(cache_dir())
    if not trouble:
        return cache_dir()
    spare = spare_dir()
    worse = unusable(spare)
    if worse:
        hint = "set MODELNEW_CACHE_DIR to a folder that you can write to"
        raise BuildFailure(f"no folder to build in: {cache_dir()}: {trouble}; {spare}: {worse}\n  hint: {hint}")
    warnings.warn(f"{cache_dir()} cannot keep kernels ({trouble}): they go to {spare}", stacklevel=3)
    return spare


def unusable(root: str) -> str:
    """Why builds cannot be kept in the folder `root`, which is created where missing; empty where they can."""
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
        if not _trusted(root if root == spare_dir() else os.path.realpath(root), others=0o002):
            return "others may write there"
    except OSError as error:
        return error.strerror or str(error)
    return "ninja cannot work under a path with $ or :" if re.search(r"[$:\n]", root) else ""


def _trusted(folder: str, others: int = 0o022) -> bool:
    """Whether nobody but us and root can have written there: what lies in it is going to be executed."""
    found = os.lstat(folder)
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & others


def load_build(folder: str, name: str) -> Optional[ctypes.CDLL]:
    """The build in `folder`, loaded; None where there is none, or not a whole one (a truncated library would crash)."""
    path = os.path.join(folder, name + ".so")
    try:
        if not _trusted(folder):
            return None
        with open(path, "rb") as library, open(os.path.join(folder, "sha256"), encoding="ascii") as seal:
            if hashlib.sha256(library.read()).hexdigest() != seal.read().strip():
                return None
        return ctypes.CDLL(path)
    except (OSError, UnicodeDecodeError):
        return None


def seal_build(work: str, name: str, recipe: dict[str, Any]) -> None:
    """Drop what only the build needed; add the recipe, and the checksum that tells a whole build from a damaged one."""
    keep = {name + ".so", name + ".cpp", name + ".cu"}
    for entry in os.listdir(work):
        path = os.path.join(work, entry)
        if entry not in keep:
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
    write_text(os.path.join(work, "recipe.json"), json.dumps(recipe, indent=1) + "\n")
    with open(os.path.join(work, name + ".so"), "rb") as library:
        write_text(os.path.join(work, "sha256"), hashlib.sha256(library.read()).hexdigest() + "\n")


def publish_build(work: str, folder: str, name: str) -> None:
    """Move a finished build into place. A whole build that is there already wins; a damaged one is replaced."""
    try:
        os.rename(work, folder)
    except OSError:
        if load_build(folder, name) is None:
            os.rename(folder, os.path.join(work, "damaged"))
            os.rename(work, folder)
            shutil.rmtree(os.path.join(folder, "damaged"), ignore_errors=True)
    shutil.rmtree(folder + ".failed", ignore_errors=True)


def sweep_builds(folder: str, limit: float) -> None:
    """Delete what killed builders left: of this build all (its lock is ours), of others what no living one can own."""
    for left in glob.glob(os.path.join(glob.escape(os.path.realpath(os.path.dirname(folder))), "*.tmp-*")):
        with contextlib.suppress(OSError):
            if os.path.basename(left).startswith(os.path.basename(folder) + ".tmp-") or time.time() - os.stat(
                left
            ).st_mtime > max(86400.0, 2 * limit):
                kill_inside(left)  # compilers outlive the process that started them
                shutil.rmtree(left, ignore_errors=True)


def kill_inside(work: str) -> None:
    """Kill every process whose working folder is `work`, ours alone: ninja and the compilers that it started.

    Again until a look finds none: one that was about to start another is gone after the first, the other is not.
    """
    found = True
    while found:
        found = False
        for entry in glob.glob("/proc/[0-9]*/cwd"):
            with contextlib.suppress(OSError):
                if os.readlink(entry) == work:
                    os.kill(int(entry.split("/")[2]), signal.SIGKILL)
                    found = True
        if found:
            time.sleep(0.02)


@contextlib.contextmanager
def build_lock(path: str, limit: float) -> Iterator[bool]:
    """Hold the lock file `path`; says whether it does. The system drops the lock when its owner dies.

    After `limit` seconds of waiting, or on a file system without locks, it goes on without one: publishing is atomic.
    """
    deadline = time.monotonic() + limit
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        held = _try_lock(file)
        if held and not _is_at(file, path):  # its last owner has deleted it since
            held = None
        if held is None and time.monotonic() > deadline:
            warnings.warn(f"another process has built for over {limit:g} s: not waiting for it ({path})", stacklevel=4)
            held = False
        if held is not None:
            break
        os.close(file)
        time.sleep(0.02)
    try:
        yield held
    finally:
        if held:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(file)


def _try_lock(file: int) -> Optional[bool]:
    """True: locked. None: another process has it. False: this file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def time_limit() -> float:
    asked = os.environ.get("MODELNEW_BUILD_TIMEOUT_S") or "600"
    with contextlib.suppress(ValueError):
        if float(asked) > 0:
            return float(asked)
    raise BuildFailure(f"MODELNEW_BUILD_TIMEOUT_S is {asked!r}.\n  hint: it is a number of seconds")


def write_text(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
