"""A candidate file in a process of its own: load it, call it, read what it answers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelnew.check.observe import Answer, same
from modelnew.check.process import BUILD_SECONDS, CALL_SECONDS, Child, DiedError, Limits, plain
from modelnew.check.wide import tensors
from modelnew.check.wire import Reader, WireError, Writer, read_bytes
from modelnew.errors import CheckError


class Candidate:
    """A candidate file in a process of its own. Methods return an Answer, whose `error` is set where the candidate
    raised; they raise DiedError where the process is gone.

    constants: what the user set in the reference; the file's own constants of these names are set too.
    """

    def __init__(
        self, path: Path, child: Child, *, device: torch.device, limits: Limits, constants: Mapping[str, object]
    ) -> None:
        self.name = str(path)
        self.path = path.resolve()
        self.constants = {name: repr(value) for name, value in constants.items()}
        self.device = device
        self.build_seconds = limits.seconds or BUILD_SECONDS
        self.call_seconds = limits.seconds or CALL_SECONDS
        self.child = child
        self.kernels: dict[str, int] = {}  # launches by name, where the candidate counts them
        self._called = False

    def load(self, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype | None, seed: int) -> Answer:
        """Imports the file and constructs `ModelNew`."""
        folder = self.child.folder()
        init = self._described(folder, (list(args), dict(kwargs)), "the constructor's arguments")
        request = {
            "do": "load",
            "path": str(self.path),
            "constants": self.constants,
            "folder": str(folder),
            "init": init,
            "device": str(self.device),
            "seed": seed,
            "dtype": Writer(folder).describe(dtype),
        }
        reply = self.child.ask(request, self.build_seconds, "its import and the making of ModelNew")
        answer = _answer(reply)
        self.kernels = dict.fromkeys(answer.kernels, 0)
        return answer

    def _described(self, folder: Path, value: Any, what: str) -> Any:
        try:
            return Writer(folder).describe(value)
        except WireError as error:
            raise CheckError(str(error), doing=f"handing over {what}", on=str(self.path)) from None

    def load_state(self, state: Mapping[str, torch.Tensor], *, in_place: bool = False) -> Answer:
        return self._with_state("state", state, "the loading of parameters", in_place=in_place)

    def another(self, state: Mapping[str, torch.Tensor]) -> Answer:
        """Makes and calls a second `ModelNew` with these parameters."""
        return self._with_state("another", state, "the call of a second ModelNew")

    def _with_state(self, do: str, state: Mapping[str, torch.Tensor], what: str, **more: Any) -> Answer:
        folder = self.child.folder()
        described = self._described(folder, {name: value.cpu() for name, value in state.items()}, "parameters")
        request = {"do": do, "folder": str(folder), "state": described, **more}
        answer = _answer(self.child.ask(request, self.build_seconds, what))
        shutil.rmtree(folder, ignore_errors=True)
        return answer

    def checksums(self) -> dict[str, int]:
        """Checksums of the parameters and buffers as the constructor made them."""
        sums = self.child.ask({"do": "checksums"}, self.build_seconds, "the reading of parameters").get("sums")
        return {plain(name): value for name, value in sums.items()} if isinstance(sums, dict) else {}

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
        under: str = "no_grad",
    ) -> Answer:
        """One call; what it did to its inputs is among the facts."""
        folder, out = self.child.folder(), self.child.folder()
        request = {
            "do": "call",
            "folder": str(folder),
            "inputs": self._described(folder, inputs, "inputs"),
            "out": str(out),
            "seed": seed,
            "poison": poison,
            "training": training,
            "reuse": reuse,
            "gradients": gradients,
            "late": late,
            "quiet": quiet,
            "under": under,
        }
        seconds = self.call_seconds if self._called else self.build_seconds
        reply = {"leaves": {}, "state": {}} | self.child.ask(request, seconds, "the call")
        self._called = True
        answer = _answer(reply)
        for name, count in answer.kernels.items():
            self.kernels[name] = self.kernels.get(name, 0) + count
        if not answer.error:
            answer.leaves, answer.state = _tensors(out, reply["leaves"]), _tensors(out, reply["state"])
            if not answer.leaves.keys() == answer.strides.keys() == answer.devices.keys() or any(
                leaf.dim() != len(answer.strides[name]) for name, leaf in answer.leaves.items()
            ):
                raise DiedError("sent outputs that do not fit together")
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
    """Raises DiedError for what is no answer: code of the candidate's may have sent it."""
    try:
        return Answer(
            strides={plain(name): tuple(map(int, stride)) for name, stride in reply.get("strides", {}).items()},
            devices={plain(name): plain(device) for name, device in reply.get("devices", {}).items()},
            structure=plain(reply.get("structure", "")),
            facts=[plain(fact) for fact in reply.get("facts", [])],
            kernels={plain(name): int(count) for name, count in reply.get("kernels", {}).items()},
            error=plain(reply.get("error", "")),
            error_text=plain(reply.get("text", "")),
        )
    except Exception as error:
        raise DiedError(f"sent something that is no answer: {type(error).__name__}") from None


def _tensors(folder: Path, described: Any) -> dict[str, torch.Tensor]:
    reader = Reader(folder)
    try:
        found = {plain(name): reader.value(one) for name, one in described.items()}
    except Exception as error:  # it may describe anything
        raise DiedError(f"sent outputs that do not fit together: {plain(str(error))[:200]}") from None
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise DiedError("sent outputs that do not fit together")
    return found


def _changed_inputs(folder: Path, inputs: list[Any]) -> list[str]:
    """Inputs whose bytes in the shared files are no longer those that were handed over."""
    files: dict[int, str] = {}
    facts = []
    for i, value in enumerate(inputs):
        for tensor in tensors(value):
            storage = tensor.untyped_storage()
            name = files.setdefault(storage._cdata, f"{len(files)}.bin")
            before = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            try:
                changed = not same(read_bytes(folder / name), before.cpu())
            except (WireError, OSError):
                changed = True
            if changed:
                facts.append(f"input {i} is changed")
    return facts
