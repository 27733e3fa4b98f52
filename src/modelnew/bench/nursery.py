"""A process that has imported PyTorch, and little else, and forks workers: one costs milliseconds instead of seconds.

The other side is `fleet.Nursery`. A worker answers requests with the methods of a desk of its own; it ends when the
other side hangs up, or with the nursery.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable

import torch

from modelnew.bench.channel import Channel
from modelnew.bench.schedule import reason
from modelnew.bench.variants import PREPARED, prepare_compiling

MakeDesk = Callable[[], object]
_PR_SET_PDEATHSIG = 1


def main(make_desk: MakeDesk) -> None:
    """For `python -m MODULE [compile] FD`."""
    *wishes, fd = sys.argv[1:]
    if PREPARED in wishes:
        prepare_compiling()
    gc.freeze()  # what is there stays: no worker's collector has to look at it
    run(int(fd), make_desk)


def run(fd: int, make_desk: MakeDesk) -> None:
    """Forks a worker for every socket that arrives, and says how workers ended when asked. An answer has the number of its
    request: whom it comes too late for has gone on to the next."""
    end = socket.socket(fileno=fd)
    channel = Channel(end)
    for number in itertools.count(1):
        note, fds, _, _ = socket.recv_fds(end, 1, 2)
        if not note:
            return
        if note == b"f":
            pid = os.fork()
            if pid == 0:
                end.close()
                _become_worker(make_desk, *fds)
            for passed in fds:
                os.close(passed)
            channel.send({"request": number, "pid": pid})
        else:
            pid, status = os.waitpid(int.from_bytes(end.recv(8, socket.MSG_WAITALL), "little"), 0)
            channel.send({"request": number, "status": status})


def end_with_parent() -> None:
    """Lets the system kill this process when the one that forked it ends, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def serve(channel: Channel, desk: object) -> None:
    """Answers requests until the other end hangs up. A request that raises is answered with {"error": …}."""
    with torch.no_grad():
        while (request := channel.receive()) is not None:
            try:
                answer = getattr(desk, request.pop("do"))(**request)
            except (Exception, SystemExit) as error:
                answer = {"error": reason(error)}
            channel.send(answer)


def _become_worker(make_desk: MakeDesk, socket_fd: int, log_fd: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the measuring process ends its workers itself
    os.dup2(log_fd, 1)
    os.dup2(log_fd, 2)
    code = 1
    try:
        end = socket.socket(fileno=socket_fd)
        os.set_inheritable(socket_fd, False)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(Channel(end), make_desk())
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)  # no exit handlers: those of the nursery are not this process's
