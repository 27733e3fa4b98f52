"""Module → program: the passes, in order. Pure: no compiler is called and no device touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from modelnew import fakes
from modelnew.graph.capture import FLOATING, Captured, capture
from modelnew.graph.evidence import Record, agree, follows, pieces
from modelnew.graph.original import Original, put_back, stays
from modelnew.graph.other_inputs import Lie, lie_of, of_rank, set_to_one, sliced, turned
from modelnew.graph.partition import Partition, Region, is_product, partition
from modelnew.graph.retype import retyped
from modelnew.graph.rewrite import drop_assertions, hoist_reshapes, sink_reshapes, split_bias
from modelnew.kernel.ir import Kernel, walk
from modelnew.kernel.lower import NoDomain, Types, lower, why_not
from modelnew.kernel.product import take_product
from modelnew.render.forward import Forward, ForwardWriter
from modelnew.render.kernel import render_kernel
from modelnew.runtime.plan_few import FEW
from modelnew.runtime.plan_product import AMPERE, HOPPER

MOST_VARIANT_NODES = 400  # in a larger graph a dtype that runs on fakes do not show is not looked at by another capture
# attributes of runtime/kernels.py's Kernels, which has a file's kernels by name beside them
TAKEN = frozenset("linear mm bmm matmul addmm onednn_linear plain alone calls library libraries products name".split())
PRECISIONS = ("fp32", "emulated", "ieee")  # of fp32 products; docs/commands.md says what they mean
ANY_RANKS = range(6)
MOST_COMBINED = 4


class Source(Protocol):
    """Where modules to capture come from: a reference file, or a live module."""

    def abstract(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, list[Any]]:
        """The module and its inputs as fake tensors, floating ones in `dtype` where one is given."""
        ...


class Called(NamedTuple):
    """A region, the name of its kernel, the tensors that it reads and the nodes whose values it stores.

    product: which of `reads` is a matrix product that the kernel takes in; nothing else needs that one then.
    """

    region: Region
    name: str
    reads: list[fx.Node]
    stores: list[fx.Node]
    product: int | None = None


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
    laid_out: tuple[Lie, ...] | None = None  # per input that is a tensor; None where forward takes no notice of it
    without_grad: bool = False  # forward does otherwise in grad mode, even where there is nothing to record
    any_rank: bool = False
    unmeasured: bool = False  # products have launches of ours also for devices on which nobody has timed them

    @property
    def products(self) -> bool:
        """Whether some of its matrix products have launches of ours."""
        return self.forward.plain_products or any(kernel.product is not None for kernel in self.kernels)

    @property
    def product_kernels(self) -> tuple[str, ...]:
        """What products are computed by: names of plan_few.py and plan_product.py."""
        if not self.products:
            return ()
        return (FEW, HOPPER, AMPERE) if self.unmeasured else (FEW, HOPPER)

    @property
    def launches(self) -> bool:
        """Whether anything runs by launches of ours: otherwise the file has no forward of its own."""
        return bool(self.kernels) or self.products

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
    if not program.launches:
        return program
    with fakes.silence():
        evidence = _Evidence(source, program)
        working, smallest, any_rank = evidence.dtypes(), evidence.smallest_sizes(), evidence.any_rank()
        laid_out, without_grad = evidence.laid_out(), evidence.without_grad()
    program = replace(program, laid_out=laid_out, without_grad=without_grad)
    widened = _widened(program, working, smallest, any_rank=any_rank)
    show("program", widened)
    return widened


def with_products(program: Program, onednn: frozenset[str] = frozenset(), *, precision: str = "fp32") -> Program:
    """The program with these linear nodes computed by oneDNN on the CPU. `precision`: one of PRECISIONS."""
    kernels, called = program.kernels, program.called
    ours = precision != "ieee"
    if not ours:
        kernels = tuple(replace(kernel, product=None) for kernel in kernels)
        called = tuple(one._replace(product=None) for one in called)
    forward = ForwardWriter(program.captured, called, onednn, ours=ours).write()
    return replace(program, kernels=kernels, called=called, forward=forward, unmeasured=precision == "emulated")


def without(program: Program, losers: Sequence[Original]) -> Program:
    """The program with these kernels' work left to the calls that they stood for, as forward made them."""
    if not put_back(program.captured, losers):
        return program
    smaller = compile_captured(program.captured)
    any_rank = program.any_rank and bool(smaller.kernels) and _is_elementwise(smaller)
    return _widened(smaller, program.working, program.smallest, any_rank=any_rank)


def _widened(
    program: Program,
    working: tuple[torch.dtype, ...],
    smallest: dict[str, int],
    *,
    any_rank: bool,
) -> Program:
    """The program with what else it holds for."""
    kernels = tuple(replace(kernel, any_rank=any_rank) for kernel in program.kernels)
    return replace(program, kernels=kernels, working=working, smallest=smallest, any_rank=any_rank)


def compile_module(
    model: nn.Module,
    inputs: Sequence[object],
    show: Callable[[str, object], None] = lambda name, value: None,
    *,
    dynamic: bool = True,
) -> Program:
    """The program for exactly this module and these inputs."""
    captured = capture(model, inputs, dynamic=dynamic)
    show("capture", captured.graph)
    rewrite(captured.graph, Types(captured.working))
    show("rewrite", captured.graph)
    return compile_captured(captured, show)


def compile_captured(captured: Captured, show: Callable[[str, object], None] = lambda name, value: None) -> Program:
    """The program for a captured graph that has been rewritten."""
    types = Types(captured.working)
    parts = partition(captured.graph, lambda node: stays(node) or why_not(node, types))
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
        kernel = _named_apart(_with_product(kernel, reads, region), made)
        made[kernel.name] = kernel
        called.append(Called(region, kernel.name, reads, stores, kernel.product))
    return tuple(made.values()), tuple(called)


