"""A folder of reference files: each optimised, checked and timed, in a process of its own; resumed where it stopped.

Some files at a time: first they are built, on all cores; then they are timed, one at a time. No build overlaps with a
timed region.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from modelnew import __version__, constants, reference
from modelnew.bench.documents import FOLDER, Document
from modelnew.bench.fleet import Nursery, VariantFailedError, Worker
from modelnew.bench.variants import prepared
from modelnew.errors import BenchError, ModelnewError, OutputError, UsageError
from modelnew.progress import Progress

SPEEDS = (1.0, 1.5, 2.0)
_BATCH = 8  # files whose processes are there at once, built and waiting to be timed


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
        geometric_mean of the accepted tasks' speed-ups (None without any); slower: names of those slower than eager;
        ambiguous: names of those of which nothing is certain, though their speed-ups count above."""
        ratios = {task["task"]: _ratio(task) for task in self.tasks if task["accepted"]}
        known = {name: ratio for name, ratio in ratios.items() if ratio is not None}
        share = {f"{p:g}": sum(r > p for r in known.values()) / max(1, len(self.tasks)) for p in SPEEDS}
        mean = math.exp(sum(map(math.log, known.values())) / len(known)) if known else None
        timed = {task["task"]: new for task in self.tasks if (new := _candidate(task))}
        slower = [name for name, new in timed.items() if _is_slower(new)]
        ambiguous = [n for n, new in timed.items() if new["verdict"] == "ambiguous" and n not in slower]
        return {"fast_p": share, "geometric_mean": mean, "slower": slower, "ambiguous": ambiguous}

    def as_dict(self) -> Document:
        """Schema "modelnew.bench-folder/1"."""
        return {"schema": FOLDER, "folder": self.folder, "tasks": list(self.tasks), "summary": self.summary()}


def bench_folder(
    folder: Path,
    results: Path,
    *,
    overrides: Mapping[str, str],
    command: str,
    device: str,
    dtype: str | None,
    baselines: Sequence[str],
    budget_s: float,
    limit_s: float,
    progress: Progress,
) -> FolderReport:
    """Optimises, checks and times every reference file of `folder`.

    results: a folder that keeps what is done; a task that is there, made from the same text with the same options, is
        not done again.
    overrides: constant → value, applied to the files that have the constant.
    command: the module whose workers do a task: `modelnew.task`.
    budget_s: seconds of timing per task. limit_s: seconds after which a task is given up, in each of its two parts.
    Raises BenchError for a folder without reference files, or whose results another run is at work on; UsageError for an
    override that no file has.
    """
    tasks = _tasks(folder, results, overrides)
    options = {"device": device, "dtype": dtype}
    timing = {**options, "baselines": list(baselines), "budget_s": budget_s}
    rows: list[Document] = []
    with _held(results), _Processes(command, *prepared(baselines, device)) as processes:
        for first in range(0, len(tasks), _BATCH):
            runs = [_Run(task, processes, options, timing, limit_s) for task in tasks[first : first + _BATCH]]
            beside = min(len(runs), len(os.sched_getaffinity(0)))
            with ThreadPoolExecutor(beside) as pool:
                for number, run in enumerate(pool.map(_Run.build, runs, [beside] * len(runs)), len(rows) + 1):
                    progress(f"built {run.task.name} ({number} of {len(tasks)})")
            for run in runs:
                progress(f"timing {run.task.name} ({len(rows) + 1} of {len(tasks)})")
                rows.append(run.time())
    sources = {task.name: task.output.read_text() for task in tasks if task.output.exists()}
    return FolderReport(str(folder), tuple(rows), sources)


@contextlib.contextmanager
def _held(results: Path) -> Iterator[None]:
    """The folder of results, for this run alone: another's would be in the way of its times, and of its files. Raises
    BenchError, OutputError."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        opened = (results / ".lock").open("w")
    except OSError as error:
        raise _not_kept(results, error) from None
    with opened as lock:  # the system lets go of it however this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(
                "another run is at work on these results",
                doing="timing a folder",
                on=str(results),
                hint="Wait for it, or name another folder with --results.",
            ) from None
        yield


class _Processes(contextlib.ExitStack):
    """The tasks' processes: where they come from is started when the first is asked for. Leaving the context ends all."""

    def __init__(self, *command: str) -> None:
        super().__init__()
        self._command, self._starting = command, threading.Lock()
        self._nursery: Nursery | None = None

    def worker(self) -> Worker:
        """Raises BenchError."""
        with self._starting:
            if self._nursery is None:
                self._nursery = self.enter_context(Nursery(*self._command))
        return self._nursery.worker()


