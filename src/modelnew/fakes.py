"""Models and inputs as fake tensors, which have every property of a tensor but its memory."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from modelnew import reference
from modelnew.errors import UnsupportedError

T = TypeVar("T")
Convert = Callable[[torch.Tensor], torch.Tensor]


def new_mode() -> FakeTensorMode:
    """A mode whose fakes torch.export can open the sizes of; a model's real tensors may join in."""
    return FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)


def fake_if_possible(mode: FakeTensorMode, make: Callable[[], Any], seed: int) -> Any:
    """`make()` under `mode`, or, where that fails (it reads values, say), for real."""
    try:
        with mode, _NoQuantised(), quiet_logs(), contextlib.redirect_stderr(io.StringIO()):  # a second try prints again
            return make()
    except (Exception, SystemExit):
        with reference.seeded(seed):
            return make()


def made_on(device: str | torch.device, make: Callable[[], T]) -> T:
    """`make()` with what it draws drawn on a GPU straight away: gigabytes of random numbers take seconds on the CPU.
    Where that fails (it goes through NumPy, or names the CPU), as it is."""
    if torch.device(device).type == "cuda":
        with contextlib.suppress(Exception), torch.device(device):
            return make()
    return make()


def to_fake(mode: FakeTensorMode, move: Convert) -> Convert:
    """Tensor → a fake one, moved."""
    return lambda tensor: move(tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor))


def map_tensors(convert: Convert, values: list[Any]) -> list[Any]:
    """`values` with every tensor in it converted, however deep."""
    mapped: list[Any] = tree_map_only(torch.Tensor, convert, values)
    return mapped


def convert_module(model: nn.Module, convert: Convert) -> nn.Module:
    """`model` with its parameters and buffers converted, shared ones still shared (Module.to refuses fake tensors)."""
    done: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in done:
                    new = convert(parameter.detach())
                    done[id(parameter)] = nn.Parameter(new, requires_grad=parameter.requires_grad)
                module._parameters[name] = done[id(parameter)]  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if id(buffer) not in done:
                    done[id(buffer)] = convert(buffer)
                module._buffers[name] = done[id(buffer)]
    return model


def require_supported(model: nn.Module, inputs: list[Any], on: str) -> None:
    """Raises UnsupportedError for complex and quantised tensors."""
    tensors: dict[str, torch.Tensor] = {f"parameter {name}": tensor for name, tensor in model.named_parameters()}
    tensors |= {f"buffer {name}": tensor for name, tensor in model.named_buffers()}
    tensors |= {f"input {i}": leaf for i, leaf in enumerate(tree_leaves(inputs)) if torch.is_tensor(leaf)}
    for name, tensor in tensors.items():
        if tensor.is_complex() or tensor.is_quantized:
            raise UnsupportedError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}: complex and quantised tensors are unsupported",
                doing="reading the model",
                on=on,
                hint="Use a floating, integer or bool dtype.",
            )


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Around a run of a model that has run before: it would print, and warn, the same again."""
    with quiet_logs(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """PyTorch logs a traceback for an operator that refuses fake tensors; the error that it raises says enough."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was


class _NoQuantised(TorchDispatchMode):
    """Fakes forget that they are quantised; this makes `fake_if_possible` take real ones instead."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "quantize" in func.name():
            raise NotImplementedError(func.name())
        return func(*args, **(kwargs or {}))
