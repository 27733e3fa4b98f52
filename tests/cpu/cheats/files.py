"""Files of candidates that are right or wrong beside a small reference, judged together."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from modelnew.check import Report, check_files
from modelnew.problem import Problem

HEAD = """
import _thread, atexit, gc, os, signal, sys, threading, time, json
import torch
import torch.nn as nn
import torch.nn.functional as F
"""

MODEL = """
class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(40, 24)
{init}

    def forward(self, x):
{forward}
"""

INPUTS = """
def get_inputs():
    return [torch.rand(14, 40)]

def get_init_inputs():
    return []
"""

RIGHT = "return F.relu(self.linear(x))"


@dataclass(frozen=True)
class Cheat:
    """forward: the body. reason: what the report must say. top: code at the top of the file."""

    forward: str
    reason: str
    init: str = ""
    top: str = ""


def when(condition: str) -> str:
    """Right but for 1 % under a condition."""
    return f"y = F.relu(self.linear(x))\nreturn y * 1.01 if {condition} else y"


def write(folder: Path, name: str, cheat: Cheat) -> Path:
    init, forward = textwrap.indent(cheat.init, " " * 8), textwrap.indent(cheat.forward, " " * 8)
    path = folder / f"{name.replace(' ', '_').replace('.', '_')}.py"
    path.write_text(HEAD + cheat.top + MODEL.format(name="ModelNew", init=init, forward=forward))
    return path


def judged(folder: Path, cheats: dict[str, Cheat]) -> dict[str, Report]:
    """The reports of all, judged side by side."""
    reference = folder / "reference.py"
    forward = textwrap.indent(RIGHT, " " * 8)
    reference.write_text(HEAD + MODEL.format(name="Model", init="", forward=forward) + INPUTS)
    paths = [write(folder, name, cheat) for name, cheat in cheats.items()]
    options = {"seed": 4, "time_limit": 25.0, "memory_limit": 1 << 30, "disk_limit": 300_000_000}
    return dict(zip(cheats, check_files(Problem.load(reference), paths, **options), strict=True))


def said(report: Report) -> list[str]:
    """All that it was rejected for."""
    return [report.headline] + [f"{case.name}: {case.reason}" for case in report.cases if case.outcome == "rejected"]
