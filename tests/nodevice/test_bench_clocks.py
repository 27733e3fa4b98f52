"""Reading a GPU's clocks, with a program in the place of nvidia-smi."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modelnew.bench.clocks import gpu_state


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234-abcd"))
    return program


def says(program: Path, text: str) -> None:
    program.write_text(f'#!/bin/sh\ncase "$1" in --id=GPU-1234-abcd) echo "{text}";; *) exit 6;; esac\n')
    program.chmod(0o755)


def test_state_is_read_and_harmless_reasons_are_dropped(card: Path) -> None:
    says(card, "1980, 312.50, 61, 0x0000000000000005")
    assert gpu_state("cuda:0") == {"sm_mhz": 1980.0, "power_w": 312.5, "temperature_c": 61.0, "throttle": 4}
    says(card, "1980, [N/A], 61, 0x0000000000000001")
    assert gpu_state("cuda") == {"sm_mhz": 1980.0, "power_w": None, "temperature_c": 61.0, "throttle": 0}


def test_what_cannot_be_read_is_left_out(card: Path) -> None:
    assert gpu_state("cpu") is None
    assert gpu_state("cuda:0") is None  # there is no such program
    says(card, "Insufficient Permissions")
    assert gpu_state("cuda:0") is None
