"""The candidate's process: loads a file, calls its `ModelNew` on inputs it is given, and sends back raw bytes.

It holds no reference, no truth and no limit, so there is no verdict here to forge. It answers one JSON line per request
on a pipe of its own; what the candidate prints goes to the log.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from modelnew.check import tamper
from modelnew.check.gradients import WithGradients
from modelnew.check.observe import Observer, checksum, copy_tree, flat, launches, moved, seed_all, told, twin, wrote
from modelnew.check.streams import call_late
from modelnew.check.wire import Reader, Writer
from modelnew.constants import imported


class Server:
    """Answers the requests, each by the method of its name."""

    def __init__(self) -> None:
        self.module: nn.Module | None = None
        self.observer: Observer | None = None
        self.gradients: Observer | None = None
        self.device = torch.device("cpu")
        self.held: list[Any] = []
        self.make: Callable[[], nn.Module] | None = None
        self.functions = tamper.functions()

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Imports the file and makes `ModelNew(*args, **kwargs)`."""
        path = Path(request["path"])
        self.device = torch.device(request["device"])
        if self.device.type == "cuda" and self.device.index is None:  # as tensors name it: equal devices need no copy
            self.device = torch.device("cuda", torch.cuda.current_device())
        flags = tamper.flags()
        sys.path.append(str(path.parent))
        try:
            module = imported(path, "candidate", request["constants"])
        except BaseException as error:
            return _raised("importing the file", error)
        cls = getattr(module, "ModelNew", None)
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            return {
                "error": "AttributeError: the file defines no class ModelNew(torch.nn.Module)",
                "text": "",
                "where": "importing the file",
            }
        args, kwargs = Reader(Path(request["folder"])).value(request["init"])
        dtype = Reader(Path(request["folder"])).value(request["dtype"])
        self.make = lambda: cls(*args, **kwargs).to(self.device, dtype)
        seed_all(request["seed"])
        try:
            self.module = self.make()
        except BaseException as error:
            return _raised("ModelNew()", error)
        self.observer = Observer(self.module)
        self.gradients = Observer(WithGradients(self.module))
        return {
            "facts": tamper.changed_flags(flags),
            "kernels": launches(self.module),
        }

    def state(self, request: dict[str, Any]) -> dict[str, Any]:
        """`load_state_dict` of what the parent sent, or `in_place` as an optimizer changes parameters."""
        assert self.module is not None
        state = Reader(Path(request["folder"])).value(request["state"])
        try:
            if not (request["in_place"] and wrote(self.module, state)):
                self.module.load_state_dict(state, strict=True)
        except BaseException as error:
            return _raised("load_state_dict", error)
        return {}

    def another(self, request: dict[str, Any]) -> dict[str, Any]:
        """A second `ModelNew` with parameters of its own, called once on the last call's inputs; then it goes."""
        assert self.make is not None
        try:
            second = self.make()
            second.load_state_dict(Reader(Path(request["folder"])).value(request["state"]), strict=True)
            with torch.no_grad():
                second(*copy_tree(self.held, twin))
        except BaseException as error:
            return _raised("a second ModelNew", error)
        return {}

    def checksums(self, request: dict[str, Any]) -> dict[str, Any]:
        """What tells whether the constructor made the parameters that the reference's makes."""
        assert self.module is not None
        state = self.module.state_dict()
        return {"sums": {name: int(checksum(value)) for name, value in state.items() if torch.is_tensor(value)}}

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """One call. `under`: see `Observer.call`. `reuse`: the new bytes come to the addresses of the previous call's inputs."""
        observer = self.gradients if request["gradients"] else self.observer
        assert observer is not None
        alone = request["quiet"] and tamper.works_alone()
        reader = Reader(Path(request["folder"]), self.device, shared=True)
        given = reader.value(request["inputs"])
        inputs = copy_tree(given, lambda tensor: moved(tensor, self.device))
        if request["reuse"]:
            inputs = _overwrite(self.held, inputs)
        self.held = inputs
        flags, threads = tamper.flags(), tamper.threads()
        options = {name: request[name] for name in ("seed", "poison", "training", "under")}
        answer = observer.call(inputs, how=call_late if request["late"] else None, **options)
        if answer.error:
            return {"error": answer.error, "text": answer.error_text, "where": "the call"}
        facts = answer.facts + tamper.changed_flags(flags) + tamper.changed_functions(self.functions)
        if tamper.threads() - threads:
            facts.append("a thread it started is still running after the call")
        if alone:
            facts.append("it uses the processor between its calls")
        out = Path(request["out"])
        writer = Writer(out)
        reply = {
            "leaves": {name: writer.describe(_whole(value)) for name, value in answer.leaves.items()},
            "state": {name: writer.describe(value.cpu()) for name, value in answer.state.items()},
            "strides": {name: list(stride) for name, stride in answer.strides.items()},
            "devices": answer.devices,
            "structure": answer.structure,
            "facts": facts,
            "kernels": answer.kernels,
        }
        if self.device.type != "cpu" or request["reuse"]:  # show the parent what became of the inputs
            for ours, theirs in zip(flat(inputs), flat(given), strict=True):
                if theirs.device.type == "cpu":
                    theirs.untyped_storage().copy_(ours.untyped_storage())
        return reply


def _whole(value: torch.Tensor) -> torch.Tensor:
    """`value` where it is all that its storage holds: its bytes go straight to a file; else a copy."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.cpu()


def _overwrite(held: list[Any], new: list[Any]) -> list[Any]:
    """New bytes under the old addresses, through another alias of the storage, so that not even the version counter
    tells.
    """
    for old, fresh in zip(flat(held), flat(new), strict=True):
        old.untyped_storage().copy_(fresh.untyped_storage())
    return held


def _raised(where: str, error: BaseException) -> dict[str, Any]:
    said, place = told(error)
    return {"error": said, "text": place, "where": where}


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Until the requests end."""
    server = Server()
    handlers = {name: getattr(server, name) for name in ("load", "state", "another", "checksums", "call")}
    replies.write("{}\n")
    replies.flush()
    for line in requests:
        request = json.loads(line)
        reply = {**handlers[request["do"]](request), "number": request["number"]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash leaves no gigabytes behind
    requests, replies = os.fdopen(int(sys.argv[1]), "r"), os.fdopen(int(sys.argv[2]), "w")
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    serve(requests, replies)
    os._exit(0)  # no exit handler of the candidate's


if __name__ == "__main__":
    main()
