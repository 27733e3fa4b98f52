"""A reference file as a problem to work on: its model and inputs, for real or as fakes, and the memory they need.

A reference file defines `Model(nn.Module)`, `get_inputs() -> list` and `get_init_inputs() -> list`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modelnew import constants, fakes, memory, reference
from modelnew.errors import MemoryShortError, ModelnewError, ReferenceFileError
from modelnew.targets import dtype_named

Device = str | torch.device
Dtype = str | torch.dtype | None  # None: the dtypes that the file itself makes

_MOST_HALVINGS = 24


@dataclass(frozen=True)
class Abstract:
    """A model and its inputs as fake tensors: shapes, strides, dtypes and devices, no memory."""

    mode: FakeTensorMode
    model: nn.Module
    inputs: list[Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """A reference file that has been executed.

    source: its text with the overrides applied; an optimised file carries it along.
    overrides: constant → value, as set.
    module: what executing `source` defined.
    """

    path: Path
    source: str
    overrides: Mapping[str, object]
    module: ModuleType

    @staticmethod
    def load(path: Path | str, overrides: Mapping[str, object] | None = None) -> Problem:
        """Reads and executes the file with constants set to the values in `overrides` (text is read as a literal).

        Raises ReferenceFileError when the file is missing, does not run, or lacks what it must define; UsageError for
        an override that names no constant or has the wrong kind of value.
        """
        path = Path(path)
        source, values = constants.override(reference.read(path), overrides or {}, on=str(path))
        return Problem(path, source, values, reference.execute(path, source))

    @property
    def constants(self) -> dict[str, object]:
        """Name → value of the constants that `--set` can change; the value of a computed one is its text."""
        return constants.constants(self.source)

    def model(self, *, device: Device = "cpu", dtype: Dtype = None, seed: int = 0) -> nn.Module:
        """`Model(*get_init_inputs())`, made on the CPU after seeding, then moved; it trains, as any new module."""
        with reference.seeded(seed):
            return fakes.convert_module(self._make_model(), _moving(device, dtype))

    def inputs(self, *, device: Device = "cpu", dtype: Dtype = None, seed: int = 0) -> list[Any]:
        """`get_inputs()` after seeding, moved; floating tensors are cast to `dtype` where one is given."""
        with reference.seeded(seed):
            return fakes.map_tensors(_moving(device, dtype), self._make_inputs())

    def abstract(self, *, device: Device = "cpu", dtype: Dtype = None, seed: int = 0) -> Abstract:
        """The model and its inputs under a FakeTensorMode: nothing of their size is allocated, whatever the sizes.

        What cannot be made from fakes (data that leaves PyTorch, say) is made for real and then turned into fakes.
        Raises UnsupportedError for complex and quantised tensors, ReferenceFileError where `forward` cannot take the
        inputs.
        """
        mode = fakes.new_mode()
        model = fakes.fake_if_possible(mode, self._make_model, seed)
        inputs = fakes.fake_if_possible(mode, self._make_inputs, seed)
        fakes.require_supported(model, inputs, on=str(self.path))
        with mode:
            convert = fakes.to_fake(mode, _moving(device, dtype))
            abstract = Abstract(mode, fakes.convert_module(model, convert), fakes.map_tensors(convert, inputs))
        self._require_call(abstract)
        return abstract

    def footprint(self, *, device: Device = "cpu", dtype: Dtype = None) -> memory.Footprint:
        """Bytes that one eager forward pass needs, and the device's; found without allocating them.

        Raises ReferenceFileError where `forward` raises on the file's own inputs.
        """
        abstract = self.abstract(device=device, dtype=dtype)
        free = memory.free_memory(torch.device(device))

        def run() -> object:
            forward: Callable[[], object] = lambda: abstract.model(*abstract.inputs)  # noqa: E731
            hint = f"get_inputs() returns {reference.described(abstract.inputs)}."
            return reference.call(self.path, "forward()", forward, "running the model", hint=hint)

        with abstract.mode, fakes.quiet_logs(), torch.no_grad():
            return memory.measure(run, abstract.model, abstract.inputs, free)

    def require_memory(self, needed: int, what: str, *, device: Device = "cpu", dtype: Dtype = None) -> None:
        """Raises MemoryShortError when `needed` bytes are not free, naming changes of constants that would fit.

        what: the work that needs them, as in "optimising".
        """
        free, total = memory.free_memory(torch.device(device))
        if needed <= free:
            return
        sizes = f"{memory.readable(needed)} needed, {memory.readable(free)} of {memory.readable(total)} free"
        fitting = self._fitting(needed, free, device, dtype)
        options = " or ".join(f"--set {name}={value}" for name, value in fitting.items())
        hint = f"This would fit: {options}." if options else "No single constant of the file makes it fit when reduced."
        raise MemoryShortError(f"not enough memory on {device}: {sizes}", doing=what, on=str(self.path), hint=hint)

    def _fitting(self, needed: int, free: int, device: Device, dtype: Dtype) -> dict[str, int]:
        """Constant → its largest halving with which the work fits; constants that no halving helps are left out."""
        base = self.footprint(device=device, dtype=dtype).peak
        found: dict[str, int] = {}
        for name, value in self.constants.items():
            if not isinstance(value, int) or isinstance(value, bool):
                continue
            before = base
            for _ in range(_MOST_HALVINGS):
                value //= 2
                peak = self._peak_with(name, value, device, dtype) if value else None
                if peak is None or peak >= before:
                    break
                if peak * needed <= free * base:  # other work needs memory in proportion to a forward pass
                    found[name] = value
                    break
                before = peak
        return found

    def _peak_with(self, name: str, value: int, device: Device, dtype: Dtype) -> int | None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the file has printed what it prints when it was loaded
                smaller = Problem.load(self.path, {**self.overrides, name: value})
                return smaller.footprint(device=device, dtype=dtype).peak
        except ModelnewError:
            return None

    def _make_model(self) -> nn.Module:
        args, kwargs = reference.constructor_arguments(self.path, self.module)
        make: Callable[[], nn.Module] = lambda: self.module.Model(*args, **kwargs)  # noqa: E731
        return reference.call(self.path, "Model()", make, "making the model")

    def _make_inputs(self) -> list[Any]:
        values = reference.call(self.path, "get_inputs()", self.module.get_inputs, "making the inputs")
        if isinstance(values, (list, tuple)):
            return list(values)
        raise ReferenceFileError(
            f"get_inputs() returns {reference.kind(values)}, not a list",
            doing="making the inputs",
            on=reference.at(self.path, self.module.get_inputs),
            hint="Return the positional arguments of Model.forward as a list, such as [x].",
        )

    def _require_call(self, abstract: Abstract) -> None:
        forward = abstract.model.forward
        why = reference.misfit(forward, abstract.inputs, {})
        if why is not None:
            raise ReferenceFileError(
                f"get_inputs() does not fit forward{inspect.signature(forward)}: {why}",
                doing="running the model",
                on=reference.at(self.path, type(abstract.model).forward),
                hint=f"It returns {reference.described(abstract.inputs)}.",
            )


def _moving(device: Device, dtype: Dtype) -> fakes.Convert:
    """Tensor → the same on `device`, floating ones in `dtype`."""
    to = dtype_named(dtype)
    return lambda tensor: tensor.to(device, to if tensor.is_floating_point() else None)
