"""The candidate in bubblewrap, where the system has it."""

import shutil
import subprocess

import pytest

from modelnew.check import check_file
from modelnew.errors import CheckError
from modelnew.problem import Problem

MODEL = """
import os, socket, torch
from pathlib import Path
class {name}(torch.nn.Module):
    def forward(self, x):
        {first}
        return torch.sigmoid(x)
def get_inputs():
    return [torch.rand(9, 40)]
def get_init_inputs():
    return []
"""


def works() -> bool:
    program = shutil.which("bwrap")
    return (
        program is not None and not subprocess.run([program, "--unshare-all", "--ro-bind", "/", "/", "true"]).returncode
    )


def judged(folder, first, **options):
    for name, file in (("Model", "reference.py"), ("ModelNew", "new.py")):
        (folder / file).write_text(MODEL.format(name=name, first="pass" if name == "Model" else first))
    return check_file(Problem.load(folder / "reference.py"), folder / "new.py", seed=1, **options)


@pytest.mark.skipif(not works(), reason="needs bubblewrap, and a system that allows it")
@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("Path('scratch.txt').write_text('mine')", ""),
        ("Path(__file__).write_text('not mine')", "Read-only file system"),
        ("socket.create_connection(('127.0.0.1', {port}), 1)", "Connection refused"),
        ("os.kill({pid}, 0)", "No such process"),
        ("os.abort()", "crashed with SIGABRT"),
    ],
)
def test_it_writes_nowhere_and_sees_nobody(tmp_path, first, reason):
    import os
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:  # without the sandbox it could be reached
        report = judged(tmp_path, first.format(port=server.getsockname()[1], pid=os.getpid()), sandbox=True)
    assert report.accepted is (not reason), report.headline
    assert reason in report.headline


def test_a_sandbox_that_is_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(CheckError, match="bubblewrap"):
        judged(tmp_path, "pass", sandbox=True)
