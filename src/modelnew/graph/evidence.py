"""Whether a captured forward holds for other dtypes, sizes and ranks than it was captured with, without capturing it again.

Two things have to be the same on the other inputs, which are fakes, so that looking takes milliseconds:
`follows`: the model makes exactly the captured calls: a Python branch on a dtype or a size would show as another call;
`pieces`: those calls are decomposed into the same ops: a decomposition may look at dtypes and sizes too.
A difference there proves nothing: the caller may capture the model on these inputs, and see whether the graphs `agree`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._python_dispatch import TorchDispatchMode

from modelnew import fakes
from modelnew.graph.capture import Captured, attribute
from modelnew.graph.decompose import DECOMPOSITIONS, decomposition, stays_whole

aten = torch.ops.aten
RANGE_ENDS = {aten.arange.start_step: frozenset({"start", "end"})}
Record = list[object]
MOST_VALUES = 4096  # of a constant that are compared; a larger one equals none
# Ops that give what they are given where the sizes are the same: eager leaves some of them out then, torch.export others.
SAME_VALUE = frozenset(
    {
        aten.detach.default,
        aten.alias.default,
        aten.lift_fresh.default,
        aten.lift_fresh_copy.default,
        aten.slice.Tensor,
        aten.expand.default,
        aten.view.default,
    }
)


def follows(
    captured: Captured, model: nn.Module, inputs: Sequence[object], dtype: torch.dtype | None, *, grad: bool = False
) -> bool:
    """Whether `model` makes exactly the captured calls on these fake inputs. dtype: what the working dtype is in them.

    grad: in grad mode, which shows a branch on it; the tensors should need no gradients then.

    Raises whatever the model raises on them.
    """
    calls = _Calls(captured.exported, captured.working, dtype)
    return _same(model, inputs, lambda: model(*inputs), lambda: calls.run(*calls.given(model, inputs)), grad=grad)


def agree(captured: Captured, other: Captured, model: nn.Module, inputs: Sequence[object]) -> bool:
    """Whether two captures of one model, as they are after rewriting, do the same on these fake inputs."""
    runs = []
    for one in (captured, other):
        calls = _Calls(one.decomposed, one.working, one.working, one.graph)
        runs.append(functools.partial(calls.run, *calls.given(model, inputs)))
    return _same(model, inputs, *runs)


def pieces(captured: Captured, model: nn.Module, inputs: Sequence[object], dtype: torch.dtype | None) -> Record:
    """The ops that the captured calls are decomposed into, sizes aside, with the working dtype written T."""
    calls = _Pieces(captured, dtype)
    with _mode(_tensors(model, inputs)), torch.no_grad(), calls.recorder:
        calls.run(*calls.given(model, inputs))
    return calls.recorder.calls


def _same(
    model: nn.Module,
    inputs: Sequence[object],
    one: Callable[[], object],
    other: Callable[[], object],
    *,
    grad: bool = False,
) -> bool:
    known = _tensors(model, inputs)
    recorders = _Recorder(known), _Recorder(known)
    results = []
    with _mode(known), torch.set_grad_enabled(grad):
        for recorder, run in zip(recorders, (one, other), strict=True):
            with recorder:
                result = run()
            results.append(recorder.told(pytree.tree_leaves(result)))
    return recorders[0].calls == recorders[1].calls and results[0] == results[1]


def _tensors(model: nn.Module, inputs: Sequence[object]) -> list[torch.Tensor]:
    """Everything that a forward may read, in an order that does not depend on what it does."""
    leaves = [*pytree.tree_leaves(list(inputs)), *model.parameters(), *model.buffers()]
    leaves += [leaf for module in model.modules() for leaf in pytree.tree_leaves(list(vars(module).values()))]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _mode(tensors: Iterable[torch.Tensor]) -> FakeTensorMode:
    """That of the fakes, under which what forward itself makes is a fake as well."""
    return next((tensor.fake_mode for tensor in tensors if isinstance(tensor, FakeTensor)), None) or fakes.new_mode()


class _Recorder(TorchDispatchMode):
    """Notes the ops that are called, with their arguments and results; a tensor by when it was first seen."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Record = []
        self.seen: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # an id is a tensor's only as long as it lives
        self.values = 0
        for tensor in known:
            self.number(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.note(func, args, kwargs or {}, result)
        return result

    def note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        if func in SAME_VALUE and result.shape == args[0].shape:
            if not self._is_known(args[0]):
                self.calls.append(_constant(args[0]))
            self.seen[id(result)] = self.number(args[0])
            self.alive.append(result)
        elif func.namespace != "prim" and "assert" not in str(func):
            given = self.told(pytree.tree_leaves((args, kwargs)))
            self.calls.append((func, given, self.told(pytree.tree_leaves(result))))

    def told(self, values: Iterable[object]) -> Record:
        return [self.tensor(value) if isinstance(value, torch.Tensor) else self.plain(value) for value in values]

    def tensor(self, tensor: torch.Tensor) -> object:
        if not self._is_known(tensor):
            return _constant(tensor)
        sizes = [self.plain(size) for size in (*tensor.shape, *tensor.stride())]
        return (self.number(tensor), tensor.dtype, sizes)

    def plain(self, value: object) -> object:
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            value = value.node.hint if value.node.has_hint() else str(value)
        return (type(value), repr(value))  # True is not 1, nan equals itself

    def number(self, tensor: torch.Tensor) -> int:
        if id(tensor) not in self.seen:
            self.alive.append(tensor)
            self.seen[id(tensor)] = self.values
            self.values += 1
        return self.seen[id(tensor)]

    def _is_known(self, tensor: torch.Tensor) -> bool:
        return isinstance(tensor, FakeTensor) or id(tensor) in self.seen


def _constant(tensor: torch.Tensor) -> object:
    """A tensor that forward makes of numbers: by its values."""
    with unset_fake_temporarily():
        return (tensor.dtype, repr(tensor.tolist())) if tensor.numel() <= MOST_VALUES else object()


@functools.cache
def _size_arguments(op: Any) -> frozenset[str]:
    """Names of the arguments that are sizes, or positions along a dim. A schema's own types do not tell them from other ints."""
    return frozenset(re.findall(r"SymInt\S* (\w+)", str(op._schema))) | RANGE_ENDS.get(op, frozenset())


class _Calls(fx.Interpreter):
    """Runs the calls of an exported program, or of a graph made from its own, with the working dtype replaced."""

    def __init__(
        self,
        program: ExportedProgram,
        working: torch.dtype | None,
        dtype: torch.dtype | None,
        graph: fx.Graph | None = None,
    ) -> None:
        super().__init__(program.graph_module if graph is None else fx.GraphModule(nn.Module(), graph))
        self.program, self.working, self.dtype = program, working, dtype

    def given(self, model: nn.Module, inputs: Sequence[object]) -> list[object]:
        """The graph's arguments: the inputs, and the model's state."""
        leaves = iter(pytree.tree_leaves(list(inputs)))
        values: list[object] = []
        for spec in self.program.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                values.append(next(leaves))
                continue
            found = attribute(model, spec.target or "")
            values.append(self.program.constants[spec.target or ""] if found is None else found)
        return values

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map(self._retyped, (args, dict(kwargs)))
        return self.called(target, args, kwargs)

    def called(self, target: Any, args: Any, kwargs: Any) -> Any:
        return target(*args, **kwargs)

    def _retyped(self, value: Any) -> Any:
        is_working = isinstance(value, torch.dtype) and value == self.working
        return self.dtype if is_working else value


class _Pieces(_Calls):
    """Runs the captured calls decomposed, as far as kernels and library calls go."""

    def __init__(self, captured: Captured, dtype: torch.dtype | None) -> None:
        super().__init__(captured.exported, captured.working, dtype)
        self.recorder = _Decomposing(dtype)

    def called(self, target: Any, args: Any, kwargs: Any) -> Any:
        if not isinstance(target, torch._ops.OpOverload):
            return target(*args, **kwargs)
        if target in DECOMPOSITIONS:  # PyTorch would take some of these apart before the recorder sees them
            result = DECOMPOSITIONS[target](*args, **kwargs)
            if result is not NotImplemented:
                return result
        if stays_whole(target):
            return self.recorder.whole(target, args, kwargs)
        return target(*args, **kwargs)


class _Decomposing(_Recorder):
    """Notes what ops are decomposed into; sizes are no part of it."""

    def __init__(self, working: torch.dtype | None) -> None:
        super().__init__(())
        self.working = working
        self.silent = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.silent:
            return func(*args, **kwargs)
        function = decomposition(func)
        if function is not None:
            with self:
                result = function(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return super().__torch_dispatch__(func, types, args, kwargs)

    def whole(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Calls an op and notes it as one, also where PyTorch takes it apart."""
        self.silent = True
        try:
            result = func(*args, **kwargs)
        finally:
            self.silent = False
        self.note(func, args, kwargs, result)
        return result

    def note(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], result: Any) -> None:
        if func not in SAME_VALUE or result.shape != args[0].shape:
            slots, sizes = func._schema.arguments, _size_arguments(func)
            args = [arg for slot, arg in zip(slots, args, strict=False) if slot.name not in sizes]
            kwargs = {name: arg for name, arg in kwargs.items() if name not in sizes}
        super().note(func, args, kwargs, result)

    def tensor(self, tensor: torch.Tensor) -> object:
        return (self.number(tensor), self.plain(tensor.dtype)) if self._is_known(tensor) else _constant(tensor)

    def plain(self, value: object) -> object:
        return "T" if isinstance(value, torch.dtype) and value == self.working else super().plain(value)
