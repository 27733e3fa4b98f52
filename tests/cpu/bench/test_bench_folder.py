"""A folder of reference files: with a stand-in for what optimises one (`copying`), killed, gone on with, changed; and as the
command does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from typer.testing import CliRunner

from modelnew.bench.fleet import Nursery, Worker
from modelnew.bench.folder import FolderReport, _held, bench_folder
from modelnew.cli import app
from modelnew.errors import BenchError, UsageError

MODEL = """
import torch
size = 64

class Model(torch.nn.Module):
    def forward(self, x):
        return {forward}

def get_inputs():
    return [torch.rand(size, 256)]

def get_init_inputs():
    return []
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Of all the processes here: thread pools on few cores wait for each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def models(place: Path, **texts: str) -> Path:
    """A folder of reference files: name → what `forward` returns, or a whole text."""
    folder = place / "models"
    folder.mkdir()
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text if "\n" in text else MODEL.format(forward=text))
    return folder


def run(folder: Path, overrides: Mapping[str, str], results: str = "results") -> tuple[FolderReport, list[str]]:
    """The report, and the progress messages."""
    messages: list[str] = []
    report = bench_folder(
        folder,
        folder.parent / results,
        overrides=overrides,
        command="tests.cpu.bench.copying",
        device="cpu",
        dtype=None,
        baselines=("eager",),
        budget_s=0.3,
        limit_s=900.0,
        progress=messages.append,
    )
    return report, messages


@dataclass
class Course:
    """A folder that was begun and killed, gone on with, and gone on with again after one file has changed."""

    folder: Path
    left_behind: list[int]  # of the killed run's processes
    built: list[list[str]]  # what each of the three runs built
    reports: list[FolderReport]  # of the two that ended
    messages: list[str]  # of the first that ended


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    place = tmp_path_factory.mktemp("folder")
    forwards = {
        "good": "torch.sigmoid(x)",
        "fine": "torch.cos(x)",
        "wrong": "torch.tanh(x)",
        "silent": "x",
        "leaves": "x",
    }
    folder = models(place, crashes="x.no_such_method()", hangs="x", helper="def helper():\n    return 1\n", **forwards)
    log = place / "results" / "log"
    program = f"import pathlib, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
    program += f"from tests.cpu.bench.test_bench_folder import run; run(pathlib.Path({str(folder)!r}), {{'size': '8'}})"
    running = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        _until(lambda: (place / "results" / "good.verdict.json").exists() and "hangs" in log.read_text())
        mine = _descendants(running.pid)
        assert len(mine) >= 3  # where the tasks' processes come from, theirs, and where those that time come from
    finally:
        running.kill()
        running.wait()
    _until(lambda: not any(_runs(pid) for pid in mine))  # nothing stays behind to disturb the next run
    built = [log.read_text().splitlines()]
    with pytest.MonkeyPatch.context() as patch:
        _give_up_at_once(patch, "hangs.py")
        first, messages = run(folder, {"size": "8"})
        built.append(log.read_text().splitlines()[len(built[0]) :])
        (folder / "fine.py").write_text(MODEL.format(forward="torch.relu(x)"))
        second, _ = run(folder, {"size": "8"})
        built.append(log.read_text().splitlines()[len(built[0]) + len(built[1]) :])
    yield Course(folder, mine, built, [first, second], messages)


def _give_up_at_once(patch: pytest.MonkeyPatch, name: str) -> None:
    """Only this file's answer is not waited for: a limit for all would be too short for some on a busy machine."""
    ask = Worker.ask

    def impatient(self: Worker, do: str, *, timeout_s: float = 120.0, **request: Any) -> Any:
        return ask(self, do, timeout_s=0.5 if str(request.get("path")).endswith(name) else timeout_s, **request)

    patch.setattr(Worker, "ask", impatient)


def test_each_file_is_a_row(course: Course) -> None:
    rows = {task["task"].removesuffix(".py"): task for task in course.reports[0].tasks}
    assert list(rows) == ["crashes", "fine", "good", "hangs", "leaves", "silent", "wrong"]
    good = rows["good"]["report"]["variants"][1]
    assert (good["name"], good["status"]) == ("good_new.py", "timed")
    why = {
        "crashes": "AttributeError",
        "hangs": "gave no answer within",
        "leaves": "its process ended with code 0",
        "silent": "its process wrote no file",
        "wrong": "last element",
    }
    for name, part in why.items():
        assert rows[name]["report"] is None and part in rows[name]["reason"], rows[name]
    assert [name for name, row in rows.items() if row["accepted"]] == ["crashes", "fine", "good"]
    assert not course.reports[0].accepted


def test_nothing_is_built_while_something_is_timed(course: Course) -> None:
    last = max(i for i, message in enumerate(course.messages) if message.startswith("built"))
    assert last < min(i for i, message in enumerate(course.messages) if message.startswith("timing"))


