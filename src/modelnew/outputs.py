"""Writing results: never over somebody else's file, never half."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelnew.errors import OutputError, UsageError

MARK = "Written by modelnew"  # every optimised file says so in its first lines
_MARK_WITHIN = 2000  # bytes
_PREPARING = "preparing the output"


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
    require_place(output, "-o", [reference])
    if output.exists() and not force and not _is_ours(output):
        raise UsageError(
            "the output exists, and modelnew did not write it",
            doing=_PREPARING,
            on=str(output),
            hint="Name another with -o FILE.py, or replace it with --force.",
        )


def require_places(outputs: Mapping[str, Path | None], inputs: Sequence[Path]) -> None:
    """`require_place` for each option and what it names, before the work that they would hold the result of."""
    for option, output in outputs.items():
        if output is not None:
            require_place(output, option, inputs)


def require_place(output: Path, option: str, inputs: Sequence[Path]) -> None:
    """Raises OutputError when no file could be written there at the end, UsageError when it is a folder or an input.

    option: with which it was named. inputs: files that are read, and never replaced.
    """
    doing = _PREPARING
    if output.is_dir():
        raise UsageError("the output is a folder", doing=doing, on=str(output), hint=f"Name a file with {option}.")
    if output.exists() and any(path.exists() and output.samefile(path) for path in inputs):
        raise UsageError(
            "the output is a file to be read", doing=doing, on=str(output), hint=f"Name another with {option}."
        )
    try:
        descriptor, probe = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        if output.parent.is_dir():
            reason, hint = error.strerror, f"Choose another place with {option}."
            if isinstance(error, FileNotFoundError):  # /proc and its like say so
                reason = f"no file can be made in {output.parent}"
        else:
            reason = f"there is no folder {output.parent}"
            hint = f"Create it first, or choose another place with {option}."
        raise OutputError(f"cannot write here: {reason}", doing=doing, on=str(output), hint=hint) from None
    os.close(descriptor)
    Path(probe).unlink()


def write(path: Path, content: str | bytes, option: str = "-o") -> None:
    """Writes `content` whole or not at all. Raises OutputError, which tells to choose another place with `option`."""
    data = content if isinstance(content, bytes) else content.encode()
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
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
            hint=f"Choose another place with {option}.",
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
