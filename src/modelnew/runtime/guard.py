"""When an optimised forward may run its kernels: otherwise the original forward runs.

Carried by every optimised file, so: standard library and torch only, Python 3.9, torch 2.0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import torch

from modelnew.runtime.quick import checker, nothing_is_like


class Tensor(NamedTuple):
    """An argument that is a tensor: `dtype` ("T" for the working dtype), and per dim a number or the name of an open size.

    `shape` None: any shape will do.
    """

    dtype: Any
    shape: "Optional[tuple[Any, ...]]"


class Guard:
    """What a forward was captured for.

    arguments: nested lists, tuples and dicts as forward takes them, with `Tensor` leaves and plain values.
    working: dtypes that "T" may be. smallest: open size → the least it may be (where 1 takes another way through the model).
    conditions: of a dict of the open sizes by name: what forward's own decisions about sizes took to be true.
    writes: forward writes to tensors that it is given, so no two of them may share memory.
    laid_out: per tensor among the arguments how it lies, of which forward may take notice; None where it was seen not to.
    without_grad: forward does otherwise in grad mode, whatever there is to record.
    training: module path → the mode it was captured in, for modules whose mode matters.
    hooks: module path → how many forward hooks it had; a hook that came later must be called.
    made_for: positional and keyword arguments of the constructor, or None where they cannot be compared.
    """

    def __init__(
        self,
        arguments: "tuple[Any, ...]",
        working: Sequence[torch.dtype],
        smallest: "dict[str, int]",
        training: "dict[str, bool]",
        hooks: "dict[str, int]",
        made_for: "Optional[tuple[Any, ...]]",
        conditions: "Sequence[Callable[[dict[str, int]], bool]]" = (),
        laid_out: "Optional[Sequence[tuple[bool, tuple[int, ...]]]]" = None,
        without_grad: bool = False,
        writes: bool = False,
    ) -> None:
        self.arguments, self.working, self.smallest = arguments, tuple(working), smallest
        self.training, self.hooks, self.made_for = training, hooks, made_for
        self.conditions, self.laid_out, self.without_grad, self.writes = conditions, laid_out, without_grad, writes
        self.accepted: dict[Any, Callable[..., bool]] = {}
        self.latest: Callable[..., bool] = nothing_is_like
        self.flat, self.count = all(type(argument) is Tensor for argument in arguments), len(arguments)

    @property
    def only_looks_at_tensors(self) -> bool:
        """Whether it is by dtypes, sizes and strides of its arguments alone that a call of an ordinary module is accepted."""
        return self.flat and not (self.training or self.writes or self.without_grad) and self.laid_out is None

    def made(self, args: "tuple[Any, ...]", kwargs: "dict[str, Any]") -> bool:
        """Whether a module constructed with these arguments is the one that was captured."""
        if self.made_for is None:
            return not kwargs or len(args) == 0
        try:
            return bool((args, kwargs) == self.made_for)
        except (RuntimeError, ValueError, TypeError):  # arguments that do not compare, such as tensors
            return False

    def covers(self, module: torch.nn.Module, *arguments: Any) -> bool:
        """Whether the kernels give what the original forward would, for these arguments and in this mode.

        Tensors just like those of the last call are recognised in one step; others that were accepted before, by a key.
        """
        if traced():  # first: all that follows is not for torch.compile to look into
            return False
        tensors: Sequence[torch.Tensor] = arguments
        if not self.flat or len(arguments) != self.count or not self.latest(*arguments):
            tensors = []
            try:
                _gather(arguments, self.arguments, tensors)
            except _Mismatch:
                return False
            if not _plain_execution() or not self._knows(tensors):
                return False
        if dispatch_modes() or forward_ad._current_level >= 0:
            return False
        if not module.covered or (_GRAD_ENABLED() and (self.without_grad or _records(module, tensors))):
            return False
        if self.training and self._in_another_mode(module):
            return False
        if self.writes and len({t.untyped_storage().data_ptr() for t in tensors}) < len(tensors):
            return False
        if self.laid_out is not None and not all(map(_lies_so, tensors, self.laid_out)):
            return False
        return not module._modules or self._hooked_as_captured(module)

    def _knows(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether such tensors are accepted; looked into once for each kind."""
        if any([t.layout is not torch.strided for t in tensors]):
            return False
        parts = [(type(t), t.dtype, t.device, t.shape, t.stride(), t.is_neg(), t.requires_grad) for t in tensors]
        key = (torch.is_inference_mode_enabled(), *parts)
        is_like = self.accepted.get(key)
        if is_like is None:
            if not self._accepts(tensors):
                return False
            is_like = self.accepted[key] = checker(tensors)
        self.latest = is_like
        return True

    def _in_another_mode(self, module: torch.nn.Module) -> bool:
        return any([_attribute(module, path).training is not mode for path, mode in self.training.items()])

    def _hooked_as_captured(self, module: torch.nn.Module) -> bool:
        """Kernels do not go through the submodules, so their hooks would not be called."""
        if not self.hooks:
            return all([child is None or _unhooked(child) for child in module._modules.values()])
        return all(
            len(child._forward_hooks) + len(child._forward_pre_hooks) == self.hooks.get(path, 0)
            for path, child in module.named_modules()
            if path
        )

    def _accepts(self, tensors: Sequence[torch.Tensor]) -> bool:
        leaves: list[Tensor] = []
        _leaves(self.arguments, leaves)
        if len(leaves) != len(tensors):
            return False
        working: Optional[torch.dtype] = None
        sizes: dict[str, int] = {}
        for leaf, tensor in zip(leaves, tensors):
            if tensor.is_neg():
                return False
            if leaf.dtype == "T":
                working = working or tensor.dtype
                if tensor.dtype != working or working not in self.working:
                    return False
            elif tensor.dtype != leaf.dtype:
                return False
            if leaf.shape is None:
                if tensor.dim() > _MOST_DIMS or 0 in tensor.shape:
                    return False
                continue
            if len(leaf.shape) != tensor.dim():
                return False
            for expected, size in zip(leaf.shape, tensor.shape):
                if isinstance(expected, str):
                    if sizes.setdefault(expected, size) != size or size < self.smallest.get(expected, 0):
                        return False
                elif size != expected:
                    return False
        return all([condition(sizes) for condition in self.conditions])


