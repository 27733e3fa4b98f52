"""Writing results: never over somebody else's file, never half."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from modelnew.errors import OutputError, UsageError

MARK = "Written by modelnew"  # every optimised file says so in its first lines
_MARK_WITHIN = 2000  # bytes


def default_output(reference: Path) -> Path:
    """`softmax_new.py` in the working directory for `any/where/softmax.py`."""
    return Path(f"{reference.stem}_new.py")


def rejected_name(output: Path) -> Path:
    """`softmax_new.rejected.py` for `softmax_new.py`."""
    return output.with_name(f"{output.stem}.rejected{output.suffix}")


def report_name(output: Path) -> Path:
    """`softmax_new.report.json` for `softmax_new.py`."""
    return output.with_name(f"{output.stem}.report.json")


def require_writable(output: Path, reference: Path, *, force: bool) -> None:
    """Raises OutputError when `output` could not be written at the end, UsageError when it would replace another's.

    force: replace a file that modelnew did not write. The reference itself is never replaced.
    """
    doing = "preparing the output"
    if output.is_dir():
        raise UsageError("the output is a folder", doing=doing, on=str(output), hint="Name a file with -o FILE.py.")
    if output.exists() and reference.exists() and output.samefile(reference):
        raise UsageError("the output is the reference file", doing=doing, on=str(output), hint="Name another with -o.")
    if output.exists() and not force and not _is_ours(output):
        raise UsageError(
            "the output exists, and modelnew did not write it",
            doing=doing,
            on=str(output),
            hint="Name another with -o FILE.py, or replace it with --force.",
        )
    try:
        descriptor, probe = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        if output.parent.is_dir():
            reason, hint = error.strerror, "Choose another place with -o."
            if isinstance(error, FileNotFoundError):  # /proc and its like say so
                reason = f"no file can be made in {output.parent}"
        else:
            reason, hint = f"there is no folder {output.parent}", "Create it first, or choose another place with -o."
        raise OutputError(f"cannot write here: {reason}", doing=doing, on=str(output), hint=hint) from None
    os.close(descriptor)
    Path(probe).unlink()


def write(path: Path, text: str) -> None:
    """Writes `text` whole or not at all. Raises OutputError."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o666 & ~_umask())  # mkstemp makes private files
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}",
            doing="writing the result",
            on=str(path),
            hint="Choose another with -o.",
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(_MARK_WITHIN)
    except OSError:
        return False
