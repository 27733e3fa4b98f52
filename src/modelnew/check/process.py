"""The parent's side of the candidate's process: starts it, talks to it, and ends it when it takes too long or too much.

A crash, a hang or an allocation without end is a verdict with its reason; it never ends the check.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from modelnew.check import sandbox
from modelnew.errors import CheckError
from modelnew.runtime.cache import cache_dir

START_SECONDS = 120.0
BUILD_SECONDS = 600.0  # importing, and the first call, which may build kernels
CALL_SECONDS = 60.0
POLL_SECONDS = 0.1
LOOK_SECONDS = 0.3  # between looks at what it takes: each reads all of /proc
REPLY_BYTES = 1 << 24  # of one reply; tensors come as files
SCRATCH_BYTES = 32 << 30  # that it may write, where the disk has twice as many
WORDS_BYTES = 4096  # of what it printed, the end
MOST_PROCESSES = 512  # that it may start: compilers start many
BLOCK = 512  # what st_blocks counts
MOST_ROUNDS = 50
MOST_TEXT = 20_000  # characters of a message or a traceback
# What it finds as its parent, in place of the judge; what that one says of a crash goes nowhere. Its input ends with the
# judge, however that ends: then it removes the folders that come first and ends all of them.
KEEPER = """exec 2>/dev/null 3<&0 </dev/null
{ cat <&3; rm -rf "$1" "$2"; kill -KILL 0; } &
shift 2; "$@" 2>&1 3<&-; exit $?"""
HIGH = 32  # file descriptors from here on are the shell's own in no shell
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
    builds take. sandbox: in bubblewrap, see `sandbox.prefix`. disk: bytes that it may write.
    """

    memory: int
    seconds: float | None = None
    sandbox: bool = False
    disk: int = SCRATCH_BYTES


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
        self.disk_limit = min(limits.disk, shutil.disk_usage(self.scratch).free // 2)
        folders = [self.scratch, self.data]
        before = ["/bin/sh", "-c", KEEPER, "sh", *map(str, folders)]
        if self.sandboxed:
            before += sandbox.prefix(folders, self.scratch)
        (to_child, from_parent), (from_child, to_parent) = _pipe(), _pipe()
        self._log = tempfile.TemporaryFile(dir=self.scratch)  # noqa: SIM115 - without a name, so that nobody replaces it
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "modelnew.check.child", str(to_child), str(to_parent)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            cwd=self.scratch,
            env=_environment(self.scratch, threads, own_cache=self.sandboxed),
            pass_fds=(to_child, to_parent),
            start_new_session=True,
        )
        os.close(to_child)
        os.close(to_parent)
        self._requests, self._replies = from_parent, from_child
        self._unread = b""
        self._started = False

    def _require_started(self) -> None:
        """It says so. Until somebody asks, it starts while others work."""
        if self._started:
            return
        try:
            self._receive(START_SECONDS, "its start")
        except DiedError as died:
            self.close(keep=True)
            hint = "The system may not allow sandboxes." if self.sandboxed else "Memory may be short."
            raise CheckError(f"the candidate's process {died}", doing="checking", hint=hint) from None
        self._started = True

    def folder(self) -> Path:
        """A new empty folder for one exchange, of a name that cannot be taken before."""
        return Path(tempfile.mkdtemp(dir=self.data))

    def ask(self, request: Mapping[str, Any], seconds: float, what: str) -> dict[str, Any]:
        """The reply. Raises DiedError where there is none within `seconds`. what: a noun, as in "the call"."""
        self._require_started()
        if self._unread or select.select([self._replies], [], [], 0)[0]:
            self._take(what)
            raise DiedError(f"sent an answer that nobody had asked for before {what}")
        number = secrets.randbits(53)  # what answers before it was asked does not know it
        data = (json.dumps({**request, "number": number}) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            self._buried(what)
        reply = self._receive(seconds, what)
        if reply.pop("number", None) != number:
            raise DiedError(f"sent an answer to something else during {what}")
        return reply

    def _receive(self, seconds: float, what: str) -> dict[str, Any]:
        end = time.monotonic() + seconds
        look = 0.0
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self._replies], [], [], POLL_SECONDS)
            if ready:
                self._take(what)
            elif self.process.poll() is not None:
                self._buried(what)
            elif time.monotonic() > end:
                self._end(f"gave no answer after {seconds:.0f} s during {what}")
            elif time.monotonic() > look:
                self._require_limits(what)
                look = time.monotonic() + LOOK_SECONDS
        line, self._unread = self._unread.split(b"\n", 1)
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError):
            reply = None
        if not isinstance(reply, dict):
            raise DiedError(f"sent something that is no answer during {what}")
        return reply

    def _take(self, what: str) -> None:
        data = os.read(self._replies, 1 << 16)
        if not data:
            self._buried(what)
        self._unread += data
        if len(self._unread) > REPLY_BYTES:
            self._end(f"sent an answer without end during {what}")

    def _require_limits(self, what: str) -> None:
        """Ends it where it took more memory, disk or processes than it may."""
        pids = family(self.process.pid)
        if len(pids) > MOST_PROCESSES:
            self._end(f"started {len(pids)} processes during {what}")
        if private_memory(pids) > self.memory_limit and (used := owned_memory(pids)) > self.memory_limit:
            self._end(f"took {used / 1e9:.1f} GB of memory during {what} (limit {self.memory_limit / 1e9:.1f} GB)")
        printed = os.fstat(self._log.fileno()).st_blocks * BLOCK
        for written, limit in (
            (printed + _disk_used(self.scratch), self.disk_limit),
            (_disk_used(self.data), self.disk_limit + self.memory_limit),  # outputs as large as it can make them
        ):
            if written > limit:
                self._end(f"wrote {written / 1e9:.1f} GB to disk during {what} (limit {limit / 1e9:.1f} GB)")

    def _end(self, why: str) -> NoReturn:
        self.close(keep=True)
        raise DiedError(why)

    def _buried(self, what: str) -> NoReturn:
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            raise DiedError(f"closed its pipe during {what}") from None
        if code > 128:  # a signal, as the shell and bubblewrap pass it on
            code = 128 - code
        if code < 0:
            raise DiedError(f"crashed with {_signal_name(-code)} during {what}{self._last_words()}")
        raise DiedError(f"ended the process (exit code {code}) during {what}{self._last_words()}")

    def _last_words(self) -> str:
        end = os.fstat(self._log.fileno()).st_size
        said = os.pread(self._log.fileno(), WORDS_BYTES, max(0, end - WORDS_BYTES)).decode(errors="replace")
        lines = plain(said).strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def close(self, keep: bool = False) -> None:
        """Ends the process and everything it started; removes its folders unless they are still needed."""
        for _ in range(MOST_ROUNDS):  # one that was about to start another is gone after the first
            left = family(self.process.pid, self.scratch)
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                break
            self.process.poll()
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        if not keep:
            self._log.close()
            assert self.process.stdin is not None
            self.process.stdin.close()
            for fd in (self._requests, self._replies):
                with contextlib.suppress(OSError):
                    os.close(fd)
            shutil.rmtree(self.scratch, ignore_errors=True)
            shutil.rmtree(self.data, ignore_errors=True)