def _with_product(kernel: Kernel, reads: list[fx.Node], region: Region) -> Kernel:
    """The kernel taking in the last of its operands that is a product which nothing else needs."""
    for operand, node in reversed(list(enumerate(reads))):
        if is_product(node) and reads.count(node) == 1 and all(user in region.axes for user in node.users):
            marked = take_product(kernel, operand)
            if marked.product is not None:
                return marked
    return kernel


def _named_apart(kernel: Kernel, made: dict[str, Kernel]) -> Kernel:
    wish, number = kernel.name, 1
    while kernel.name in TAKEN or (kernel.name in made and not _equal(kernel, made[kernel.name])):
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
    return (*plain, sorted(kernel.reduced), kernel.product, render_kernel(renamed))


def _operand(operand: Any, name: str) -> Any:
    return type(operand)(name, operand.storage, operand.axes)


class _Evidence:
    """What else a program holds for: shown by runs on fakes, and where those differ by another capture."""

    def __init__(self, source: Source, program: Program) -> None:
        self.source, self.program, self.captured = source, program, program.captured
        model, inputs = source.abstract()
        self.pieces = self._pieces(model, inputs, self.captured.working)

    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The captured dtype first, then every other one for which the model is the same program."""
        captured = self.captured.working
        if captured is None:
            return ()
        return (captured, *(dtype for dtype in FLOATING if dtype != captured and self._holds_in(dtype)))

    def smallest_sizes(self) -> dict[str, int]:
        """An open size may be 1 only where the model takes the same way then: torch.export assumes that it is larger.

        The guard lets any of these sizes be 1 beside any other, so their combinations count: all of them where they are few,
        otherwise each size alone, with each other one, and with all.
        """
        ones: list[str] = []
        for symbol in self.captured.sizes:
            counts = range(len(ones) + 1) if len(ones) <= MOST_COMBINED else sorted({0, 1, len(ones)})
            beside = [others for count in counts for others in combinations(ones, count)]
            if all(self._holds_at_one((symbol, *others)) for others in beside):
                ones.append(symbol)
        return {symbol: 1 if symbol in ones else 2 for symbol in self.captured.sizes}

    def any_rank(self) -> bool:
        """Elementwise from end to end, and the same at every rank: then any shapes will do that broadcast."""
        if not _is_elementwise(self.program) or self.captured.conditions:
            return False
        tensors = [position for position, leaf in enumerate(self.captured.leaves) if leaf.node is not None]
        which = (None, *tensors) if len(tensors) > 1 else (None,)
        return all(self._holds_for(partial(of_rank, rank=rank, alone=alone)) for rank in ANY_RANKS for alone in which)

    def laid_out(self) -> tuple[Lie, ...] | None:
        """How the inputs lie, where forward does otherwise with others: a branch on strides, or a view that some do not allow."""
        model, inputs = self.source.abstract()
        if all(self._shown(model, lying(inputs), self.captured.working) for lying in (turned, sliced)):
            return None
        return tuple(lie_of(leaf) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor))

    def without_grad(self) -> bool:
        """Whether forward makes other calls in grad mode, though nothing is there that autograd would record."""
        model, inputs = self.source.abstract()
        return not self._shown(model.requires_grad_(False), inputs, self.captured.working, grad=True)

    def _holds_at_one(self, symbols: Sequence[str]) -> bool:
        return self._holds_for(lambda inputs: set_to_one(self.captured, inputs, symbols))

    def _holds_in(self, dtype: torch.dtype) -> bool:
        other = None
        if self._shown(*self.source.abstract(dtype), dtype):
            other = retyped(self.captured, dtype)
        if other is not None:
            return compile_captured(other).text == self.program.text
        if len(self.captured.graph.nodes) > MOST_VARIANT_NODES:
            return False
        try:
            return compile_module(*self.source.abstract(dtype)).text == self.program.text
        except Exception:  # a model that does not run so is not the same: whatever it raises, the original does too
            return False

    def _holds_for(self, change: Callable[[list[Any]], list[Any]]) -> bool:
        model, inputs = self.source.abstract()
        if self._shown(model, change(inputs), self.captured.working):
            return True
        model, inputs = self.source.abstract()
        try:
            inputs = change(inputs)
            other = capture(model, inputs)
            rewrite(other.graph, Types(other.working))
            return agree(self.captured, other, model, inputs)
        except Exception:  # as above
            return False

    def _shown(self, model: nn.Module, inputs: list[Any], dtype: torch.dtype | None, *, grad: bool = False) -> bool:
        """Whether the runs on these fakes show that the captured program holds for them."""
        try:
            same_calls = follows(self.captured, model, inputs, dtype, grad=grad)
        except Exception:  # as above, or it asks for a value: fakes have none
            return False
        return same_calls and self.pieces is not None and self._pieces(model, inputs, dtype) == self.pieces

    def _pieces(self, model: nn.Module, inputs: list[Any], dtype: torch.dtype | None) -> Record | None:
        """None where the captured calls cannot be taken apart on these fakes: then nothing is shown by it."""
        try:
            return pieces(self.captured, model, inputs, dtype)
        except Exception:  # as above
            return None


def _is_elementwise(program: Program) -> bool:
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
        if any(expr.axes is not None for expr in walk(kernel.results)):
            return False
    return True


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
            for module in self.model.modules():  # tensors that are plain attributes
                for leaf in pytree.tree_leaves(list(vars(module).values())):
                    if isinstance(leaf, torch.Tensor) and id(leaf) not in memo:
                        memo[id(leaf)] = convert(leaf.detach())
            model = copy.deepcopy(self.model, memo)
            return model, fakes.map_tensors(convert, self.inputs)
