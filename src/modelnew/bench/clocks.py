"""What a GPU's clocks were doing while times were taken. Read only: no setting of the card is ever changed."""

from __future__ import annotations

import subprocess
from typing import Any

import torch

_FIELDS = ("clocks.sm", "power.draw", "temperature.gpu", "clocks_throttle_reasons.active")
_HARMLESS = 0x1 | 0x2  # idle, and clocks that an application asked for


def gpu_state(device: str) -> dict[str, Any] | None:
    """{sm_mhz, power_w, temperature_c, throttle} at this moment; None for another device or without nvidia-smi.

    throttle: the driver's bit mask of what holds the clocks down (power cap 0x4, heat 0x20, 0x40), less harmless bits.
    """
    where = torch.device(device)
    if where.type != "cuda":
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(where).uuid}"  # nvidia-smi does not follow CUDA_VISIBLE_DEVICES
    command = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        clock, power, heat, reasons = (part.strip() for part in done.stdout.strip().splitlines()[0].split(","))
        throttle = int(reasons, 16) & ~_HARMLESS
        return {
            "sm_mhz": _number(clock),
            "power_w": _number(power),
            "temperature_c": _number(heat),
            "throttle": throttle,
        }
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _number(text: str) -> float | None:
    """None for what the card does not tell ("[N/A]")."""
    try:
        return float(text)
    except ValueError:
        return None
