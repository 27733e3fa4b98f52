"""Module → program: the passes, in order. Pure: no compiler is called and no device touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from modelnew import fakes
from modelnew.graph.capture import FLOATING, Captured, capture
from modelnew.graph.partition import Partition, Region, partition
from modelnew.graph.rewrite import drop_assertions, hoist_reshapes, sink_reshapes, split_bias
from modelnew.graph.views import is_open
from modelnew.kernel.ir import Kernel
from modelnew.kernel.lower import NoDomain, Types, lower, why_not
from modelnew.render.forward import Forward, ForwardWriter
from modelnew.render.kernel import render_kernel

MOST_VARIANT_NODES = 400  # beyond this only the captured dtype is compiled: each further one is another export
ANY_RANKS = (0, 1, 3, 4, 5)


class Source(Protocol):
    """Where modules to capture come from: a reference file, or a live module."""

    def abstract(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, list[Any]]:
        """The module and its inputs as fake tensors, floating ones in `dtype` where one is given."""
        ...


class Called(NamedTuple):
    """A region, the name of its kernel, the tensors that it reads and the nodes whose values it stores."""

    region: Region
    name: str
    reads: list[fx.Node]
    stores: list[fx.Node]


@dataclass(frozen=True)
class Program:
    """What a module's forward became: kernels, the statements that call them, and for what it holds."""

    captured: Captured
    partition: Partition
    kernels: tuple[Kernel, ...]
    called: tuple[Called, ...]
    forward: Forward
    working: tuple[torch.dtype, ...] = ()
    smallest: dict[str, int] = field(default_factory=dict)
    any_rank: bool = False

    @property
    def text(self) -> str:
        """Everything that depends on the graph: two captures of equal text are the same program."""
        specs = [(k.name, k.inputs, k.outputs, sorted(k.reduced)) for k in self.kernels]
        return "\n".join([*map(render_kernel, self.kernels), *self.forward.lines(), repr(specs)])


def compile_source(source: Source, show: Callable[[str, object], None] = lambda name, value: None) -> Program:
    """Capture, rewrite, partition, lower, and widen to what else the same program holds for.

    `show(pass name, value)` sees what each pass leaves. Raises CaptureError and UnsupportedError.
    """
    model, inputs = source.abstract()
    program = compile_module(model, inputs, show)
    if not program.kernels:
        return program
    working = _dtypes(source, program)
    smallest = _smallest_sizes(source, program)
    any_rank = _any_rank(source, program)
    kernels = tuple(replace(k, any_rank=True) for k in program.kernels) if any_rank else program.kernels
    widened = replace(program, kernels=kernels, working=working, smallest=smallest, any_rank=any_rank)
    show("program", widened)
    return widened


def with_products(program: Program, onednn: frozenset[str]) -> Program:
    """The program with these linear nodes computed by oneDNN on the CPU."""
    return replace(program, forward=ForwardWriter(program.captured, program.called, onednn).write())


def compile_module(
    model: nn.Module,
    inputs: Sequence[object],
    show: Callable[[str, object], None] = lambda name, value: None,
    *,
    dynamic: bool = True,
) -> Program:
    """The program for exactly this module and these inputs."""
    captured = capture(model, inputs, dynamic=dynamic)
    types = Types(captured.working)
    show("capture", captured.graph)
    rewrite(captured.graph, types)
    show("rewrite", captured.graph)
    parts = partition(captured.graph, lambda node: why_not(node, types))
    show("partition", parts)
    kernels, called = _lower_all(captured, parts, types)
    show("lower", kernels)
    forward = ForwardWriter(captured, called).write()
    show("forward", forward)
    return Program(captured, parts, kernels, called, forward, (captured.working,) if captured.working else ())


def rewrite(graph: fx.Graph, types: Types) -> None:
    """The passes that change the graph, in place."""

    def accepts(node: fx.Node) -> str | None:
        return why_not(node, types)

    drop_assertions(graph)
    split_bias(graph, accepts)
    hoist_reshapes(graph, accepts)
    sink_reshapes(graph, accepts)


