"""`check_file` on whole files: what the candidate's process may do, and what becomes of it."""

import contextlib
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from modelnew.check import check_file, check_files
from modelnew.problem import Problem

REFERENCE = """
import torch
import torch.nn as nn
batch, width, hidden = 16, 40, 24
class Model(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.linear = nn.Linear(width, hidden)
    def forward(self, x):
        return torch.softmax(self.linear(x), -1)
def get_inputs():
    return [torch.rand(batch, width)]
def get_init_inputs():
    return [width, hidden]
"""

HEAD = """
import torch, os, time
import torch.nn as nn
class ModelNew(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.linear = nn.Linear(width, hidden)
"""


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    path = tmp_path_factory.mktemp("reference") / "reference.py"
    path.write_text(REFERENCE)
    return Problem.load(path)


def candidate(folder: Path, forward: str, head: str = HEAD) -> Path:
    path = folder / "candidate.py"
    body = textwrap.indent(textwrap.dedent(forward).strip(), " " * 8)
    path.write_text(f"{head}    def forward(self, x):\n{body}\n")
    return path


def judged(problem, tmp_path, forward, head=HEAD, **options):
    return check_file(problem, candidate(tmp_path, forward, head), seed=5, **options)


def test_the_same_model_is_accepted(problem, tmp_path):
    report = judged(problem, tmp_path, "return self.linear(x).softmax(-1)")
    assert report.accepted is True, report.headline
    assert report.headline.startswith("accepted: error ")
    assert {case.outcome for case in report.cases} == {"accepted"}
    names = {case.name for case in report.cases}
    assert {"shipped", "one-hot", "batch 1", "transposed memory", "special values", "new values, same address"} <= names
    data = json.loads(report.as_json())
    assert data["schema"] == 1 and data["accepted"] is True and len(data["cases"]) == len(report.cases)


def test_several_candidates_share_the_truth_and_a_seed_repeats_a_check(problem, tmp_path):
    path = candidate(tmp_path, "return self.linear(x).softmax(-1) * (1 + 2e-7)")
    other, told = path.with_name("other.py"), []
    other.write_text(path.read_text())
    one, two = check_files(problem, [path, other], seed=11, progress=told.append)
    assert {f"{path}: shipped", f"{other}: shipped"} <= set(told)
    assert [case.r for case in one.cases] == [case.r for case in two.cases]


def test_a_wrong_size_is_named_with_the_element(problem, tmp_path):
    forward = """
    y = torch.softmax(self.linear(x), -1)
    if x.shape[0] == 1:
        y[0, 3] = 0.5
    return y
    """
    report = judged(problem, tmp_path, forward)
    assert report.headline.startswith("rejected: wrong for batch 1 (row 0, col 3: 0.5, truth ")


def test_an_error_at_another_size_is_a_refusal(problem, tmp_path):
    forward = """
    if x.shape[0] != 16:
        raise ValueError("only 16 rows")
    return torch.softmax(self.linear(x), -1)
    """
    report = judged(problem, tmp_path, forward)
    assert report.accepted is True
    refused = [case.name for case in report.cases if case.outcome == "refused"]
    assert {"batch 1", "batch 7", "batch 31", "batch 33", "batch 15", "batch 17"} <= set(refused)
    assert all(name.startswith("batch ") for name in refused)


FILES = {
    "import no_such_module_at_all\n": "ModuleNotFoundError",
    "x = = 1\n": "SyntaxError",
    "import torch\nclass Model(torch.nn.Module): pass\n": "defines no class ModelNew",
    HEAD.replace("self.linear =", "self.fc =") + "    def forward(self, x): return x\n": "parameters cannot be loaded",
}


def test_files_that_do_not_load(problem, tmp_path):
    for number, text in enumerate(FILES):
        (tmp_path / f"{number}.py").write_text(text)
    reports = check_files(problem, [tmp_path / f"{number}.py" for number in range(len(FILES))], seed=1)
    for report, reason in zip(reports, FILES.values(), strict=True):
        assert report.accepted is False and reason in report.headline


def test_a_reference_that_ignores_its_inputs_is_undecidable(tmp_path):
    path = tmp_path / "reference.py"
    path.write_text(REFERENCE.replace("torch.softmax(self.linear(x), -1)", "torch.softmax(self.linear(x)[:, :1], -1)"))
    report = check_file(
        Problem.load(path), candidate(tmp_path, "return torch.softmax(self.linear(x)[:, :1], -1)"), seed=1
    )
    assert report.accepted is None
    assert "does not depend on its inputs" in report.headline


SCRIPT = """
import pathlib, sys
from modelnew.check import check_file
from modelnew.problem import Problem
check_file(Problem.load(sys.argv[1]), pathlib.Path(sys.argv[2]))
"""  # has opened no files: its pipes get the smallest numbers


def test_a_check_that_is_killed_leaves_nothing_behind(problem, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    hangs = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(600)\n"
    candidate(tmp_path, "pass", head=hangs + HEAD)
    command = [sys.executable, "-c", SCRIPT, problem.path, tmp_path / "candidate.py"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)}) as judge:
        pid = Path("/proc") / until(lambda: (tmp_path / "pid").read_text().strip())
        assert list(folder.glob("modelnew-check-*"))
        judge.kill()
    until(lambda: not pid.exists() and not list(folder.glob("modelnew-check-*")))


def until(found, seconds=120):
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if value := found():
                return value
        assert time.monotonic() < end
        time.sleep(0.05)
