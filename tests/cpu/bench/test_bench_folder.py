"""A folder of reference files, with a stand-in for what optimises one (`copying`), and as the command does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep

import pytest
import torch

from modelnew.bench.folder import FolderReport, _held, bench_folder
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, overrides: Mapping[str, str], limit_s: float = 60.0) -> tuple[FolderReport, list[str], list[str]]:
    """The report, the files that were optimised so far, and the progress messages."""
    messages: list[str] = []
    report = bench_folder(
        folder,
        folder.parent / "results",
        overrides=overrides,
        command="tests.cpu.bench.copying",
        device="cpu",
        dtype=None,
        baselines=("eager",),
        budget_s=0.3,
        limit_s=limit_s,
        progress=messages.append,
    )
    return report, (folder.parent / "results" / "log").read_text().splitlines(), messages


def test_each_file_is_built_checked_timed_and_not_done_twice(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    (folder / "wrong.py").write_text(MODEL.format(forward="torch.tanh(x)"))
    (folder / "crashes.py").write_text(MODEL.format(forward="x.no_such_method()"))
    (folder / "helper.py").write_text("def helper():\n    return 1\n")
    report, built, messages = run(folder, {"size": "8"})
    assert [task["task"] for task in report.tasks] == ["crashes.py", "good.py", "wrong.py"]
    crashes, good, wrong = report.tasks
    assert good["report"]["variants"][1]["name"] == "good_new.py"
    assert good["report"]["variants"][1]["status"] == "timed"
    assert not wrong["accepted"] and "last element" in wrong["reason"] and wrong["report"] is None
    assert "AttributeError" in crashes["reason"] and crashes["report"] is None
    assert sorted(built) == ["crashes.py", "good.py", "wrong.py"]
    assert max(i for i, m in enumerate(messages) if "built" in m) < min(
        i for i, m in enumerate(messages) if "timing" in m
    )

    again, built_again, _ = run(folder, {"size": "8"})
    assert again.tasks == report.tasks  # times and all: nothing was measured again
    assert built_again == built

    (folder / "good.py").write_text(MODEL.format(forward="torch.relu(x)"))
    changed, built_then, _ = run(folder, {"size": "8"})
    assert built_then == [*built, "good.py"]
    assert changed.tasks[1] != report.tasks[1]


def test_folders_and_overrides_that_make_no_sense(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(BenchError, match="no reference file"):
        run(folder, {})
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    with pytest.raises(UsageError, match=r"constant width(.|\n)*Their constants: size\."):
        run(folder, {"width": "8"})


def test_a_task_whose_process_fails_is_a_row_and_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    names = ("hangs", "leaves", "silent")
    for name in names:
        (folder / f"{name}.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    report, built, _ = run(folder, {}, limit_s=2.0)
    why = ("gave no answer within 2 s", "its process ended with code 0", "its process wrote no file")
    for task, part in zip(report.tasks, why, strict=True):
        assert not task["accepted"] and task["report"] is None and part in task["reason"]
    _, again, _ = run(folder, {}, limit_s=2.0)
    assert sorted(again[len(built) :]) == ["hangs.py", "leaves.py"]  # what wrote no file would do so again


def test_two_runs_do_not_share_their_results(tmp_path: Path) -> None:
    folder, results = tmp_path / "models", tmp_path / "results"
    folder.mkdir()
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    with _held(results), pytest.raises(BenchError, match="another run is at work"):
        run(folder, {})
    report, _, _ = run(folder, {"size": "8"})
    assert report.accepted


def test_a_run_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    folder, log = tmp_path / "models", tmp_path / "results" / "log"
    folder.mkdir()
    for name in ("first", "hangs"):
        (folder / f"{name}.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    program = f"import pathlib, sys; sys.path.insert(0, {str(Path(__file__).parents[3])!r})\n"
    program += (
        f"from tests.cpu.bench.test_bench_folder import run; run(pathlib.Path({str(folder)!r}), {{}}, limit_s=600.0)"
    )
    running = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    kept = tmp_path / "results" / "first.verdict.json"
    try:
        _until(lambda: kept.exists() and log.read_text().count("hangs") == 1)
        mine = _descendants(running.pid)
        assert len(mine) >= 3  # where the tasks' processes come from, theirs, and where those that time come from
    finally:
        running.kill()
        running.wait()
    _until(lambda: not any(_runs(pid) for pid in mine))  # nothing stays behind to disturb the next run
    (folder / "hangs.py").unlink()
    report, built, _ = run(folder, {})
    assert report.accepted and sorted(built) == ["first.py", "hangs.py"]  # the first was not built again


def _until(condition: Callable[[], bool]) -> None:
    stop = monotonic() + 120
    while not condition():
        assert monotonic() < stop
        sleep(0.05)


def _descendants(pid: int) -> list[int]:
    found = [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*found, *(grandchild for child in found for grandchild in _descendants(child))]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


HOSTILE = {
    "breaks": ("def get_inputs(:", "invalid syntax"),
    "leaves": (MODEL.format(forward="x") + "import sys; sys.exit(0)", "exit"),
    "leaves_at_once": (MODEL.format(forward="x") + "import os; os._exit(0)", "its process ended with code 0"),
    "loops": (MODEL.format(forward="x").replace("return [torch", "while True: pass\n    return [torch"), "no answer"),
    "takes_all": (MODEL.format(forward="x").replace("size, 256", "1 << 40, 256"), "emory"),
    "takes_all_lists": (MODEL.format(forward="x").replace("[torch", "[bytearray(1 << 60)], [torch"), "emory"),
}


def test_hostile_files_are_rows_that_say_why(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name, (text, _) in HOSTILE.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x) * 2"))
    given = [str(folder), "--results", str(tmp_path / "results"), "--baseline", "eager", "--budget", "0.3"]
    command = [sys.executable, "-m", "modelnew", "bench", *given, "--limit", "75", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    rows = {task["task"].removesuffix(".py"): task for task in json.loads(done.stdout)["tasks"]}
    assert rows["good"]["accepted"] and rows["good"]["report"], rows["good"]
    for name, (_, part) in HOSTILE.items():
        assert not rows[name]["accepted"] and part in rows[name]["reason"], rows[name]


def test_the_command_optimises_checks_and_times_a_folder(tmp_path: Path) -> None:
    folder, page = tmp_path / "models", tmp_path / "page.html"
    folder.mkdir()
    (folder / "good.py").write_text(MODEL.format(forward="torch.sigmoid(x) * 2"))
    (folder / "crashes.py").write_text(MODEL.format(forward="x.no_such_method()"))
    given = [str(folder), "--results", str(tmp_path / "results"), "--set", "size=8", "--baseline", "eager"]
    command = [sys.executable, "-m", "modelnew", "bench", *given, "--budget", "0.3", "--html", str(page)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one of the two was not accepted
    document = json.loads(done.stdout)
    crashes, good = document["tasks"]
    assert "no_such_method" in crashes["reason"] and not crashes["accepted"]
    assert good["accepted"] and good["report"]["variants"][-1]["status"] == "timed"
    assert good["report"]["floor"]["bytes_read"] == 8 * 256 * 4
    assert "class ModelNew" in page.read_text() and "crashes.py" in page.read_text()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1 and "good.py" in again.stdout and "geometric mean" in again.stdout
    assert f"{good['report']['variants'][-1]['ratio']:.2f} ×" in again.stdout  # nothing was measured again