def test_what_is_done_is_not_done_again(course: Course) -> None:
    killed, resumed, changed = (set(names) for names in course.built)
    assert {"good.py", "hangs.py"} <= killed
    assert "good.py" not in resumed and "hangs.py" in resumed
    assert killed | resumed == {f"{name}.py" for name in "crashes fine good hangs leaves silent wrong".split()}
    # one has changed; where a process failed, another run may do better; what wrote no file would do so again
    assert changed == {"fine.py", "hangs.py", "leaves.py"}
    first, second = ({task["task"]: task for task in report.tasks} for report in course.reports)
    assert second["good.py"] == first["good.py"]  # times and all
    assert second["fine.py"] != first["fine.py"]


def test_results_that_are_all_there_need_no_process(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("crashes", "hangs", "leaves"):
        (course.folder / f"{name}.py").unlink()
    monkeypatch.setattr(Nursery, "_start", lambda self, end: pytest.fail("it was started"))
    report, _ = run(course.folder, {"size": "8"})
    assert [task["task"] for task in report.tasks] == ["fine.py", "good.py", "silent.py", "wrong.py"]
    assert report.tasks[1] == course.reports[0].tasks[2]


def test_folders_and_overrides_that_make_no_sense(tmp_path: Path) -> None:
    folder = models(tmp_path)
    with pytest.raises(BenchError, match="no reference file"):
        run(folder, {})
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    with pytest.raises(UsageError, match=r"constant width(.|\n)*Their constants: size\."):
        run(folder, {"width": "8"})
    with _held(tmp_path / "results"), pytest.raises(BenchError, match="another run is at work"):
        run(folder, {})


def test_a_task_that_gets_no_process_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nursery, "patience_s", 0.01)  # importing PyTorch takes longer
    report, _ = run(models(tmp_path, first="x", second="x"), {})
    for task in report.tasks:
        assert not task["accepted"] and "no process to run it in" in task["reason"]


def _until(condition: Callable[[], bool]) -> None:
    stop = monotonic() + 600
    while not condition():
        assert monotonic() < stop
        sleep(0.05)


def _descendants(pid: int) -> list[int]:
    lists = (thread / "children" for thread in Path(f"/proc/{pid}/task").iterdir())
    found = [int(text) for children in lists for text in children.read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in _descendants(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


HOSTILE = {
    "breaks": ("def get_inputs(:", "invalid syntax"),
    "crashes": (MODEL.format(forward="x.no_such_method()"), "no_such_method"),
    "leaves": (MODEL.format(forward="x") + "import sys; sys.exit(0)", "exit"),
    "leaves_at_once": (MODEL.format(forward="x") + "import os; os._exit(0)", "its process ended with code 0"),
    "takes_all": (MODEL.format(forward="x").replace("size, 256", "1 << 40, 256"), "emory"),
    "takes_all_lists": (MODEL.format(forward="x").replace("[torch", "[bytearray(1 << 60)], [torch"), "emory"),
}
PASSING = ("leaves_at_once", "takes_all", "takes_all_lists")  # it may be the machine's fault: each run tries again


def test_the_command_optimises_checks_and_times_a_folder(tmp_path: Path) -> None:
    good = "gut und größer"
    forwards = {good: "torch.sigmoid(x) * 2", **{name: text for name, (text, _) in HOSTILE.items()}}
    folder, page = models(tmp_path, **forwards), tmp_path / "page.html"
    (folder / "in_circles.py").symlink_to("in_circles.py")
    (folder / "not_text.py").write_bytes(b"# gr\xf6\xdfer\n")
    (folder / "a folder.py").mkdir()
    given = ["bench", str(folder), "--results", str(tmp_path / "results"), "--set", "size=8", "--baseline", "eager"]
    given += ["--budget", "0.3"]
    command = [sys.executable, "-m", "modelnew", *given, "--html", str(page), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # all but one were not accepted
    rows = {task["task"].removesuffix(".py"): task for task in json.loads(done.stdout)["tasks"]}
    report = rows.pop(good)["report"]
    assert report["variants"][-1]["status"] == "timed", report
    assert report["floor"]["bytes_read"] == 8 * 256 * 4
    why = {name: part for name, (_, part) in HOSTILE.items()}
    why |= {"in_circles": "symbolic links", "not_text": "not a Python text file"}
    assert rows.keys() == why.keys()
    for name, part in why.items():
        assert not rows[name]["accepted"] and part in rows[name]["reason"], rows[name]
    assert "class ModelNew" in page.read_text() and "crashes.py" in page.read_text()
    for name in PASSING:
        (folder / f"{name}.py").unlink()
    again = CliRunner().invoke(app, given)
    assert again.exit_code == 1 and f"{good}.py" in again.stdout and "geometric mean" in again.stdout
    assert f"{report['variants'][-1]['ratio']:.2f} ×" in again.stdout  # nothing was measured again
