"""Tensors that cross between two processes: one file of raw bytes per storage, and a description that is plain JSON.

Nothing is unpickled, so what the candidate's process sends back is only ever data. That process maps the files that it
is sent, so that a write into an input is noticed; what it sends back is copied before it is looked at.
"""

from __future__ import annotations

import ctypes
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


@dataclass(frozen=True)
class Drawn:
    """A tensor of normal numbers that both sides draw for themselves: the same on both, on one kind of device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int

    def on(self, device: torch.device) -> torch.Tensor:
        generator = torch.Generator(device).manual_seed(self.seed)
        return torch.randn(self.shape, generator=generator, dtype=self.dtype, device=device)


class WireError(ValueError):
    """A value that cannot cross, or a description that does not fit its files."""


class Writer:
    """Writes the storages of the tensors in a tree to `folder`; tensors that share a storage share a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[int, str] = {}

    def describe(self, value: Any) -> Any:
        """The description of `value`: None, bools, numbers, text, dtypes, tensors, and lists, tuples and dicts of
        them.
        """
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if value is None or isinstance(value, (bool, int, str)):
            return {"plain": value}
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, Drawn):
            return {"drawn": [list(value.shape), str(value.dtype).removeprefix("torch."), value.seed]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, (list, tuple)):
            return {"list" if isinstance(value, list) else "tuple": [self.describe(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.describe(key), self.describe(item)] for key, item in value.items()]}
        raise WireError(f"a {type(value).__name__} cannot be handed to the candidate's process")

    def _tensor(self, tensor: torch.Tensor) -> Any:
        name = str(tensor.dtype).removeprefix("torch.")
        if name not in _DTYPES or tensor.layout != torch.strided:
            raise WireError(f"a tensor of {name}, {tensor.layout} cannot be handed to the candidate's process")
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.files:
            self.files[key] = f"{len(self.files)}.bin"
            write_bytes(
                self.folder / self.files[key], torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            )
        return {
            "tensor": self.files[key],
            "dtype": name,
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            "offset": tensor.storage_offset(),
        }


def write_bytes(path: Path, data: torch.Tensor) -> None:
    """data: 1-d uint8. Makes a new file; a link in its place is not followed."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb", buffering=0) as file:
        view = _memory(data.cpu())
        while view:
            view = view[file.write(view) :]


def read_bytes(path: Path, shared: bool = False) -> torch.Tensor:
    """The file as a 1-d uint8 tensor. shared: it maps the file, which then must not shrink: for the process that is sent
    inputs; its own process might be ended by a file that somebody else makes shorter. Links are not followed, and what
    is no plain file is refused."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise WireError(f"{path.name} is no plain file")
        if shared and found.st_size:
            return torch.from_file(str(path), shared=True, size=found.st_size, dtype=torch.uint8)
        data = torch.empty(found.st_size, dtype=torch.uint8)
        view = _memory(data)
        while view:
            count = file.readinto(view)
            if not count:
                raise WireError(f"{path.name} became shorter")
            view = view[count:]
    return data


def _memory(data: torch.Tensor) -> memoryview:
    """The bytes of a contiguous uint8 tensor on the CPU, which lives as long as they do."""
    array = (ctypes.c_char * data.numel()).from_address(data.data_ptr())
    array.owner = data  # type: ignore[attr-defined]
    return memoryview(array).cast("B")


class Reader:
    """Makes the values again from descriptions; storages are mapped once each."""

    def __init__(self, folder: Path, device: torch.device | None = None, *, shared: bool = False) -> None:
        self.folder = folder
        self.shared = shared  # whether what it makes maps the files
        self.device = device or torch.device("cpu")  # where tensors that are drawn are made
        self.storages: dict[str, torch.Tensor] = {}

    def value(self, described: Any) -> Any:
        ((kind, content),) = described.items() if len(described) == 1 else (("tensor", described),)
        if kind == "plain":
            return content
        if kind == "float":
            return float.fromhex(content)
        if kind == "dtype":
            return _DTYPES[content]
        if kind == "drawn":
            shape, dtype, seed = content
            return Drawn(tuple(shape), _DTYPES[dtype], seed).on(self.device)
        if kind in ("list", "tuple"):
            items = [self.value(item) for item in content]
            return items if kind == "list" else tuple(items)
        if kind == "dict":
            return {self.value(key): self.value(item) for key, item in content}
        return self._tensor(content)

    def _tensor(self, described: Any) -> torch.Tensor:
        name = str(described["tensor"])
        if "/" in name or name.startswith("."):
            raise WireError(f"{name!r} is no file of this exchange")
        dtype, shape, stride, offset = (described[key] for key in ("dtype", "shape", "stride", "offset"))
        if name not in self.storages:
            self.storages[name] = read_bytes(self.folder / name, self.shared)
        base = self.storages[name]
        last = (
            offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) + 1
            if math.prod(shape)
            else 0
        )
        if min([offset, *shape, *stride], default=0) < 0 or last * _DTYPES[dtype].itemsize > base.numel():
            raise WireError(f"a tensor of shape {shape} does not fit its {base.numel()} bytes")
        return torch.empty(0, dtype=_DTYPES[dtype]).set_(base.untyped_storage(), offset, shape, stride)