def _lower_all(captured: Captured, parts: Partition, types: Types) -> tuple[tuple[Kernel, ...], tuple[Called, ...]]:
    """Kernels with names of their own; equal kernels are written once and called twice."""
    names = ForwardWriter(captured, [])
    names._bind_inputs()
    made: dict[str, Kernel] = {}
    called = []
    for region in parts.regions:
        try:
            kernel, reads, stores = lower(region, types, names.name_of)
        except NoDomain:
            parts.left.update(dict.fromkeys(region.axes, "nothing that it reads says how large it is"))
            continue
        kernel = _named_apart(kernel, made)
        made[kernel.name] = kernel
        called.append(Called(region, kernel.name, reads, stores))
    return tuple(made.values()), tuple(called)


def _named_apart(kernel: Kernel, made: dict[str, Kernel]) -> Kernel:
    wish, number = kernel.name, 1
    while kernel.name in made and not _equal(kernel, made[kernel.name]):
        number += 1
        kernel = replace(kernel, name=f"{wish}_{number}")
    if kernel.name in made:
        sources = tuple(dict.fromkeys((*made[kernel.name].sources, *kernel.sources)))
        return replace(kernel, sources=sources)
    return kernel


def _equal(a: Kernel, b: Kernel) -> bool:
    """Whether the two are the same but for their operands' names and the lines they come from."""
    return _nameless(a) == _nameless(b)


def _nameless(kernel: Kernel) -> tuple[object, ...]:
    plain = [tuple((op.storage, op.axes) for op in ops) for ops in (kernel.inputs, kernel.outputs)]
    renamed = replace(
        kernel,
        name="k",
        sources=(),
        inputs=tuple(_operand(op, f"i{i}") for i, op in enumerate(kernel.inputs)),
        outputs=tuple(_operand(op, f"o{i}") for i, op in enumerate(kernel.outputs)),
    )
    return (*plain, sorted(kernel.reduced), render_kernel(renamed))


def _operand(operand: Any, name: str) -> Any:
    return type(operand)(name, operand.storage, operand.axes)


def _dtypes(source: Source, program: Program) -> tuple[torch.dtype, ...]:
    """The captured dtype first, then every other one for which the model is the same program."""
    captured = program.captured.working
    if captured is None:
        return ()
    found = [captured]
    if len(program.captured.graph.nodes) > MOST_VARIANT_NODES:
        return tuple(found)
    for dtype in FLOATING:
        if dtype != captured and _same(program, lambda dtype=dtype: source.abstract(dtype)):  # type: ignore[misc]
            found.append(dtype)
    return tuple(found)


def _smallest_sizes(source: Source, program: Program) -> dict[str, int]:
    """An open size may be 1 only where the model takes the same way then: torch.export assumes that it is larger."""
    symbols = program.captured.sizes
    if _same_calls(program, lambda: _all_ones(source, program)):
        return dict.fromkeys(symbols, 1)
    smallest = {}
    for symbol, (node, dim) in symbols.items():
        leaf = next(i for i, leaf in enumerate(program.captured.leaves) if leaf.node is node)
        same = _same_calls(program, lambda leaf=leaf, dim=dim: _resized(source, leaf, dim))  # type: ignore[misc]
        smallest[symbol] = 1 if same else 2
    return smallest


def _any_rank(source: Source, program: Program) -> bool:
    """Elementwise from end to end, and the same at every rank: then any shapes will do that broadcast."""
    leaves = [leaf for leaf in program.captured.leaves if leaf.node is not None]
    if any(k.reduced for k in program.kernels) or program.captured.state or program.captured.constants or not leaves:
        return False
    if any(not statement.kernel for statement in program.forward.statements) or program.captured.mutations:
        return False
    for kernel in program.kernels:
        for operand in (*kernel.inputs, *kernel.outputs):
            offset = kernel.rank - len(operand.axes)
            if any(axis not in (None, offset + dim) for dim, axis in enumerate(operand.axes)):
                return False
        if any(len(output.axes) != kernel.rank or None in output.axes for output in kernel.outputs):
            return False
        if any(operand.storage != "T" for operand in kernel.inputs):
            return False
    return all(_same_calls(program, lambda rank=rank: _reranked(source, rank)) for rank in ANY_RANKS)  # type: ignore[misc]


