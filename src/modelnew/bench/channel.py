"""Messages between the measuring process and its workers: one JSON document per line over a socket."""

from __future__ import annotations

import json
import socket
from typing import Any

Message = dict[str, Any]


class Channel:
    """One end. `receive` returns None when the other end is gone; raises TimeoutError when it does not answer in
    time."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._pending = b""

    def send(self, message: Message) -> None:
        self.end.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout_s: float | None = None) -> Message | None:
        self.end.settimeout(timeout_s)
        while b"\n" not in self._pending:
            try:
                part = self.end.recv(1 << 16)
            except ConnectionResetError:
                part = b""
            if not part:
                return None
            self._pending += part
        line, self._pending = self._pending.split(b"\n", 1)
        message: Message = json.loads(line)
        return message

    def close(self) -> None:
        self.end.close()
