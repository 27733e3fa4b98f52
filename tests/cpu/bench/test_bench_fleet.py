"""Where workers come from: what a busy machine does to requests and answers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from modelnew.bench.fleet import Nursery, VariantFailedError
from modelnew.errors import BenchError
from tests.cpu.bench.test_bench_folder import MODEL, run


def test_a_late_answer_is_not_taken_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    with Nursery("modelnew.bench.worker") as nursery:
        monkeypatch.setattr(nursery, "patience_s", 0.01)  # importing PyTorch takes longer
        with pytest.raises(BenchError, match=r"no process to run it in was there within 0\.01 s"):
            nursery.worker()
        monkeypatch.setattr(nursery, "patience_s", 300.0)
        first, second = nursery.worker(), nursery.worker()
        for worker in (first, second):
            assert worker.ask("outputs", how="fresh") == {}
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(VariantFailedError, match="was killed by SIGKILL"):
            first.ask("refresh")
        assert second.ask("outputs", how="fresh") == {}


def test_a_nursery_that_is_gone_leaves_workers_that_can_be_ended() -> None:
    with Nursery("modelnew.bench.worker") as nursery:
        worker = nursery.worker()
        nursery._process.kill()
        nursery._process.wait()
        with pytest.raises(BenchError, match="has ended"):
            nursery.worker()
        worker.end()
        assert worker.ended


def test_a_task_that_gets_no_process_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("first", "second"):
        (folder / f"{name}.py").write_text(MODEL.format(forward="torch.sigmoid(x)"))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "log").touch()
    monkeypatch.setattr(Nursery, "patience_s", 0.01)
    report, built, _ = run(folder, {})
    assert not built
    for task in report.tasks:
        assert not task["accepted"] and "no process to run it in" in task["reason"]
    monkeypatch.undo()
    report, built, _ = run(folder, {})  # tried again
    assert report.accepted and len(built) == 2
