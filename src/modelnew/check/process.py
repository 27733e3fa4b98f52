"""The parent's side of the candidate's process: starts it, talks to it, and ends it when it takes too long or too much.

A crash, a hang or an allocation without end is a verdict with its reason; it never ends the check.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelnew.check import sandbox
from modelnew.errors import CheckError
from modelnew.runtime.cache import cache_dir

START_SECONDS = 120.0
BUILD_SECONDS = 600.0  # importing, and the first call, which may build kernels
CALL_SECONDS = 60.0
POLL_SECONDS = 0.1
KEPT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CXX",
    "CC",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True)
class Limits:
    """memory: bytes of private memory of the process and its children. seconds: for every answer; None: as long as
    builds take. sandbox: in bubblewrap, see `sandbox.prefix`.
    """

    memory: int
    seconds: float | None = None
    sandbox: bool = False


class DiedError(Exception):
    """The candidate's process ended or was ended; the text says why."""


class Child:
    """A process with a scratch folder and a clean environment that serves `modelnew.check.child`.

    limits: `limits.memory` is for it and its children together.
    """

    def __init__(self, limits: Limits, threads: int) -> None:
        self.memory_limit = limits.memory
        self.sandboxed = limits.sandbox
        self.scratch = Path(tempfile.mkdtemp(prefix="modelnew-check-"))
        self.data = Path(tempfile.mkdtemp(prefix="modelnew-check-", dir=_data_root()))
        self.log = self.scratch / "log.txt"
        before = sandbox.prefix([self.scratch, self.data], self.scratch) if self.sandboxed else []
        to_child, from_parent = os.pipe()
        from_child, to_parent = os.pipe()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*before, sys.executable, "-m", "modelnew.check.child", str(to_child), str(to_parent)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.scratch,
                env=_environment(self.scratch, threads, own_cache=self.sandboxed),
                pass_fds=(to_child, to_parent),
                start_new_session=True,
            )
        os.close(to_child)
        os.close(to_parent)
        self._requests, self._replies = from_parent, from_child
        self._unread = b""
        self._exchange = 0
        try:
            self._receive(START_SECONDS, "starting")
        except DiedError as died:
            self.close()
            hint = "The system may not allow sandboxes." if self.sandboxed else "Memory may be short."
            raise CheckError(f"the candidate's process {died}", doing="checking", hint=hint) from None

    def folder(self) -> Path:
        """A new empty folder for one exchange."""
        self._exchange += 1
        folder = self.data / str(self._exchange)
        folder.mkdir()
        return folder

    def ask(self, request: Mapping[str, Any], seconds: float, doing: str) -> dict[str, Any]:
        """The reply. Raises DiedError where there is none within `seconds`."""
        data = (json.dumps(request) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            self._buried(doing)
        return self._receive(seconds, doing)

    def _receive(self, seconds: float, doing: str) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._replies], [], [], POLL_SECONDS)
            if ready:
                data = os.read(self._replies, 1 << 16)
                if not data:
                    self._buried(doing)
                self._unread += data
            elif time.monotonic() > end:
                self.close(keep=True)
                raise DiedError(f"no answer after {seconds:.0f} s while {doing}")
            elif (used := private_memory(self.process.pid)) > self.memory_limit:
                self.close(keep=True)
                raise DiedError(
                    f"took {used / 1e9:.1f} GB of memory while {doing} (limit {self.memory_limit / 1e9:.1f} GB)"
                )
        line, self._unread = self._unread.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise DiedError(f"sent something that is no answer while {doing}")
        return reply

    def _buried(self, doing: str) -> None:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            raise DiedError(f"closed its pipe while {doing}") from None
        if self.sandboxed and code > 128:  # bubblewrap passes a signal on like a shell
            code = 128 - code
        if code < 0:
            raise DiedError(f"crashed with {signal.Signals(-code).name} while {doing}{self._last_words()}")
        raise DiedError(f"ended the process (exit code {code}) while {doing}{self._last_words()}")

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return f": {lines[-1][:200]}" if lines else ""
        return ""

    def close(self, keep: bool = False) -> None:
        """Ends the process and everything it started; removes its folders unless they are still needed."""
        for pid in session(self.process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        if not keep:
            for fd in (self._requests, self._replies):
                with contextlib.suppress(OSError):
                    os.close(fd)
            shutil.rmtree(self.scratch, ignore_errors=True)
            shutil.rmtree(self.data, ignore_errors=True)


def _data_root() -> str | None:
    """Memory-backed files where there is room for them, so that handing tensors over costs no disk."""
    root = Path("/dev/shm")
    with contextlib.suppress(OSError):
        if os.access(root, os.W_OK) and shutil.disk_usage(root).free > 1 << 30:
            return str(root)
    return None


def _environment(scratch: Path, threads: int, *, own_cache: bool) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    ours = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))])
    return {
        **kept,
        "PYTHONPATH": path,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        # kernels built once stay built; in a sandbox nobody writes to what others will run
        "MODELNEW_CACHE_DIR": str(scratch / "kernels") if own_cache else cache_dir(),
        "TORCH_EXTENSIONS_DIR": str(scratch / "torch_extensions"),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",  # a thread pool that waits must not look like work that goes on
        "KMP_BLOCKTIME": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command name (which may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def session(leader: int) -> list[int]:
    """The processes of the session that `leader` leads."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(_stat(int(entry.name))[3]) == leader:
                    found.append(int(entry.name))
    return found


def private_memory(leader: int) -> int:
    """Bytes of private memory of the session's processes; files they map (their inputs) are not theirs."""
    total = 0
    for pid in session(leader):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += 1024 * int(line.split()[1])
    return total