def _same(program: Program, make: Callable[[], tuple[nn.Module, list[Any]]]) -> bool:
    """Whether another capture gives the same text, kernels and all."""
    try:
        return compile_module(*make()).text == program.text
    except Exception:  # a model that does not run so is not the same; whatever it raises, the original forward will too
        return False


def _same_calls(program: Program, make: Callable[[], tuple[nn.Module, list[Any]]]) -> bool:
    """Whether a capture with other sizes makes the same calls with the same constants, sizes aside."""
    try:
        model, inputs = make()
        other = capture(model, inputs)
        rewrite(other.graph, Types(other.working))
    except Exception:  # as above
        return False
    return _calls(other.graph.nodes) == _calls(program.captured.graph.nodes)


def _calls(nodes: Iterable[fx.Node]) -> list[object]:
    """The ops in order with their plain arguments; sizes of reshapes and expands are what differs by right."""
    calls: list[object] = []
    for node in nodes:
        if node.op == "call_function" and isinstance(node.meta.get("val"), (torch.Tensor, tuple, list)):
            plain = [
                arg
                for arg in pytree.tree_leaves((node.args, node.kwargs))
                if isinstance(arg, (float, str, bool, torch.dtype)) or (isinstance(arg, int) and not _has_sizes(node))
            ]
            calls.append((str(node.target), [str(arg) for arg in plain]))
    return calls


def _has_sizes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any("SymInt" in str(argument.real_type) for argument in schema.arguments)


def _resized(source: Source, leaf: int, dim: int) -> tuple[nn.Module, list[Any]]:
    """The source with one dim of one input, and all that share its size symbol by being the same number, set to 1."""
    model, inputs = source.abstract()
    flat, spec = pytree.tree_flatten(tuple(inputs))
    size = flat[leaf].shape[dim]
    for i, value in enumerate(flat):
        if isinstance(value, torch.Tensor) and (i == leaf or size in value.shape[dim : dim + 1]):
            with value.fake_mode:  # type: ignore[attr-defined]
                flat[i] = value.new_empty([1 if d == dim else s for d, s in enumerate(value.shape)])
    return model, list(pytree.tree_unflatten(flat, spec))


def _all_ones(source: Source, program: Program) -> tuple[nn.Module, list[Any]]:
    """The source with every open size set to 1."""
    model, inputs = source.abstract()
    flat, spec = pytree.tree_flatten(tuple(inputs))
    nodes = {leaf.node: i for i, leaf in enumerate(program.captured.leaves) if leaf.node is not None}
    for node, i in nodes.items():
        shape = [
            1 if is_open(open_size) else size
            for open_size, size in zip(node.meta["val"].shape, flat[i].shape, strict=True)
        ]
        with flat[i].fake_mode:
            flat[i] = flat[i].new_empty(shape)
    return model, list(pytree.tree_unflatten(flat, spec))


def _reranked(source: Source, rank: int) -> tuple[nn.Module, list[Any]]:
    model, inputs = source.abstract()
    flat, spec = pytree.tree_flatten(tuple(inputs))
    for i, value in enumerate(flat):
        if isinstance(value, torch.Tensor):
            with value.fake_mode:  # type: ignore[attr-defined]
                flat[i] = value.new_empty([5] * rank)
    return model, list(pytree.tree_unflatten(flat, spec))


class LiveModule:
    """A module in memory and example inputs, as a Source."""

    def __init__(self, model: nn.Module, inputs: Sequence[object]) -> None:
        self.model, self.inputs = model, list(inputs)

    def abstract(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, list[Any]]:
        mode = fakes.new_mode()

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

        with mode:
            convert = fakes.to_fake(mode, move)
            memo: dict[int, Any] = {}
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                fake = convert(tensor.detach())
                is_parameter = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
            model = copy.deepcopy(self.model, memo)
            return model, fakes.map_tensors(convert, self.inputs)
