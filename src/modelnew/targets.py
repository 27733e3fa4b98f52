"""Names of devices and dtypes as a user writes them."""

from __future__ import annotations

import torch

from modelnew.errors import UnsupportedError, UsageError

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_OTHER_NAMES = {
    "float64": "fp64", "double": "fp64", "float32": "fp32", "float": "fp32",
    "float16": "fp16", "half": "fp16", "bfloat16": "bf16",
}  # fmt: skip


def dtype_named(name: str | torch.dtype | None) -> torch.dtype | None:
    """The dtype of that name ("fp16", "torch.float16", "half", …); None stays None: the file's own dtypes.

    Raises UnsupportedError for a dtype that a model cannot be run in.
    """
    if name is None:
        return None
    plain = str(name).removeprefix("torch.").lower()
    found = DTYPES.get(_OTHER_NAMES.get(plain, plain))
    if found is None:
        raise UnsupportedError(f"a model cannot be run in dtype {name}", hint=f"Choose one of {', '.join(DTYPES)}.")
    return found


def dtype_text(dtype: torch.dtype) -> str:
    """What a person reads: "fp32", "bf16", "int64"."""
    names = {found: name for name, found in DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch."))


def device_named(name: str) -> torch.device:
    """The device of that name; "auto" is the current GPU where PyTorch sees one, otherwise the CPU.

    Raises UsageError for a name that is none of auto, cpu, cuda, cuda:N, and for a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"there is no device {name!r}", hint="Choose auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "this PyTorch is a CPU build" if torch.version.cuda is None else "PyTorch sees no GPU"
        raise UsageError(
            f"device {name} cannot be used: {why}", hint="Use --device cpu; `modelnew doctor` says what is missing."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(
            f"device {name} cannot be used: there are {count} GPUs", hint=f"Choose cuda:0 … cuda:{count - 1}."
        )
    return device