def _lies_so(tensor: torch.Tensor, lie: "tuple[bool, tuple[int, ...]]") -> bool:
    """Whether a tensor is contiguous with its dims in the order (True, order), or has exactly the strides (False, strides)."""
    if tensor.storage_offset() or tensor.requires_grad:
        return False
    ordered, numbers = lie
    if tensor.dim() != len(numbers):
        return False
    return tensor.permute(numbers).is_contiguous() if ordered else tensor.stride() == numbers


def _records(module: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether autograd would record this call."""
    if any([t.requires_grad for t in tensors]):
        return True
    held = module._parameters or module._modules  # to look for parameters takes longer than to see that there are none
    return bool(held) and any(p.requires_grad for p in module.parameters())


def _unhooked(module: Any) -> bool:
    if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
        return False
    return not module._modules or all([child is None or _unhooked(child) for child in module._modules.values()])


class _Mismatch(Exception):
    """The arguments are not put together as those that were captured."""


def _gather(given: Any, expected: Any, tensors: "list[Any]") -> None:
    """Collect the tensors among the arguments; raise where the structure or a plain value differs."""
    if type(expected) is Tensor:
        if type(given) is not torch.Tensor and type(given) is not torch.nn.Parameter:
            raise _Mismatch
        tensors.append(given)
    elif type(given) is not type(expected):
        raise _Mismatch
    elif isinstance(expected, (list, tuple)):
        if len(given) != len(expected):
            raise _Mismatch
        for one, other in zip(given, expected):
            _gather(one, other, tensors)
    elif isinstance(expected, dict):
        if list(given) != list(expected):
            raise _Mismatch
        for name in expected:
            _gather(given[name], expected[name], tensors)
    elif given != expected and not (given != given and expected != expected):
        raise _Mismatch


def _leaves(expected: Any, found: "list[Tensor]") -> None:
    if type(expected) is Tensor:
        found.append(expected)
    elif isinstance(expected, (list, tuple)):
        for one in expected:
            _leaves(one, found)
    elif isinstance(expected, dict):
        for one in expected.values():
            _leaves(one, found)


def _attribute(module: Any, path: str) -> Any:
    for part in path.split(".") if path else ():
        module = getattr(module, part)
    return module


def _nothing() -> int:
    return 0


_MOST_DIMS = 5  # that "any shape" was seen to hold for
forward_ad: Any = torch.autograd.forward_ad  # inside a level, which is not negative, tensors may carry tangents
_GRAD_ENABLED = torch.is_grad_enabled
_TRACING = torch._C._is_tracing
dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", _nothing)
_TRANSFORMS = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", _nothing)
_ANY_AUTOCAST = getattr(torch._C, "_is_any_autocast_enabled", None)
_COMPILING = getattr(getattr(torch, "compiler", None), "is_compiling", _nothing)
traced = getattr(getattr(torch, "compiler", None), "is_dynamo_compiling", _COMPILING)  # by torch.compile


def _plain_execution() -> bool:
    """No autocast, tracing, compilation or vmap: things that want to see PyTorch's own ops."""
    if _TRANSFORMS() or _TRACING() or _COMPILING():
        return False
    if _ANY_AUTOCAST is not None:
        return not _ANY_AUTOCAST()
    return not (torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled())
