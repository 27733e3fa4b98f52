"""Timing files in processes of their own: honest candidates are measured, dishonest ones are found out."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modelnew.bench import Report, Work, bench_file, race, schedule
from modelnew.bench.fleet import Nursery
from modelnew.errors import MemoryShortError, ReferenceFileError, UsageError
from modelnew.problem import Problem

REFERENCE = """
import torch
from torch import nn

rows = 64

class Model(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        return torch.sigmoid(x * self.scale)

def get_inputs():
    return [torch.rand(rows, 1024)]

def get_init_inputs():
    return [1024]
"""

PRELUDE = """
import os, queue, sys, threading, time
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns))

    def forward(self, x):
        return torch.sigmoid(x * self.scale)

"""

CANDIDATES = {
    "honest": """
        class ModelNew(Model):
            pass
        """,
    "tenfold": """
        class ModelNew(Model):
            def forward(self, x):
                for _ in range(9):
                    super().forward(x)
                return super().forward(x)
        """,
    "keeps_results": """
        class ModelNew(Model):
            kept = {}
            def forward(self, x):
                key = (x.data_ptr(), x._version, x.shape)
                if key not in self.kept:
                    self.kept[key] = super().forward(x)
                return self.kept[key]
        """,
    "wears_out": """
        class ModelNew(Model):
            last, changes = None, -1
            def forward(self, x):  # the inputs change between timed samples
                first = x[0, 0].item()
                self.changes += first != self.last
                self.last = first
                result = super().forward(x)
                return result if self.changes < 3 else result * 1.001
        """,
    "patched_clock": """
        real = time.perf_counter_ns
        time.perf_counter_ns = lambda: real() // 3
        sys.modules["modelnew.bench.clock"]._now = time.perf_counter_ns
        class ModelNew(Model):
            pass
        """,
    "answers_later": """
        class ModelNew(Model):
            waiting = None
            def forward(self, x):
                if self.waiting is None:
                    self.waiting = queue.SimpleQueue()
                    threading.Thread(target=self.work, daemon=True).start()
                result = torch.empty_like(x)
                self.waiting.put((x, result))
                return result
            def work(self):
                while True:
                    x, result = self.waiting.get()
                    time.sleep(0.001)
                    result.copy_(Model.forward(self, x))
        """,
    "slows_others": """
        def burn():
            while True:
                sum(range(1000))
        class ModelNew(Model):
            thread = None
            def forward(self, x):
                if self.thread is None:
                    self.thread = threading.Thread(target=burn, daemon=True)
                    self.thread.start()
                return super().forward(x)
        """,
    "reports_nothing": """
        sys.modules["modelnew.bench.clock"]._now = lambda: 0
        class ModelNew(Model):
            pass
        """,
    "crashes": """
        class ModelNew(Model):
            def forward(self, x):
                print("about to fall", file=sys.stderr, flush=True)
                os.kill(os.getpid(), 11)
        """,
    "leaves": """
        class ModelNew(Model):
            def forward(self, x):
                sys.exit(0)
        """,
    "other_parameters": """
        class ModelNew(nn.Module):
            def __init__(self, columns):
                super().__init__()
                self.weight = nn.Parameter(torch.randn(columns))
        """,
    "no_model": "",
}


def write(folder: Path, name: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(PRELUDE + textwrap.dedent(CANDIDATES[name]))
    return path


def problem(folder: Path, text: str = REFERENCE) -> Problem:
    path = folder / "reference.py"
    path.write_text(text)
    return Problem.load(path)


@pytest.fixture(scope="module", autouse=True)
def few_and_narrow() -> Iterator[None]:
    """Two sets of processes, however long a busy machine takes to set them up. One thread: pools of several processes on few
    cores wait for each other, which would make these short times random."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(race.PROCESSES, "cpu", 2)
        patch.setattr(schedule, "_SETUP_SHARE", 1e6)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery("modelnew.bench.worker") as started:
        yield started


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """All candidates in one run: none of them may spoil another's row."""
    folder = tmp_path_factory.mktemp("files")
    files = [write(folder, name) for name in CANDIDATES] + [folder / "missing.py"]
    bytes_of_x = 4 * 64 * 1024
    messages: list[str] = []
    made = bench_file(
        problem(folder),
        files,
        baselines=("eager",),
        budget_s=2,
        seed=3,
        work=Work(bytes_of_x, bytes_of_x),
        progress=messages.append,
    )
    assert any("process set 2 of" in message for message in messages)
    return made


