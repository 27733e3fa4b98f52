"""A folder of reference files: each optimised, checked and timed, in processes of its own; resumed where it stopped.

First everything is built, on all cores; then everything is timed, one at a time: no build overlaps with a timed region.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modelnew import __version__, constants, reference
from modelnew.bench.documents import FOLDER, Document
from modelnew.errors import EXIT_GOOD, EXIT_NOT_MET, BenchError, ModelnewError, UsageError
from modelnew.outputs import report_name

_ERROR = "error: "  # how the commands begin what they say of an error
SPEEDS = (1.0, 1.5, 2.0)

Commands = Callable[[Path, Mapping[str, str], Path], Sequence[str]]


@dataclass(frozen=True)
class Task:
    """One reference file, the overrides that it has constants for, and where its results are kept."""

    path: Path
    overrides: Mapping[str, str]
    results: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def output(self) -> Path:
        return self.results / f"{self.path.stem}_new.py"

    @property
    def verdict(self) -> Path:
        return self.results / f"{self.path.stem}.verdict.json"

    @property
    def times(self) -> Path:
        return self.results / f"{self.path.stem}.times.json"


@dataclass(frozen=True)
class FolderReport:
    """tasks: {task, accepted, reason, report ("modelnew.bench/1" or None)}, in the order of their names."""

    folder: str
    tasks: tuple[Document, ...]
    sources: Mapping[str, str] = field(default_factory=dict)  # task → text of its optimised file

    @property
    def accepted(self) -> bool:
        """Whether every task was."""
        return all(task["accepted"] for task in self.tasks)

    def summary(self) -> Document:
        """fast_p {"1": share, "1.5": …, "2": …}: of all tasks, those accepted and more than p times as fast as eager;
        geometric_mean of the accepted tasks' speed-ups (None without any); slower: names of those slower than eager."""
        ratios = {task["task"]: _ratio(task) for task in self.tasks if task["accepted"]}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        share = {f"{p:g}": sum(r > p for r in known.values()) / max(1, len(self.tasks)) for p in SPEEDS}
        mean = math.exp(sum(map(math.log, known.values())) / len(known)) if known else None
        slower = [task["task"] for task in self.tasks if (new := _candidate(task)) and new["verdict"] == "slower"]
        return {"fast_p": share, "geometric_mean": mean, "slower": slower}

    def as_dict(self) -> Document:
        """Schema "modelnew.bench-folder/1"."""
        return {"schema": FOLDER, "folder": self.folder, "tasks": list(self.tasks), "summary": self.summary()}


def bench_folder(
    folder: Path,
    results: Path,
    *,
    overrides: Mapping[str, str],
    optimise: Commands,
    device: str,
    dtype: str | None,
    baselines: Sequence[str],
    budget_s: float,
    progress: Callable[[str], None],
) -> FolderReport:
    """Optimises, checks and times every reference file of `folder`.

    results: a folder that keeps what is done; a task that is there, made from the same text with the same options, is
        not done again.
    overrides: constant → value, applied to the files that have the constant.
    optimise: (reference, overrides, output) → the command line that writes the optimised file and `OUTPUT.report.json`
        beside it, with exit code 0 when it is accepted and 1 when it is not.
    budget_s: seconds of timing per task.
    Raises BenchError for a folder without reference files, UsageError for an override that no file has.
    """
    tasks = _tasks(folder, results, overrides)
    results.mkdir(parents=True, exist_ok=True)
    workers = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda task: _build(task, optimise, f"{device} {dtype}"), tasks)
        for number, task in enumerate(done, 1):
            progress(f"built {task.name} ({number} of {len(tasks)})")
    rows = []
    for number, task in enumerate(tasks, 1):
        progress(f"timing {task.name} ({number} of {len(tasks)})")
        rows.append(_row(task, device, dtype, baselines, budget_s))
    sources = {task.name: task.output.read_text() for task in tasks if task.output.exists()}
    return FolderReport(str(folder), tuple(rows), sources)