class _Run:
    """A task on its way: what is kept of it is used; for the rest it has a process, from the build until it is timed."""

    def __init__(self, task: Task, processes: _Processes, options: Document, timing: Document, limit_s: float) -> None:
        self.task, self._processes, self._limit_s = task, processes, limit_s
        self._options, self._timing = options, timing
        self._key = _key(task, json.dumps(options))
        self._worker: Worker | None = None
        self._verdict: Document = {}

    def build(self, beside: int) -> _Run:
        """Writes the optimised file and its verdict, unless they are there; `beside` are built at once."""
        verdict = _kept(self.task.verdict, self._key)
        if verdict is None or (verdict["accepted"] and not self.task.output.exists()):
            self.task.output.unlink(missing_ok=True)  # of another text, or with other options
            verdict = self._ask("build", {**self._options, "beside": beside})
            if verdict["accepted"] and not self.task.output.exists():
                verdict = {"accepted": False, "reason": "its process wrote no file"}
            if not verdict.pop("passing", False):
                _keep(self.task.verdict, self._key, verdict)
        self._verdict = verdict
        return self

    def time(self) -> Document:
        """The row of the task."""
        row: Document = {"task": self.task.name, **self._verdict, "report": None}
        if self._verdict["accepted"]:
            report = _kept(self.task.times, self._times_key())
            row = {**row, "report": report} if report else {**row, **self._measure()}
        if self._worker is not None:
            self._worker.end()
        return row

    def _measure(self) -> Document:
        """{accepted, reason, report}: a measurement may leave a kernel to PyTorch, which is a verdict of its own."""
        answer = self._ask("time", self._timing)
        verdict = {"accepted": answer["accepted"], "reason": answer["reason"]}
        if answer.get("report"):
            _keep(self.task.verdict, self._key, verdict)
            _keep(self.task.times, self._times_key(), answer["report"])
            return {**verdict, "report": answer["report"]}
        return verdict  # not kept: the next run tries again

    def _times_key(self) -> str:
        return _key(self.task, json.dumps(self._timing) + self.task.output.read_text())

    def _ask(self, do: str, options: Document) -> Document:
        """What the task's process answers; where it does not come to that: {accepted, reason, passing: True}, for another run
        may have more memory, or time."""
        task = self.task
        where = {"path": str(task.path), "overrides": dict(task.overrides), "output": str(task.output)}
        try:
            if self._worker is None or self._worker.ended:
                self._worker = self._processes.worker()
            return self._worker.ask(do, timeout_s=self._limit_s, **where, **options)
        except BenchError as error:
            why = error.problem  # no process to be had
        except VariantFailedError as error:
            why = str(error)
        return {"accepted": do == "time", "reason": why, "passing": True}


def _tasks(folder: Path, results: Path, overrides: Mapping[str, str]) -> list[Task]:
    tasks: list[Task] = []
    there: dict[str, None] = {}  # every constant of every file, in order
    for path in sorted(folder.glob("*.py")):
        if path.is_dir():
            continue
        try:
            source = reference.read(path)
            if "get_inputs" not in source:
                continue
            known = constants.constants(source)
        except ModelnewError:
            known = {}  # the build says what is wrong with it
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
    text = b""
    with contextlib.suppress(OSError):  # one that cannot be read: the build says so
        text = task.path.read_bytes()
    parts = [__version__, torch.__version__, json.dumps(dict(task.overrides)), options]
    return hashlib.sha256("\0".join(parts).encode() + b"\0" + text).hexdigest()


def _kept(path: Path, key: str) -> Document | None:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document["result"] if isinstance(document, dict) and document.get("key") == key else None


def _keep(path: Path, key: str, result: Document) -> None:
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps({"key": key, "result": result}, indent=1))
        part.replace(path)  # an interruption leaves the old result or the new one, never half of it
    except OSError as error:
        raise _not_kept(path, error) from None


def _not_kept(path: Path, error: OSError) -> OutputError:
    hint = "Name another folder with --results."
    return OutputError(f"cannot be written: {error.strerror}", doing="keeping results", on=str(path), hint=hint)


def _candidate(task: Document) -> dict[str, Any] | None:
    variants: list[dict[str, Any]] = task["report"]["variants"] if task["report"] else []
    return variants[-1] if variants and variants[-1]["status"] == "timed" else None


def _is_slower(new: Document) -> bool:
    """Whether its whole interval lies below 1: a regression is shown even where a verdict is not given, because that
    day's noise was more. "same" is a verdict."""
    below = new["high"] is not None and new["high"] < 1
    return new["verdict"] == "slower" or (new["verdict"] == "ambiguous" and below)


def _ratio(task: Document) -> float | None:
    new = _candidate(task)
    return float(new["ratio"]) if new else None