def test_honest_candidates_are_measured(report: Report) -> None:
    eager, honest, tenfold = (report.row(name) for name in ("eager", "honest.py", "tenfold.py"))
    assert honest.ratio is not None and tenfold.ratio is not None
    assert honest.ratio.value > 2 * tenfold.ratio.value
    assert tenfold.verdict in ("slower", "ambiguous")  # how sure it can be depends on who else uses the machine
    assert eager.error_against == "float64"
    assert eager.error == honest.error
    assert eager.error is not None and 0 < eager.error < 1e-6
    assert eager.seconds_reused is not None and eager.seconds_reused > 0
    assert eager.over_floor is not None and eager.over_floor > 0
    assert report.protocol["processes"] == 2
    assert report.protocol["isolation"] == "a process per file"
    assert report.protocol["outputs_checked_while_timed"]
    json.loads(report.json())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("keeps_results", "did not answer to the inputs"),
        ("wears_out", "differently after the timed runs"),
        ("patched_clock", "its clock says"),
        ("answers_later", "not believed"),
        ("slows_others", "not believed"),
        ("reports_nothing", "not believed"),
        ("crashes", "SIGSEGV: about to fall"),
        ("leaves", "SystemExit"),
        ("other_parameters", "state_dict"),
        ("no_model", "no ModelNew"),
        ("missing", "FileNotFoundError"),
    ],
)
def test_dishonest_and_broken_candidates_are_rows_that_say_so(report: Report, name: str, why: str) -> None:
    row = report.row(f"{name}.py")
    assert row.failed
    assert why in row.reason
    assert row.seconds is None and row.ratio is None and not row.verdict


def test_the_same_file_twice_gives_two_rows(tmp_path: Path, nursery: Nursery) -> None:
    file = write(tmp_path, "honest")
    made = bench_file(problem(tmp_path), [file, file], baselines=(), budget_s=0.1, seed=1, nursery=nursery)
    assert [row.name for row in made.rows()] == ["eager", "honest.py", str(file)]
    assert [row.reason for row in made.rows()] == [""] * 3


@pytest.mark.parametrize("factor", ["torch.rand_like(x)", "next(SIGNS)"])  # of two signs, two processes often draw one
def test_a_random_reference_is_timed_without_looking_at_its_outputs(
    tmp_path: Path, nursery: Nursery, factor: str
) -> None:
    signs = "from itertools import cycle\nSIGNS = cycle([1, -1])\n"
    random_reference = problem(tmp_path, signs + REFERENCE.replace("x * self.scale", f"x * {factor}"))
    honest = write(tmp_path, "honest")
    made = bench_file(random_reference, [honest], baselines=(), budget_s=0.1, seed=1, nursery=nursery)
    assert not made.row("honest.py").failed
    assert not made.protocol["outputs_checked_while_timed"]


def test_processes_that_take_long_to_set_up_are_few(
    tmp_path: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "_SETUP_SHARE", 2.0)
    slow = REFERENCE.replace("def get_inputs():", "def get_inputs():\n    import time; time.sleep(0.5)")
    honest = write(tmp_path, "honest")
    made = bench_file(problem(tmp_path, slow), [honest], baselines=(), budget_s=0.2, seed=1, nursery=nursery)
    assert made.protocol["processes"] == 1 and made.row("honest.py").ratio is not None


def test_a_reference_that_cannot_run_is_an_error(tmp_path: Path, nursery: Nursery) -> None:
    wrong = problem(tmp_path, REFERENCE.replace("x * self.scale", "x * self.scale.nothing"))
    with pytest.raises(ReferenceFileError, match="nothing"):
        bench_file(wrong, [], baselines=(), budget_s=0.5, nursery=nursery)
    with pytest.raises(UsageError, match="no baseline 'nvfuser'"):
        bench_file(problem(tmp_path), [], baselines=("nvfuser",), budget_s=0.5)


def test_what_does_not_fit_is_said_before_it_starts(tmp_path: Path, nursery: Nursery) -> None:
    with pytest.raises(MemoryShortError, match="needed"):
        bench_file(
            problem(tmp_path, REFERENCE.replace("rows = 64", "rows = 1 << 40")), [], baselines=(), nursery=nursery
        )