def _tasks(folder: Path, results: Path, overrides: Mapping[str, str]) -> list[Task]:
    tasks: list[Task] = []
    there: dict[str, None] = {}  # every constant of every file, in order
    for path in sorted(folder.glob("*.py")):
        try:
            source = reference.read(path)
        except ModelnewError:
            source = ""  # the build says what is wrong with it
        if "get_inputs" not in source and source:
            continue
        known = constants.constants(source) if source else {}
        there |= dict.fromkeys(known)
        mine = {name: value for name, value in overrides.items() if name in known}
        tasks.append(Task(path, mine, results))
    if not tasks:
        raise BenchError("there is no reference file in this folder", doing="timing a folder", on=str(folder))
    for name, value in overrides.items():
        if name not in there:
            raise UsageError(
                f"no file of the folder has a constant {name}",
                doing=f"setting {name}={value}",
                on=str(folder),
                hint=f"Their constants: {', '.join(there) or 'none'}.",
            )
    return tasks


def _key(task: Task, options: str) -> str:
    parts = [__version__, torch.__version__, task.path.read_text(), json.dumps(dict(task.overrides)), options]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _kept(path: Path, key: str) -> Document | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document["result"] if isinstance(document, dict) and document.get("key") == key else None


def _keep(path: Path, key: str, result: Document) -> Document:
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "result": result}, indent=1))
    part.replace(path)  # an interruption leaves the old result or the new one, never half of it
    return result


def _build(task: Task, optimise: Commands, options: str) -> Task:
    """Writes the optimised file and its verdict, unless they are there."""
    key = _key(task, options)
    kept = _kept(task.verdict, key)
    if kept is None or (kept["accepted"] and not task.output.exists()):
        command = optimise(task.path, task.overrides, task.output)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        accepted = done.returncode == EXIT_GOOD
        reason = None if accepted else (_headline(task) if done.returncode == EXIT_NOT_MET else "") or _said(done)
        _keep(task.verdict, key, {"accepted": accepted, "reason": reason})
    return task


def _headline(task: Task) -> str:
    """The verdict in the report beside the optimised file; empty without one."""
    return str(_report(task).get("check", {}).get("headline", ""))


def _said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command's error says, or its last lines, as one line."""
    lines = [line.strip() for line in (done.stderr.strip() or done.stdout.strip()).splitlines()]
    errors = [i for i, line in enumerate(lines) if line.startswith(_ERROR)]
    return "; ".join(lines[errors[-1] :] if errors else lines[-4:]).removeprefix(_ERROR)


def _row(task: Task, device: str, dtype: str | None, baselines: Sequence[str], budget_s: float) -> Document:
    key = _key(task, f"{device} {dtype}")
    verdict = _kept(task.verdict, key) or {"accepted": False, "reason": "was not built"}
    row: Document = {"task": task.name, **verdict, "report": None}
    if not verdict["accepted"]:
        return row
    timed_key = _key(task, f"{device} {dtype} {list(baselines)} {budget_s} {task.output.read_text()}")
    report = _kept(task.times, timed_key) or _time(task, timed_key, device, dtype, baselines, budget_s)
    return {**row, "report": report} if "schema" in report else {**row, **report}


def _time(task: Task, key: str, device: str, dtype: str | None, baselines: Sequence[str], budget_s: float) -> Document:
    request = {
        "path": str(task.path),
        "overrides": dict(task.overrides),
        "candidate": str(task.output),
        "work": _kept_work(task),
        "options": {"device": device, "dtype": dtype, "baselines": list(baselines), "budget_s": budget_s},
    }
    command = [sys.executable, "-m", "modelnew.bench.task", json.dumps(request)]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        return {"reason": _said(done) or f"ended with code {done.returncode}"}
    return _keep(task.times, key, json.loads(done.stdout.splitlines()[-1]))


def _kept_work(task: Task) -> Document | None:
    """Bytes and flops of the model, from the report beside the optimised file."""
    work: Document | None = _report(task).get("work")
    return work


def _report(task: Task) -> Document:
    """What the command that wrote the optimised file wrote beside it; empty where there is none."""
    try:
        report: Document = json.loads(report_name(task.output).read_text())
    except (OSError, ValueError):
        return {}
    return report


def _candidate(task: Document) -> dict[str, Any] | None:
    variants: list[dict[str, Any]] = task["report"]["variants"] if task["report"] else []
    return variants[-1] if variants and variants[-1]["status"] == "timed" else None


def _ratio(task: Document) -> float | None:
    new = _candidate(task)
    return float(new["ratio"]) if new else None
