"""The measuring process's side of its workers: start, ask, watch, end them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import IO, Any

from modelnew.bench import nursery
from modelnew.bench.channel import Channel, Message
from modelnew.bench.clock import waited_ns
from modelnew.errors import BenchError

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_QUIET_WAIT = 0.05  # seconds; thread pools spin for some milliseconds after their work, in case more comes
_TICKS = os.sysconf("SC_CLK_TCK")
_END_WAIT = 30.0  # seconds for the system to take away a process that has been killed


class VariantFailedError(Exception):
    """A variant cannot go on; the text is the reason that its row shows."""


class Worker:
    """One worker process. It is trusted with nothing but running the variants: time that passes is also taken here."""

    def __init__(self, pid: int, channel: Channel, log: IO[bytes], nursery: Nursery) -> None:
        self.pid = pid
        self.swapped = False  # whether the halves of its inputs are exchanged
        self.ended = False
        self._channel, self._log, self._nursery = channel, log, nursery

    def ask(self, do: str, *, timeout_s: float = 120.0, **request: Any) -> Message:
        """The answer to a request. Raises VariantFailedError with the reason for an error, a crash, or silence (the
        worker is then ended)."""
        if self.ended:
            raise VariantFailedError("its process has ended")
        with contextlib.suppress(BrokenPipeError):  # a worker that has died is noticed below
            self._channel.send({"do": do, **request})
        try:
            answer = self._channel.receive(timeout_s)
        except TimeoutError:
            self.end()
            raise VariantFailedError(f"gave no answer within {timeout_s:.0f} s") from None
        if answer is None:
            raise VariantFailedError(self._last_words())
        if "error" in answer:
            raise VariantFailedError(str(answer["error"]))
        if do == "refresh":
            self.swapped = not self.swapped
        return answer

    def timed(self, do: str, **request: Any) -> tuple[Message, float]:
        """The answer, and the seconds that passed on this process's clock.

        Less what either process waited for a core that somebody else had: on a busy machine that is most of it.
        """
        start, waited = perf_counter(), self._waited()
        answer = self.ask(do, **request)
        return answer, perf_counter() - start - (self._waited() - waited)

    def _waited(self) -> float:
        """Seconds for which this thread, or the worker's first one, was ready to run and did not."""
        return (waited_ns() + waited_ns(str(self.pid))) * 1e-9

    def cpu_seconds(self) -> float:
        """Processor time of all its threads so far, as the system counts it (steps of 10 ms)."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def becomes_quiet(self, wait_s: float = _QUIET_WAIT) -> bool:
        """Waits until no thread of it runs; False when one still does after `wait_s` seconds."""
        stop = perf_counter() + wait_s
        while self._running():
            if perf_counter() > stop:
                return False
            sleep(0.0005)
        return True

    def _running(self) -> bool:
        for task in Path(f"/proc/{self.pid}/task").glob("*"):
            with contextlib.suppress(OSError, IndexError):
                if (task / "stat").read_text().rsplit(")", 1)[1].split()[0] == "R":
                    return True
        return False

    def end(self) -> None:
        """Ends the process, however busy it is."""
        if self.ended:
            return
        self.ended = True
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._nursery.wait(self.pid)
        self._log.close()

    def _last_words(self) -> str:
        status = self._nursery.wait(self.pid)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.ended = True
        self._channel.close()
        self._log.close()
        how = "ended"
        if status is not None:
            killed = status & 127
            how = f"was killed by {signal.Signals(killed).name}" if killed else f"ended with code {status >> 8}"
        return f"its process {how}" + (f": {lines[-1]}" if lines else "")


class Nursery:
    """Where workers come from: see `nursery.run`. A context manager; leaving it ends all workers.

    command: what follows `python -m`; the number of a socket is added.
    """

    patience_s = 600.0  # for a worker: the first has to wait until PyTorch is imported, with other programs at work

    def __init__(self, *command: str) -> None:
        self._command = command
        self._statuses: dict[int, int | None] = {}
        self._requests = 0
        self._asking = threading.Lock()  # workers load side by side
        self._workers: list[Worker] = []

    def __enter__(self) -> Nursery:
        ours, theirs = socket.socketpair()
        self._start(theirs)
        theirs.close()
        self._end, self._channel = ours, Channel(ours)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_workers()
        self._end.close()
        self._kill()

    def _start(self, theirs: socket.socket) -> None:
        path = os.pathsep.join([str(_PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", *self._command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _kill(self) -> None:
        self._process.kill()  # it may still be importing, and has nothing to finish
        self._process.wait()

    def worker(self) -> Worker:
        """A fresh worker. Raises BenchError when the nursery is gone, or gives no answer."""
        ours, theirs = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)
        try:
            with theirs, self._asking:
                answer = self._request(b"f", [theirs.fileno(), log.fileno()], self.patience_s)
        except TimeoutError:
            ours.close()  # a worker that comes late finds that nobody is there, and ends
            log.close()
            raise BenchError(
                f"no process to run it in was there within {self.patience_s:g} s",
                doing="timing",
                hint="Try again when the machine is less busy.",
            ) from None
        if answer is None:
            raise BenchError(
                "the process that starts the workers has ended", doing="timing", hint="Memory may be short."
            )
        worker = Worker(answer["pid"], Channel(ours), log, self)
        self._workers.append(worker)
        return worker

    def wait(self, pid: int) -> int | None:
        """How a worker that has ended did end, as `os.waitpid` says it; None where nobody can say."""
        with self._asking:
            if pid not in self._statuses:
                answer = None
                with contextlib.suppress(TimeoutError):
                    answer = self._request(b"w" + pid.to_bytes(8, "little"), [], _END_WAIT)
                self._statuses[pid] = answer["status"] if answer else None
            return self._statuses[pid]

    def _request(self, note: bytes, fds: list[int], timeout_s: float) -> Message | None:
        """The answer to this request, past those that came too late for earlier ones; None when the nursery is gone.
        Raises TimeoutError."""
        stop = monotonic() + timeout_s
        self._requests += 1
        try:
            socket.send_fds(self._end, [note], fds)
        except (BrokenPipeError, ConnectionResetError):
            return None
        answer = self._channel.receive(timeout_s)
        while answer is not None and answer["request"] != self._requests:
            answer = self._channel.receive(max(0.001, stop - monotonic()))
        return answer

    def end_workers(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()


class ForkedNursery(Nursery):
    """One made from this process, which must have loaded nothing but PyTorch and us so far: for a worker that times."""

    def _start(self, theirs: socket.socket) -> None:
        # not above: `python -m modelnew.bench.worker` must be the first to import it
        from modelnew.bench.worker import Desk

        self._pid = os.fork()
        if self._pid == 0:
            try:
                nursery.end_with_parent()
                _close_all_but(theirs.fileno())
                nursery.run(theirs.detach(), Desk)
            finally:
                os._exit(0)

    def _kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _close_all_but(fd: int) -> None:
    """A socket that a forked process keeps open would hide from its other end that this one has ended."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in (0, 1, 2, fd):
            with contextlib.suppress(OSError):
                os.close(int(name))
