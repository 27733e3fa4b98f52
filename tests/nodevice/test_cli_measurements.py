"""`compare` on measurements that are there already: what a slower variant, a missing one and a broken file give."""

import json

from typer.testing import CliRunner

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


def run(tmp_path, old, new):
    for name, content in (("old.json", old), ("new.json", new)):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return CliRunner().invoke(app, ["compare", str(tmp_path / "old.json"), str(tmp_path / "new.json")])


def test_the_same_is_as_fast(tmp_path):
    result = run(tmp_path, document(0.002), document(0.002))
    assert result.exit_code == 0, result.output
    assert "as fast" in result.output


def test_slower_beyond_the_threshold_is_exit_1(tmp_path):
    result = run(tmp_path, document(0.002), document(0.003))
    assert result.exit_code == 1
    assert "slower" in result.output


def test_a_file_that_is_no_measurement(tmp_path):
    result = run(tmp_path, document(0.002), "not json")
    assert result.exit_code == 2


def test_a_folder_takes_no_candidates_and_no_sweep(tmp_path):
    for extra in (["new.py"], ["--sweep", "size=1,2"]):
        result = CliRunner().invoke(app, ["bench", str(tmp_path), *extra])
        assert result.exit_code == 2 and "a folder takes no NEW.py and no --sweep" in result.output
    empty = CliRunner().invoke(app, ["bench", str(tmp_path), "--results", str(tmp_path / "results")])
    assert empty.exit_code == 2 and "no reference file in this folder" in empty.output
