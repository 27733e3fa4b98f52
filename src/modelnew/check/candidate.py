"""A candidate file in a process of its own: load it, call it, read what it answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelnew.check.observe import Answer, same
from modelnew.check.process import BUILD_SECONDS, CALL_SECONDS, Child, DiedError, Limits
from modelnew.check.wide import tensors
from modelnew.check.wire import Reader, WireError, Writer, read_bytes
from modelnew.errors import CheckError


class Candidate:
    """A candidate file in a process of its own. Methods return an Answer, whose `error` is set where the candidate
    raised; they raise DiedError where the process is gone."""

    def __init__(self, path: Path, *, device: torch.device, limits: Limits) -> None:
        self.path = path.resolve()
        self.device = device
        self.build_seconds = limits.seconds or BUILD_SECONDS
        self.call_seconds = limits.seconds or CALL_SECONDS
        self.child = Child(limits, torch.get_num_threads())
        self.kernels: dict[str, int] = {}  # launches by name, where the candidate counts them
        self._called = False

    def load(self, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Answer:
        """Imports the file and constructs `ModelNew`."""
        folder = self.child.folder()
        try:
            init = Writer(folder).describe((list(args), dict(kwargs)))
        except WireError as error:
            raise CheckError(str(error), doing="handing over the constructor's arguments", on=str(self.path)) from None
        request = {
            "do": "load",
            "path": str(self.path),
            "folder": str(folder),
            "init": init,
            "device": str(self.device),
            "seed": seed,
            "dtype": Writer(folder).describe(dtype),
        }
        reply = self.child.ask(request, self.build_seconds, "importing the file and making ModelNew")
        answer = _answer(reply)
        self.kernels = dict.fromkeys(answer.kernels, 0)
        return answer

    def load_state(self, state: Mapping[str, torch.Tensor]) -> Answer:
        folder = self.child.folder()
        described = Writer(folder).describe({name: value.cpu() for name, value in state.items()})
        request = {"do": "state", "folder": str(folder), "state": described}
        answer = _answer(self.child.ask(request, self.build_seconds, "loading parameters"))
        shutil.rmtree(folder, ignore_errors=True)
        return answer

    def checksums(self) -> dict[str, int]:
        """Checksums of the parameters and buffers as the constructor made them."""
        sums = self.child.ask({"do": "checksums"}, self.build_seconds, "reading parameters").get("sums", {})
        return {str(name): int(value) for name, value in sums.items()}

    def call(
        self,
        inputs: list[Any],
        *,
        seed: int,
        poison: bool,
        training: bool,
        reuse: bool = False,
        gradients: bool = False,
        late: bool = False,
        quiet: bool = False,
    ) -> Answer:
        """One call; what it did to its inputs is among the facts."""
        folder, out = self.child.folder(), self.child.folder()
        request = {
            "do": "call",
            "folder": str(folder),
            "inputs": Writer(folder).describe(inputs),
            "out": str(out),
            "seed": seed,
            "poison": poison,
            "training": training,
            "reuse": reuse,
            "gradients": gradients,
            "late": late,
            "quiet": quiet,
        }
        seconds = self.call_seconds if self._called else self.build_seconds
        reply = self.child.ask(request, seconds, "the call")
        self._called = True
        answer = _answer(reply)
        for name, count in answer.kernels.items():
            self.kernels[name] = self.kernels.get(name, 0) + count
        if not answer.error:
            reader = Reader(out)
            try:
                answer.leaves = {str(name): reader.value(described) for name, described in reply["leaves"].items()}
                answer.state = {
                    str(name): reader.value(described).clone() for name, described in reply["state"].items()
                }
            except (WireError, OSError, KeyError, TypeError, ValueError) as error:
                raise DiedError(f"sent outputs that do not fit together: {error}") from None
            answer.facts += _changed_inputs(folder, inputs)
        shutil.rmtree(folder, ignore_errors=True)  # what is mapped stays until it is let go
        shutil.rmtree(out, ignore_errors=True)
        return answer

    def room(self) -> int:
        """Bytes that its outputs may take."""
        return shutil.disk_usage(self.child.data).free

    def close(self) -> None:
        self.child.close()


def _answer(reply: Mapping[str, Any]) -> Answer:
    return Answer(
        strides={str(name): tuple(stride) for name, stride in reply.get("strides", {}).items()},
        devices={str(name): str(device) for name, device in reply.get("devices", {}).items()},
        structure=str(reply.get("structure", "")),
        facts=[str(fact) for fact in reply.get("facts", [])],
        kernels={str(name): int(count) for name, count in reply.get("kernels", {}).items()},
        error=str(reply.get("error", "")),
        error_text=str(reply.get("text", "")),
    )


def _changed_inputs(folder: Path, inputs: list[Any]) -> list[str]:
    """Inputs whose bytes in the shared files are no longer those that were handed over."""
    files: dict[int, str] = {}
    facts = []
    for i, value in enumerate(inputs):
        for tensor in tensors(value):
            storage = tensor.untyped_storage()
            name = files.setdefault(storage._cdata, f"{len(files)}.bin")
            before = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            if not same(read_bytes(folder / name), before.cpu()):
                facts.append(f"input {i} is changed")
    return facts
