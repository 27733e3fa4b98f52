"""Candidates that turn against their process, its limits or the judge; and some that are only strange."""

import contextlib
import importlib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from modelnew.check import junit

from .files import RIGHT, Cheat, judged, said

CHEATS = {
    "judge killed": Cheat("os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(2)\n" + RIGHT, "crashed with SIGKILL"),
    "group killed": Cheat("os.killpg(0, signal.SIGKILL)", "crashed with SIGKILL"),
    "disk filled": Cheat(
        "f = open('fill', 'wb')\nwhile f.write(bytes(1 << 22)): f.flush()", " to disk during the call (limit 0.3 GB)"
    ),
    "printed without end": Cheat("while True: print('x' * 10**6)", " to disk during the call (limit 0.3 GB)"),
    "many processes": Cheat(
        "for _ in range(30):\n    if not os.fork(): time.sleep(30); os._exit(0)\ntime.sleep(9)\n" + RIGHT, " processes"
    ),
    "a terabyte": Cheat("return torch.zeros(1).expand(2**40)", ""),
    "pipes closed": Cheat("os.closerange(0, 64)\n" + RIGHT, "ended the process"),
    "SystemExit at import": Cheat(RIGHT, "SystemExit", top="raise SystemExit(0)\n"),
    "exit at import": Cheat(RIGHT, "ended the process (exit code 0)", top="os._exit(0)\n"),
    "an answer ahead": Cheat(
        'os.write(int(sys.argv[2]), b\'{"leaves": {}, "state": {}, "structure": "tensor"}\\n\')\n' + RIGHT,
        "sent an answer to something else",
    ),
    "an answer of other types": Cheat(
        'os.write(int(sys.argv[2]), b\'{"leaves": 3, "facts": 7}\\n\')\n' + RIGHT, "sent an answer to something else"
    ),
    "an answer too deep": Cheat("os.write(int(sys.argv[2]), b'[' * 60000 + b'\\n')\n" + RIGHT, "no answer"),
    "an answer without end": Cheat(
        "while True: os.write(int(sys.argv[2]), b'x' * 60000)", "sent an answer without end"
    ),
    "outputs replaced by pipes": Cheat(
        RIGHT,
        "is no plain file",
        top="sys.modules['modelnew.check.wire'].write_bytes = lambda path, data: os.mkfifo(path)\n",
    ),
    "outputs linked elsewhere": Cheat(
        RIGHT,
        "sent outputs that do not fit",
        top="sys.modules['modelnew.check.wire'].write_bytes = lambda path, data: os.symlink('/etc/passwd', path)\n",
    ),
    "colours and control characters": Cheat(
        "raise ValueError('\\x1b[2J\\x1b[32maccepted\\x00\\ud800\\u202e [bold]x[/bold]')", "it raises ValueError"
    ),
    "an error that has no text": Cheat(
        "class E(Exception):\n    def __str__(self): raise ValueError\nraise E()", "it raises E"
    ),
}

STRANGE = {  # what is done beside the answer does not change it
    "honest": Cheat(RIGHT, ""),
    "prints megabytes": Cheat("print('x' * 2_000_000); os.write(2, b'y' * 2_000_000)\n" + RIGHT, ""),
    "leaves children": Cheat(
        RIGHT,
        "",
        top="if not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        "        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(99)', 'left by a candidate'])\n"
        "    os._exit(0)\n",
    ),
    "sleeps at exit": Cheat(RIGHT, "", top="atexit.register(time.sleep, 100)\n"),
    "clears its environment": Cheat("os.environ.clear()\n" + RIGHT, ""),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("modelnew.check.process"), "MOST_PROCESSES", 20)
        return judged(tmp_path_factory.mktemp("hostile"), {**CHEATS, **STRANGE})


@pytest.mark.parametrize("name", CHEATS, ids=lambda text: text.replace(" ", "-"))
def test_each_is_rejected_for_what_it_does(reports, name):
    report = reports[name]
    assert report.accepted is False, report.headline
    assert any(CHEATS[name].reason in text for text in said(report)), said(report)


@pytest.mark.parametrize("name", STRANGE)
def test_those_that_are_right_are_accepted(reports, name):
    assert reports[name].accepted is True, reports[name].headline


def test_no_process_is_left(reports):
    left = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and b"left by a candidate" in (entry / "cmdline").read_bytes():
                left.append(entry.name)
    assert reports and not left


def test_what_a_candidate_says_is_plain_text(reports):
    report = reports["colours and control characters"]
    text = report.headline + "".join(case.reason + case.detail for case in report.cases)
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "accepted" in text and "[bold]x[/bold]" in text
    assert ElementTree.fromstring(junit([report])) is not None
