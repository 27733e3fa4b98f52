"""Everything that can go wrong for a user: one base class, one subclass per kind.

A message says what is wrong, what was being done and on what, and what to do about it:

    raise ReferenceFileError("get_inputs() returned a Tensor, not a list", doing="making inputs",
                             on="softmax.py:12", hint="return a list: [x]")

The command line prints the message, never a traceback, and exits with `EXIT_BAD_INPUT`.
"""

from __future__ import annotations

EXIT_NOT_MET = 1  # a verdict of "rejected", or a speed that was asked for and not reached
EXIT_BAD_INPUT = 2


class ModelnewError(Exception):
    """Base of all errors that a user can do something about.

    problem: what is wrong, one line (more where a compiler or a model said more).
    doing: what was being done, as in "building the kernel".
    on: what it was done on: a file and line, an operator with its shapes, an option.
    hint: what the user can do.
    """

    def __init__(self, problem: str, *, doing: str = "", on: str = "", hint: str = "") -> None:
        super().__init__(problem)  # only `problem`, so that the error survives pickling (the rest travels in __dict__)
        self.problem = problem
        self.doing = doing
        self.on = on
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.problem]
        if self.doing or self.on:
            where = ": ".join(part for part in (self.doing, self.on) if part)
            lines.append(f"  while {where}" if self.doing else f"  in {where}")
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class UsageError(ModelnewError):
    """An option or argument that cannot be what was meant."""


class ReferenceFileError(ModelnewError):
    """A reference file that is missing, does not run, or does not define what it must."""


class CaptureError(ModelnewError):
    """A model whose graph cannot be read; `on` names the source line."""


class UnsupportedError(ModelnewError):
    """A dtype, device or operator that modelnew does not handle (complex, quantised, …)."""


class MemoryShortError(ModelnewError):
    """The work would not fit in memory, found before starting it."""


class BuildError(ModelnewError):
    """A kernel that could not be built: no compiler, or the compiler refused."""


class OutputError(ModelnewError):
    """A result that cannot be written where it should go."""


class CheckError(ModelnewError):
    """A check that could not be carried out (a rejected candidate is a verdict, not an error)."""


class BenchError(ModelnewError):
    """A timing that could not be carried out."""
