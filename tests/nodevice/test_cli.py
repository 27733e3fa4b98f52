"""The commands: what they pass on, what they print and where, how they exit."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from modelnew import api, console, errors
from modelnew.check.report import Report as CheckReport
from modelnew.cli import app

ROOT = Path(__file__).parents[2]
REFERENCE = """
import torch
rows = 4
print("the file prints")

class Model(torch.nn.Module):
    def forward(self, x):
        return torch.sigmoid(x)

def get_inputs():
    return [torch.rand(rows, 8)]

def get_init_inputs():
    return []
"""


@pytest.fixture
def reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ref.py"
    path.write_text(REFERENCE)
    return path


@pytest.fixture
def calls(monkeypatch):
    """Replaces the work by a record of what it was asked for; `calls.result` is what it returns, or raises."""
    record = SimpleNamespace(asked=[], result=None)

    def replaced(name):
        def work(*args, **kwargs):
            kwargs.pop("progress")("a step")
            record.asked.append((name, args, kwargs))
            print("noise of the model")
            if isinstance(record.result, BaseException):
                raise record.result
            return record.result

        return work

    for name in ("optimize_file", "check_files", "bench_file", "explain_file"):
        monkeypatch.setattr(api, name, replaced(name))
    return record


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def modelnew(*arguments, variables=None, **options):
    """The real command in a process of its own."""
    command = [sys.executable, "-m", "modelnew", *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **(variables or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, **options)


def optimized(accepted):
    return SimpleNamespace(output=Path("ref_new.py"), accepted=accepted, report={"kernels": 1}, summary=["one kernel"])


def test_optimize_passes_its_options_on(reference, calls):
    calls.result = optimized(True)
    result = run("optimize", reference, "--set", "rows=64", "--set", "mode=a=b", "--device", "cpu", "--dtype", "bf16")
    assert result.exit_code == 0, result.output
    [(name, args, options)] = calls.asked
    assert name == "optimize_file"
    assert args == (reference,)
    assert options == {
        "output": Path("ref_new.py"), "overrides": {"rows": "64", "mode": "a=b"}, "device": "cpu", "dtype": "bf16",
        "check": True, "bench": True, "show": None, "precision": "fp32",
    }  # fmt: skip
    assert result.stdout == "one kernel\n"
    assert result.stderr == "a step\nnoise of the model\n"


@pytest.mark.parametrize(
    ("accepted", "flags", "code"), [(True, [], 0), (False, [], 1), (None, [], 1), (None, ["--no-check"], 0)]
)
def test_optimize_exits_by_the_verdict(reference, calls, accepted, flags, code):
    calls.result = optimized(accepted)
    assert run("optimize", reference, *flags).exit_code == code


def test_json_is_all_that_reaches_stdout(reference, calls):
    calls.result = optimized(True)
    result = run("optimize", reference, "--json")
    assert json.loads(result.stdout) == {"output": "ref_new.py", "accepted": True, "report": {"kernels": 1}}


def verdict(accepted):
    return CheckReport(
        candidate="new.py", reference="ref.py", accepted=accepted, headline="a headline", cases=(),
        accuracy_class="fp32", seed=11, device="cpu", dtype="fp32", kernels={"sigmoid": 2},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verdicts", "code"), [([True], 0), ([True, False], 1), ([None], 2), ([None, False], 1), ([True, None], 2)]
)
def test_check_exits_by_the_worst_verdict(reference, calls, verdicts, code):
    calls.result = [verdict(accepted) for accepted in verdicts]
    candidates = [f"new{i}.py" for i in range(len(verdicts))]
    result = run("check", reference, *candidates, "--seed", "11", "--limit", "30")
    assert result.exit_code == code
    assert calls.asked[0][1] == (reference, [Path(name) for name in candidates])
    assert calls.asked[0][2]["seed"] == 11 and calls.asked[0][2]["time_limit"] == 30
    assert "new0.py: a headline" in result.stdout
    assert "sigmoid (2 ×)" in result.stdout


def test_explain_prints_source_as_it_is(reference, calls):
    text = "kernel [bold]x[/bold] " + "y" * 300
    calls.result = SimpleNamespace(text=lambda: text, as_dict=dict)
    assert run("explain", reference, "--source").stdout == text + "\n"
    assert calls.asked[0][2]["source"] is True


@pytest.mark.parametrize("command", ["optimize", "explain", "bench"])
def test_an_error_is_a_message_on_stderr_and_exit_2(reference, calls, command):
    calls.result = errors.CaptureError("no", doing="reading [red]the[/red] model", on="ref.py:7", hint="Change it.")
    result = run(command, reference)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.endswith("error: no\n  while reading [red]the[/red] model: ref.py:7\n  Change it.\n")
    document = json.loads(run(command, reference, "--json").stdout)
    assert document["error"]["kind"] == "CaptureError"
    assert document["error"]["on"] == "ref.py:7"


def test_a_bug_is_called_one_and_its_traceback_saved(reference, calls):
    calls.result = KeyError("gone")
    result = run("explain", reference)
    assert result.exit_code == 3
    assert "a bug in modelnew: KeyError" in result.stderr
    assert "Traceback" not in result.stderr
    saved = Path(next(word.strip(",") for word in result.stderr.split() if "modelnew-bug-" in word))
    assert "Traceback" in saved.read_text()
    saved.unlink()


def test_control_characters_of_a_model_do_not_reach_the_terminal(reference, capsys):
    text = REFERENCE.replace("return torch.sigmoid(x)", 'raise RuntimeError("fw\\x1b[31mred\\x9b\\r\\ud800")')
    reference.write_text(text)
    result = modelnew("explain", "ref.py", "--device", "cpu", cwd=reference.parent)
    assert result.returncode == 2
    assert "fw\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}" in result.stderr
    console.print_text("line\x1b]0;title\x07\n\tend")
    console.print_table(("task", "why"), [("a.py", "\x1b[31mred")], title="\x1b[2Jtitle")
    printed = capsys.readouterr().out
    assert "\n\tend\n" in printed and "[31mred" in printed and "title" in printed
    for shown in (result.stdout, result.stderr, printed):
        assert all(c.isprintable() or c in "\n\t" for c in shown)


@pytest.mark.parametrize("call", ["os._exit(0)", "sys.exit(0)"])
@pytest.mark.parametrize("place", ["print(", "        return torch", "    return [torch"])
def test_a_file_that_ends_the_process_is_an_error(reference, call, place):
    """At its top, in forward, in get_inputs()."""
    indent = place[: len(place) - len(place.lstrip())]
    reference.write_text(REFERENCE.replace(place, f"{indent}import os, sys; {call}\n{place}"))
    result = modelnew("explain", "ref.py", "--device", "cpu", "--json", cwd=reference.parent)
    assert result.returncode == 2, result.stderr
    assert f"ends the program ({call[:-3]})" in json.loads(result.stdout)["error"]["problem"]


def test_a_process_that_the_file_forks_may_end(reference):
    reference.write_text("import os\nif not os.fork():\n    os._exit(7)\nstatus = os.wait()[1]\n" + REFERENCE)
    reference.write_text(reference.read_text().replace("rows = 4", "rows = status >> 8"))
    result = modelnew("explain", "ref.py", "--device", "cpu", cwd=reference.parent)
    assert result.returncode == 0, result.stderr
    assert "bytes read 224," in result.stdout  # 7 rows of 8


@pytest.mark.parametrize("returned", ["None", "3.0", "[]", "x"])
def test_explain_says_when_there_is_nothing_to_compute(reference, returned):
    reference.write_text(REFERENCE.replace("torch.sigmoid(x)", returned))
    result = run("explain", reference, "--device", "cpu")
    assert result.exit_code == 0 and "none: there is nothing to compute" in result.stdout
    reference.write_text(REFERENCE)
    assert "nothing to compute" not in run("explain", reference, "--device", "cpu").stdout


def test_a_bug_is_a_json_document_too(reference, calls):
    calls.result = RuntimeError("gone \ud800")  # half a character cannot be written as it is
    result = run("explain", reference, "--json")
    assert result.exit_code == 3
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "RuntimeError" and "a bug in modelnew: RuntimeError: gone" in error["problem"]
    assert sorted(error) == ["doing", "hint", "kind", "on", "problem"]
    saved = Path(next(word.strip(",") for word in error["hint"].split() if "modelnew-bug-" in word))
    assert "Traceback" in saved.read_text()
    saved.unlink()


def test_ctrl_c_is_exit_130(reference, calls):
    calls.result = KeyboardInterrupt()
    result = run("explain", reference)
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("text", ["rows", "=3", "rows=", "a b=3", "1x=3"])
def test_a_set_that_is_none_is_refused_before_any_work(reference, calls, text):
    result = run("optimize", reference, "--set", text)
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.stderr
    assert calls.asked == []


def test_bad_input_is_one_message_and_nothing_is_written(reference):
    before = sorted(reference.parent.iterdir())
    for arguments, message in [
        (["optimize", "missing.py"], "there is no such file"),
        (["optimize", "ref.py", "--set", "colums=3"], "Its constants: rows=4"),
        (["optimize", "ref.py", "--dtype", "complex64"], "cannot be run in dtype complex64"),
        (["explain", "ref.py", "--set", "rows=-1"], "Correct the file, or the value that --set gives it."),
        (["check", "ref.py", "missing.py"], "there is no such file"),
        (["check", "ref.py", "."], "this is a folder, not a Python file"),
        (["bench", "ref.py", "--sweep", "rows=4,abc"], "a whole number is needed"),
        (["optimize", "ref.py", "--device", "tpu"], "there is no device 'tpu'"),
        (["optimize", "ref.py", "-o", "no/such/folder/new.py"], "cannot write here"),
        (["explain", "ref.py", "--no-such-option"], "No such option"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
    assert sorted(reference.parent.iterdir()) == before


def test_the_python_functions_want_modules():
    model, x = torch.nn.ReLU(), torch.ones(2)
    for call, name, given in [
        (lambda: api.optimize(3, x), "optimize", "an int"),
        (lambda: api.explain("model.py", x), "explain", "a str"),
        (lambda: api.check(model, lambda x: 1, x), "check", "a function"),
        (lambda: api.check(int, model, x), "check", "a type"),
    ]:
        with pytest.raises(errors.UsageError, match=f"{name} takes a module, not {given}"):
            call()


def test_help_does_not_wait_for_torch(tmp_path):
    code = "import sys, modelnew.cli; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=60).returncode == 0
    assert "optimize" in modelnew("--help", cwd=tmp_path).stdout


def test_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        command = [sys.executable, "-c", "from modelnew.cli import main; main()", "--version"]
        result = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120, env=env)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


def test_explain_and_its_json_are_for_real(reference):
    result = modelnew("explain", "ref.py", "--json", "--device", "cpu", cwd=reference.parent)
    assert result.returncode == 0, result.stderr
    assert isinstance(json.loads(result.stdout), dict)
    assert "the file prints" in result.stderr


def test_public_functions_stay_functions_when_rooms_of_their_name_are_imported():
    code = (
        "import modelnew, modelnew.check.report, modelnew.bench.report\n"
        "from modelnew.check.report import Report\n"
        "assert modelnew.check is modelnew.api.check and callable(modelnew.bench), modelnew.check\n"
        "from modelnew import optimize, explain\n"
        "assert optimize is modelnew.api.optimize\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    assert result.returncode == 0, result.stderr


def test_a_model_that_prints_says_it_once(reference):
    """It is run for its dtypes, its sizes, its truth and its noise."""
    reference.write_text(
        REFERENCE.replace(
            "    def forward(self, x):\n", "    def forward(self, x):\n        print('forward', x.dim())\n"
        )
    )
    result = modelnew("optimize", "ref.py", "--device", "cpu", "--no-bench", cwd=reference.parent)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert lines.count("the file prints") == lines.count("forward 2") == 1
    assert "forward" not in result.stdout


@pytest.mark.parametrize(
    ("compiler", "told"),
    [("/bin/false", "/bin/false --version exits with status 1"), ("nonesuch", "CXX='nonesuch' was not found")],
)
def test_a_compiler_that_does_not_work_is_named(reference, compiler, told):
    result = modelnew("optimize", "ref.py", "--device", "cpu", cwd=reference.parent, variables={"CXX": compiler})
    assert result.returncode == 2
    assert told in result.stderr
    assert "modelnew doctor" in result.stderr and "Command '" not in result.stderr
    assert sorted(path.name for path in reference.parent.iterdir()) == ["ref.py"]


def test_doctor_exits_1_where_something_needed_is_missing(monkeypatch):
    from modelnew import doctor

    missing = {"C++ compiler": 1, "ninja": 1, "cache": 1, "huge pages": 0, "OpenMP": 0, "GPU": 0}
    for name, code in missing.items():
        monkeypatch.setattr(doctor, "examine", lambda name=name: [doctor.Finding(name, False, "none", "get one")])
        assert run("doctor").exit_code == code, name
        result = run("doctor", "--json")
        assert result.exit_code == code
        assert json.loads(result.stdout)[0]["blocks"] == bool(code)
    for there in (False, True):  # nvcc is needed for a GPU only
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("CUDA compiler", False, "none", "get one")])
        assert run("doctor").exit_code == int(there)
