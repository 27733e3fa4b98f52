"""One file of a folder, with stand-ins for what compiles and checks it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelnew import task
from modelnew.errors import BuildError


@pytest.fixture
def threads() -> Iterator[list[int | None]]:
    """What the check was told, and what it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield []
    torch.set_num_threads(before)


@pytest.mark.parametrize("fails", [False, True])
def test_builds_side_by_side_share_the_cores_and_check_kernels_on_all_of_them(
    monkeypatch: pytest.MonkeyPatch, threads: list[int | None], fails: bool
) -> None:
    def judge(*args: Any, **options: Any) -> Any:
        threads.extend([options["threads"], torch.get_num_threads()])
        if fails:
            raise BuildError("no compiler", doing="building", on="it")
        return SimpleNamespace(accepted=True)

    monkeypatch.setattr(task, "Draft", lambda *args: SimpleNamespace(finish=lambda *args, **options: None))
    monkeypatch.setattr(task, "deliver", judge)
    desk = object.__new__(task.Desk)  # as made, it forks
    answer = desk.build("x.py", {}, "x_new.py", "cpu", None, 2)
    assert (answer["accepted"], answer.get("passing", False)) == (not fails, fails)
    assert threads == [6, 3]
    assert torch.get_num_threads() == 6
