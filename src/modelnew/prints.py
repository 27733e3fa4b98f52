"""What a model prints: it is run hundreds of times while it is checked, and says the same each time."""

from __future__ import annotations

import io
import sys

MOST_LINES = 1000


class Once(io.TextIOBase):
    """A stdout whose lines go to what stderr is now, each the first time only; after `MOST_LINES` different ones, none."""

    def __init__(self) -> None:
        self._stderr = sys.stderr
        self._seen: set[str] = set()
        self._begun = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            if line not in self._seen and len(self._seen) < MOST_LINES:
                self._seen.add(line)
                self._stderr.write(line + "\n")
        return len(text)
