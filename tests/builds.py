"""What tests compile, made once per content: kept between runs, and made by one of the processes that want it at once."""

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

DEVICE = Path(__file__).parents[1] / "src" / "modelnew" / "device"
Inputs = Callable[[Path], list[str]]


_failed: dict[Path, str] = {}  # what the compiler said: a source that does not compile is compiled once


class CompilerError(Exception):
    """What the compiler said."""


def built_once(kind: str, source: str, command: Sequence[str], files: Sequence[Path], inputs: Inputs) -> Path:
    """What `command` makes of `source`, in the folder of `kind`.

    files: what the source includes, and what is compiled beside it. inputs: from the path that the source was written to,
    the arguments that name it. Raises CompilerError.
    """
    key = hashlib.sha256("\0".join([source, *command, *(file.read_text() for file in files)]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"modelnew-{kind}-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / key
    if built in _failed:
        raise CompilerError(_failed[built])
    if built.exists():
        return built
    with (folder / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when this process ends, however it ends
        if not built.exists():
            text, made = folder / f"{key}.cu", folder / f"{key}.made"
            text.write_text(source)
            result = subprocess.run([*command, *inputs(text), "-o", str(made)], capture_output=True, text=True)
            if result.returncode:
                _failed[built] = " ".join(command) + "\n" + result.stdout + result.stderr
                raise CompilerError(_failed[built])
            os.replace(made, built)
    return built


def headers_of(*folders: Path) -> list[Path]:
    return sorted(header for folder in folders for ending in ("*.h", "*.cuh") for header in folder.rglob(ending))
