"""From a reference file to the text of its optimised file; a measurement may have a say in what it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import modelnew
from modelnew import reference as reference_file
from modelnew.bench.kernels import Contest
from modelnew.bench.products import faster_products
from modelnew.compiler import PRECISIONS, Program, compile_source, with_products
from modelnew.errors import BuildError, UsageError
from modelnew.kept import contested, told
from modelnew.problem import Problem
from modelnew.progress import Progress
from modelnew.render.file import Origin, render_file
from modelnew.runtime.toolchain import BuildFailure, find_tools

PASSES = ("capture", "rewrite", "partition", "lower", "forward", "program")


class _ProblemSource:
    """A reference file, as the compiler takes it."""

    def __init__(self, problem: Problem, device: str, dtype: str | None) -> None:
        self.problem, self.device, self.dtype = problem, device, dtype

    def abstract(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, list[Any]]:
        found = self.problem.abstract(device=self.device, dtype=dtype or self.dtype)
        return found.model, found.inputs


@dataclass(frozen=True)
class Finished:
    """`text`: the optimised file. `shown`: what --show asked to see. `contests`: kernels that were timed, with `notes` of
    what was decided by it."""

    problem: Problem
    program: Program
    text: str
    shown: str
    contests: Sequence[Contest]
    notes: tuple[str, ...]


class Draft:
    """A reference file as a program, before anything is measured. device: such as "cuda:0". dtype, precision: as
    `api.optimize_file` takes them; show: a pass, or "all"."""

    def __init__(
        self,
        path: Path,
        overrides: Mapping[str, object] | None,
        device: str,
        dtype: str | None,
        progress: Progress,
        *,
        show: str | None = None,
        precision: str = "fp32",
    ) -> None:
        if show is not None and show not in (*PASSES, "all"):
            raise UsageError(
                f"there is no pass {show!r}", doing="reading --show", hint=f"Choose from {', '.join(PASSES)}, all."
            )
        self.precision = known_precision(precision)
        self.device, self.dtype = device, dtype
        progress(f"reading {path.name}")
        self.problem = Problem.load(path, overrides)
        self._source = _ProblemSource(self.problem, device, dtype)
        seen: list[str] = []

        def keep(name: str, value: object) -> None:
            progress(f"compiling: {name}")
            if show in (name, "all"):
                seen.append(f"== {name}\n{value}")

        self.program = compile_source(self._source, keep)
        self.shown = "\n".join(seen)

    def finish(self, progress: Progress, *, measure: bool) -> Finished:
        """measure: let a measurement say which kernels are kept, and which library computes a product; the draft is then
        used up."""
        program, contests, onednn = self.program, list[Contest](), list[str]()
        if measure and program.kernels:
            require_compiler(self.device)
            program, contests = contested(program, self._source.abstract()[0], self.device, progress)
        if measure and self.device == "cpu":
            progress("measuring products")
            onednn = faster_products(program.captured)
        program = with_products(program, frozenset(onednn), precision=self.precision)
        notes = told(contests, onednn)
        text = render_file(program, self._source.abstract()[0], self._origin(notes))
        return Finished(self.problem, program, text, self.shown, contests, notes)

    def _origin(self, notes: tuple[str, ...]) -> Origin:
        problem = self.problem
        args, kwargs = reference_file.constructor_arguments(problem.path, problem.module)
        settings = [f"--set {name}={shlex.quote(str(value))}" for name, value in problem.overrides.items()]
        options = [*settings, *([f"--dtype {self.dtype}"] if self.dtype else [])]
        command = " ".join(["modelnew optimize", problem.path.name, *options])
        command += "" if self.precision == "fp32" else f" --precision {self.precision}"
        arguments = (tuple(args), dict(kwargs))
        return Origin(problem.path.name, problem.source, command, modelnew.__version__, arguments, notes=notes)


def known_precision(precision: str) -> str:
    """One of PRECISIONS. Raises UsageError for another."""
    if precision not in PRECISIONS:
        choice = ", ".join(PRECISIONS)
        raise UsageError(
            f"there is no precision {precision!r}", doing="reading the precision", hint=f"Choose from {choice}."
        )
    return precision


def require_compiler(device: str) -> None:
    """Raises BuildError where the kernels could not be built at all: that is no verdict on them."""
    try:
        find_tools("cuda" if device.startswith("cuda") else "cpu")
    except BuildFailure as failure:
        problem, _, fix = str(failure).partition("\n  hint: ")
        hint = "`modelnew doctor` says more; --no-check --no-bench writes the file without building it."
        hint = f"{fix[0].upper()}{fix[1:]}. {hint}" if fix else hint
        raise BuildError(problem, doing="looking for the compiler", hint=hint) from None
