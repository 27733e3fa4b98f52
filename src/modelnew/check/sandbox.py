"""The operating system's own sandbox around the candidate's process: bubblewrap."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from modelnew.errors import CheckError

GPU = ("/dev/nvidia*", "/dev/dri", "/dev/kfd")


def prefix(writable: Sequence[Path], scratch: Path) -> list[str]:
    """What to put before a command so that it has no network, sees no other process, and can write to `writable` alone.

    Every file that the user can read stays readable. scratch: the working directory. Raises CheckError without bubblewrap.
    """
    program = shutil.which("bwrap")
    if program is None:
        hint = "Install the package bubblewrap, or check without --sandbox."
        raise CheckError("there is no sandbox: bubblewrap (bwrap) is not installed", doing="checking", hint=hint)
    found = [str(path) for pattern in GPU for path in Path("/").glob(pattern.lstrip("/"))]
    return [
        *(program, "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
        *(part for path in found for part in ("--dev-bind", path, path)),
        *("--tmpfs", "/dev/shm"),  # others' files there are not its business
        *(part for path in writable for part in ("--bind", str(path), str(path))),
        *("--chdir", str(scratch)),
    ]
