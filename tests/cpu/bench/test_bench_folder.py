"""A folder of reference files, with a stand-in for the command that optimises one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from modelnew.bench.folder import FolderReport, bench_folder
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

# copies the reference as the optimised file; refuses one, and notes every time it runs
OPTIMISE = """
import pathlib, sys
source, output, log = map(pathlib.Path, sys.argv[1:])
with log.open("a") as f:
    f.write(source.name + "\\n")
if source.name == "wrong.py":
    sys.exit("rejected: the last element differs")
output.write_text(source.read_text().replace("class Model", "class ModelNew"))
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, overrides: Mapping[str, str]) -> tuple[FolderReport, list[str], list[str]]:
    """The report, the files that were optimised so far, and the progress messages."""
    log, messages = folder.parent / "log", []
    script = folder.parent / "optimise.py"
    script.write_text(OPTIMISE)

    def optimise(path: Path, overrides: Mapping[str, str], output: Path) -> Sequence[str]:
        return [sys.executable, str(script), str(path), str(output), str(log)]

    report = bench_folder(
        folder,
        folder.parent / "results",
        overrides=overrides,
        optimise=optimise,
        device="cpu",
        dtype=None,
        baselines=("eager",),
        budget_s=0.3,
        progress=messages.append,
    )
    return report, log.read_text().splitlines(), messages


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