class Processes:
    """Processes for candidates, some of them started before they are needed: that takes seconds."""

    def __init__(self, limits: Limits, threads: int) -> None:
        self.limits, self.threads = limits, threads
        self._waiting: list[Child] = []

    def start_one(self) -> None:
        self._waiting.append(Child(self.limits, self.threads))

    def take(self) -> Child:
        try:
            return self._waiting.pop()
        except IndexError:
            return Child(self.limits, self.threads)

    def close(self) -> None:
        """Ends those that nobody took."""
        for child in self._waiting:
            child.close()


def _pipe() -> tuple[int, int]:
    """Both ends of a new one, with numbers that the keeper uses for nothing else."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, HIGH) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


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


def family(leader: int, scratch: Path | None = None) -> list[int]:
    """The processes of the session that `leader` leads, but for those that have ended; with `scratch` also those that left
    it and still have our environment, which takes longer to see."""
    mark = f"HOME={scratch}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError, IndexError):
                state, _, _, in_session = _stat(int(entry.name))[:4]
                if state not in "ZX" and (
                    int(in_session) == leader
                    or (scratch is not None and mark in (entry / "environ").read_bytes().split(b"\0"))
                ):
                    found.append(int(entry.name))
    return found


def private_memory(pids: Sequence[int]) -> int:
    """Bytes of private memory of these processes; files they map (their inputs) are not theirs. What a process shares with
    one that it forked counts for both."""
    return _sum(pids, "status", "RssAnon:")


def owned_memory(pids: Sequence[int]) -> int:
    """The same, with what processes share counted once; it takes longer."""
    return _sum(pids, "smaps_rollup", "Pss_Anon:")


def _sum(pids: Sequence[int], file: str, key: str) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                if line.startswith(key):
                    total += 1024 * int(line.split()[1])
    return total


def _disk_used(folder: Path) -> int:
    """Bytes on disk below `folder`."""
    total = 0
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * BLOCK
    return total


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def plain(text: str) -> str:
    """Text of the candidate's that can go to a terminal and into a document: no control characters but line ends, not
    too much of it."""
    text = text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"
    return "".join(
        c if c.isprintable() or c == "\n" else {"\t": "    ", "\r": ""}.get(c, "\N{REPLACEMENT CHARACTER}")
        for c in text
    )
