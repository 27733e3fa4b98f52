"""`bench` without its measuring, `compare` on measurements that are there already."""

import json

import pytest
from typer.testing import CliRunner

from modelnew import api
from modelnew.cli import app


def document(seconds):
    eager = {"name": "eager", "status": "timed", "seconds": 0.01, "ratio": 1.0, "low": 1.0, "high": 1.0}
    ratio = 0.01 / seconds
    ours = {
        "name": "new.py",
        "status": "timed",
        "seconds": seconds,
        "ratio": ratio,
        "low": ratio * 0.99,
        "high": ratio * 1.01,
    }
    machine = {"name": "a machine"}
    return {
        "schema": "modelnew.bench/1",
        "subject": "x.py",
        "machine": machine,
        "device": "cpu",
        "variants": [eager, ours],
    }


def run(tmp_path, old, new, *options):
    for name, content in (("old.json", old), ("new.json", new)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return CliRunner().invoke(app, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"), *options])


def test_the_same_is_as_fast(tmp_path):
    result = run(tmp_path, document(0.002), document(0.002))
    assert result.exit_code == 0, result.output
    assert "as fast" in result.output


def test_slower_beyond_the_threshold_is_exit_1(tmp_path):
    result = run(tmp_path, document(0.002), document(0.003))
    assert result.exit_code == 1
    assert "slower" in result.output


def test_a_variant_that_is_gone_is_exit_1_and_said(tmp_path):
    gone = document(0.002)
    gone["variants"].pop()
    result = run(tmp_path, document(0.002), gone)
    assert result.exit_code == 1 and "is not in the new run" in result.stdout and "new.py" in result.stdout


def test_two_models_are_not_compared(tmp_path):
    result = run(tmp_path, document(0.002), {**document(0.002), "subject": "folder/y.py"})
    assert result.exit_code == 2 and "x.py" in result.stderr and "y.py" in result.stderr
    assert run(tmp_path, document(0.002), {**document(0.002), "subject": "folder/x.py"}).exit_code == 0


@pytest.mark.parametrize("threshold", ["-0.1", "nan", "1"])
def test_a_threshold_is_a_share(tmp_path, threshold):
    result = run(tmp_path, document(0.002), document(0.002), "--threshold", threshold)
    assert result.exit_code == 2 and "a share" in result.stderr


def test_a_file_that_is_no_measurement(tmp_path):
    result = run(tmp_path, document(0.002), "not json")
    assert result.exit_code == 2


def test_a_folder_takes_no_candidates_and_no_sweep(tmp_path):
    for extra in (["new.py"], ["--sweep", "size=1,2"]):
        result = CliRunner().invoke(app, ["bench", str(tmp_path), *extra])
        assert result.exit_code == 2 and "a folder takes no NEW.py and no --sweep" in result.output
    empty = CliRunner().invoke(app, ["bench", str(tmp_path), "--results", str(tmp_path / "results")])
    assert empty.exit_code == 2 and "no reference file in this folder" in empty.output


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Notes that something was measured, without doing so. The folder "gone" is there until then."""
    asked = []

    def measure(*args, **options):
        asked.append(args)
        (tmp_path / "gone").rmdir()
        document = {"schema": "modelnew.bench-sweep/1", "subject": "ref.py", "name": "rows", "points": []}
        return api.Measurement(document, [("rows=4", None, "the table")], True)

    monkeypatch.setattr(api, "measure", measure)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone").mkdir()
    for name in ("ref.py", "new.py"):
        (tmp_path / name).touch()
    return asked


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("--csv", "no/such/x.csv", "there is no folder no/such"),
        ("--csv", "ref.py", "is a file to be read"),
        ("--html", "new.py", "is a file to be read"),
        ("--html", "gone", "is a folder"),
        ("--plot", "/proc/x.svg", "no file can be made in /proc"),
        ("--plot", "x.pdf", ".svg or .png"),
    ],
)
def test_outputs_are_looked_at_before_anything_is_measured(measured, option, path, message):
    result = CliRunner().invoke(app, ["bench", "ref.py", "new.py", option, path])
    assert result.exit_code == 2 and message in result.stderr and not measured
    assert option in result.stderr or path == "x.pdf"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_write_that_fails_costs_nothing_else(measured, tmp_path, flags):
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(app, ["bench", "ref.py", "--csv", "gone/x.csv", "--html", "page.html", *flags])
    assert result.exit_code == 2 and measured
    assert "cannot be written" in result.stderr and "another place with --csv" in result.stderr
    assert json.loads(result.stdout)["name"] == "rows" if flags else "the table" in result.stdout
    assert "ref.py" in (tmp_path / "page.html").read_text()


def test_a_folder_of_results_that_cannot_be_one(tmp_path):
    (tmp_path / "ref.py").write_text("def get_inputs(): return []\n")
    (tmp_path / "file").touch()
    result = CliRunner().invoke(app, ["bench", str(tmp_path), "--results", str(tmp_path / "file")])
    assert result.exit_code == 2 and "another folder with --results" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ref.py", "--baseline", "nope"], "there is no baseline 'nope'"),
        (["folder", "--baseline", "nope"], "there is no baseline 'nope'"),
        (["ref.py", "--budget", "-3"], "nothing can be timed in -3 s"),
        (["ref.py", "--budget", "0"], "nothing can be timed in 0 s"),
        (["folder", "--budget", "nan"], "nothing can be timed in nan s"),
        (["folder", "--limit", "0"], "nothing can be timed in 0 s"),
        (["ref.py", "none.py"], "there is no such file"),
        (["ref.py", "folder"], "this is a folder"),
    ],
)
def test_arguments_are_looked_at_before_the_reference_is(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()  # with no reference in it; nor is there a ref.py
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2 and message in result.stderr
