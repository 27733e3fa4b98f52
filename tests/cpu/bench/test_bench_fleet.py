"""Where workers come from: what a busy machine does to requests and answers."""

from __future__ import annotations

import os
import signal

import pytest

from modelnew.bench.fleet import Nursery, VariantFailedError
from modelnew.errors import BenchError


def test_late_answers_and_processes_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    with Nursery("modelnew.bench.worker") as nursery:
        monkeypatch.setattr(nursery, "patience_s", 0.01)  # importing PyTorch takes longer
        with pytest.raises(BenchError, match=r"no process to run it in was there within 0\.01 s"):
            nursery.worker()
        monkeypatch.setattr(nursery, "patience_s", 600.0)
        first, second = nursery.worker(), nursery.worker()  # the late answer is not taken for one of theirs
        for worker in (first, second):
            assert worker.ask("outputs", how="fresh") == {}
        os.kill(first.pid, signal.SIGKILL)
        with pytest.raises(VariantFailedError, match="was killed by SIGKILL"):
            first.ask("refresh")
        assert second.ask("outputs", how="fresh") == {}

        nursery._process.kill()
        nursery._process.wait()
        with pytest.raises(BenchError, match="has ended"):
            nursery.worker()
        second.end()
        assert second.ended
