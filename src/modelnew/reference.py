"""Running the code of a reference file, with every failure turned into a message that names its line."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import random
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

from modelnew.errors import MemoryShortError, ModelnewError, ReferenceFileError, UsageError
from modelnew.prints import Once

T = TypeVar("T")

_CORRECT = "Correct the file, or the value that --set gives it."
_NEEDED = {
    "Model": "class Model(torch.nn.Module)",
    "get_inputs": "def get_inputs(): return [x]",
    "get_init_inputs": "def get_init_inputs(): return []",
}


def read(path: Path) -> str:
    """The text of a Python file that parses. Raises ReferenceFileError."""
    doing = "reading the reference file"
    try:
        data = path.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = io.TextIOWrapper(io.BytesIO(data), encoding).read()  # this makes every line end in "\n"
        compile(source, str(path), "exec", dont_inherit=True)
    except FileNotFoundError:
        raise ReferenceFileError("there is no such file", doing=doing, on=str(path)) from None
    except IsADirectoryError:
        raise ReferenceFileError("this is a folder, not a Python file", doing=doing, on=str(path)) from None
    except OSError as error:
        raise ReferenceFileError(f"cannot be read: {error.strerror}", doing=doing, on=str(path)) from None
    except UnicodeDecodeError:
        raise ReferenceFileError("this is not a Python text file", doing=doing, on=str(path)) from None
    except SyntaxError as error:
        if b"\0" in data or error.lineno is None:  # no line: the encoding is at fault
            raise ReferenceFileError("this is not a Python text file", doing=doing, on=str(path)) from None
        line = f": {error.text.strip()}" if error.text else ""
        raise ReferenceFileError(f"syntax error: {error.msg}{line}", doing=doing, on=f"{path}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:  # a null byte, nesting too deep
        raise ReferenceFileError(f"this is not Python: {error}", doing=doing, on=str(path)) from None
    return source


def require_files(candidates: Sequence[Path], doing: str) -> None:
    """Raises UsageError for a candidate that is no file."""
    for path in candidates:
        if path.is_dir():
            raise UsageError("this is a folder, not a Python file", doing=doing, on=str(path))
        if not path.is_file():
            raise UsageError("there is no such file", doing=doing, on=str(path))


def execute(path: Path, source: str) -> ModuleType:
    """The module that `source` defines, checked to define what a reference file must. Raises ReferenceFileError."""
    # two files of one name, or one with other constants, must not share an entry of sys.modules
    identity = hashlib.sha256(f"{path.resolve()}\n{source}".encode(errors="surrogatepass")).hexdigest()[:12]
    module = ModuleType(f"reference_{path.stem}_{identity}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up there
    code = compile(source, str(path), "exec", dont_inherit=True)
    call(path, "the file", lambda: exec(code, module.__dict__), "running the reference file")
    for name, form in _NEEDED.items():
        _require(path, module, name, form)
    return module


def _require(path: Path, module: ModuleType, name: str, form: str) -> None:
    doing = "reading the reference file"
    found = getattr(module, name, None)
    if found is None:
        raise ReferenceFileError(f"the file defines no {name}", doing=doing, on=str(path), hint=f"Add: {form}")
    if name == "Model" and not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ReferenceFileError("Model is no torch.nn.Module", doing=doing, on=str(path), hint=f"Define: {form}")
    if not callable(found):
        raise ReferenceFileError(f"{name} is no function", doing=doing, on=str(path), hint=f"Define: {form}")


def call(path: Path, name: str, function: Callable[[], T], doing: str, *, hint: str = _CORRECT) -> T:
    """`function()`, which runs code of the file: its prints go to stderr, what it raises becomes a ReferenceFileError.

    name: what raises, as a reader calls it: "get_inputs()".
    """
    try:
        with _surroundings(path):
            return function()
    except ModelnewError:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _memory_short(path, error, doing) from error
    except (Exception, SystemExit) as error:
        if "allocate memory" in str(error):  # PyTorch's CPU allocator raises a plain RuntimeError
            raise _memory_short(path, error, doing) from error
        raise _raised(path, name, error, doing, hint) from error


@contextlib.contextmanager
def _surroundings(path: Path) -> Iterator[None]:
    """What a file expects that `python file.py` runs: its folder on sys.path (last, so that it hides no module)."""
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        with contextlib.redirect_stdout(sys.stdout if isinstance(sys.stdout, Once) else sys.stderr):
            yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def _memory_short(path: Path, error: BaseException, doing: str) -> MemoryShortError:
    return MemoryShortError(
        f"out of memory: {_first_line(error)}",
        doing=doing,
        on=_place(path, error),
        hint="Reduce a constant of the file with --set NAME=VALUE.",
    )


def _raised(path: Path, name: str, error: BaseException, doing: str, hint: str) -> ReferenceFileError:
    if isinstance(error, SystemExit):
        how = "os._exit" if error.code == "os._exit" else "sys.exit"  # the commands turn the one into the other
        problem = f"{name} ends the program ({how})"
        hint = 'Put what the file does when it is run under `if __name__ == "__main__":`.'
    else:
        problem = f"{name} raises {type(error).__name__}: {_first_line(error)}"
        if isinstance(error, ModuleNotFoundError):
            hint = f"Install {error.name}, or remove the import."
    return ReferenceFileError(problem, doing=doing, on=_place(path, error), hint=hint)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "(no message)"


def _place(path: Path, error: BaseException) -> str:
    """file:line of the innermost frame that is in the file."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path}:{frames[-1].lineno}" if frames else str(path)


def at(path: Path, function: object) -> str:
    """file:line of a function of the file; the file alone for one that is defined elsewhere."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    return f"{path}:{code.co_firstlineno}" if code and code.co_filename == str(path) else str(path)


def constructor_arguments(path: Path, module: ModuleType) -> tuple[list[Any], dict[str, Any]]:
    """What get_init_inputs() returns (a list, a dict of keywords, or [list, dict]) as arguments of Model."""
    doing = "making the model"
    given = call(path, "get_init_inputs()", module.get_init_inputs, doing)
    choices: list[tuple[list[Any], dict[str, Any]]] = []
    if isinstance(given, dict):
        choices.append(([], given))
    elif isinstance(given, (list, tuple)):
        if len(given) == 2 and isinstance(given[0], (list, tuple)) and isinstance(given[1], dict):
            choices.append((list(given[0]), given[1]))
        choices.append((list(given), {}))
    else:
        raise ReferenceFileError(
            f"get_init_inputs() returns {kind(given)}, not a list",
            doing=doing,
            on=at(path, module.get_init_inputs),
            hint="Return the arguments of Model.__init__ as a list, [] for none.",
        )
    for args, kwargs in choices:
        if misfit(module.Model, args, kwargs) is None:
            return args, kwargs
    raise ReferenceFileError(
        f"get_init_inputs() does not fit Model{inspect.signature(module.Model)}: {misfit(module.Model, *choices[-1])}",
        doing=doing,
        on=at(path, module.Model.__init__),
        hint=f"It returns {described(given)}.",
    )


def misfit(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> str | None:
    """Why `function` cannot be called with these arguments; None where it can."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def kind(value: object) -> str:
    """Its type with an article: "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def described(value: object) -> str:
    """A list of arguments in a few words: "[Tensor (128, 64), 0.5]"."""
    if isinstance(value, torch.Tensor):
        return f"Tensor {tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(described(item) for item in value)}]"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random generators a reference may draw from, seeded; the caller's states come back afterwards."""
    python_state = random.getstate()
    numpy = sys.modules.get("numpy")
    numpy_state = numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        if numpy:
            numpy.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)
