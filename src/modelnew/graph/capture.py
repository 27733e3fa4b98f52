"""Module → FX graph of ATen ops, with sizes left open where the model allows it.

The graph is `torch.export`'s: functional (no op writes to its inputs; buffer updates are outputs), fake-tensor metadata in
`node.meta["val"]`, Python stack traces in `node.meta["stack_trace"]`.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
import torch.utils._pytree as pytree
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from modelnew.errors import CaptureError, UnsupportedError
from modelnew.graph.decompose import decomposition_table

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PLAIN = (*FLOATING, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


@dataclass(frozen=True)
class Leaf:
    """One leaf of the arguments: a tensor (a placeholder of the graph) or a plain value the capture is only valid for."""

    path: str  # how forward reaches it: "x", "xs[0]", "batch['mask']"
    node: fx.Node | None
    value: object = None


@dataclass(frozen=True)
class Captured:
    """A module's forward as a graph.

    `state` maps placeholders to how forward reaches them ("self.linear.weight", "self[0].bias"), `constants` to tensors
    made inside forward.
    `written_back` says of each output of the graph which attribute or argument it is written to, None for what forward returns.
    `sizes` names the open sizes: symbol → (placeholder, dim).
    `conditions` are what torch.export took to be true of open sizes on the way through forward: a branch of its Python, say.
    `exported` and `decomposed` are torch.export's own programs, before and after its ops were decomposed into those of `graph`.
    """

    graph: fx.Graph
    leaves: tuple[Leaf, ...]
    args_spec: pytree.TreeSpec
    state: dict[fx.Node, str]
    constants: dict[fx.Node, torch.Tensor]
    written_back: tuple[str | None, ...]
    returns_spec: pytree.TreeSpec
    sizes: dict[str, tuple[fx.Node, int]]
    conditions: tuple[sympy.Basic, ...]
    working: torch.dtype | None  # the floating dtype of the inputs and parameters, None where there are none
    exported: ExportedProgram
    decomposed: ExportedProgram

    @property
    def mutations(self) -> list[tuple[str, fx.Node]]:
        """(attribute path or argument path, node): what forward writes back when it is done."""
        return [(path, node) for path, node in zip(self.written_back, self._outputs, strict=True) if path is not None]

    @property
    def returns(self) -> Any:
        """The structure that forward returns, its leaves being nodes, numbers or None."""
        leaves = [node for path, node in zip(self.written_back, self._outputs, strict=True) if path is None]
        return pytree.tree_unflatten(leaves, self.returns_spec)

    @property
    def _outputs(self) -> Sequence[Any]:
        outputs: Any = next(node for node in self.graph.nodes if node.op == "output").args[0]
        return outputs  # type: ignore[no-any-return]


def capture(model: nn.Module, inputs: Sequence[object], *, dynamic: bool = True) -> Captured:
    """Export `model` on `inputs` (real or fake tensors, and plain Python values), in the mode that it is in.

    Raises CaptureError, naming the source line, where torch.export cannot follow the model, and UnsupportedError for
    complex, quantised, sparse or subclassed tensors.
    """
    for position, leaf in enumerate(pytree.tree_leaves(tuple(inputs))):
        _require_plain(leaf, f"input {position}")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _require_plain(tensor, name)
    args = _told_apart(tuple(inputs))
    exported, decomposed = _export(model, args, dynamic)
    return _describe(model, exported, decomposed, args)


def _told_apart(args: tuple[object, ...]) -> tuple[object, ...]:
    """One tensor given twice would be captured as one argument: the graph would then ignore the other."""
    flat, spec = pytree.tree_flatten(args)
    seen: set[int] = set()
    for position, value in enumerate(flat):
        if isinstance(value, torch.Tensor):
            if id(value) in seen:
                flat[position] = torch.empty_like(value)
            seen.add(id(value))
    apart: tuple[object, ...] = pytree.tree_unflatten(flat, spec)
    return apart


def _require_plain(value: object, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        return
    if value.layout != torch.strided or value.is_quantized or value.dtype not in PLAIN:
        raise UnsupportedError(
            f"{name} is a tensor of {value.dtype}, layout {value.layout}",
            doing="capturing the model",
            hint="kernels are written for dense fp64, fp32, fp16, bf16, integer and bool tensors; convert it first",
        )


def _export(model: nn.Module, args: tuple[object, ...], dynamic: bool) -> tuple[ExportedProgram, ExportedProgram]:
    """torch.export with every size open; with fixed sizes where the model does not allow that. Before and after decomposition."""
    attempts = [True, False] if dynamic else [False]
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        # torch.export prints graphs and advice where it fails; the error that it raises says enough
        with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            for open_sizes in attempts:
                shapes = _open_shapes(model, args) if open_sizes else None
                try:
                    exported = torch.export.export(model, args, dynamic_shapes=shapes, strict=False)
                    return exported, exported.run_decompositions(decomposition_table())
                except Exception as error:  # torch.export raises many kinds; each is the model's trouble, told below
                    failure = error
    finally:
        logger.setLevel(level)
    raise _capture_error(failure) from failure


def _open_shapes(model: nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
    """An entry for each parameter of forward; those that `*args` collects are one."""
    shapes = [pytree.tree_map(_open_dims, arg) for arg in args]
    for position, parameter in enumerate(inspect.signature(model.forward).parameters.values()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return (*shapes[:position], tuple(shapes[position:]))
    return tuple(shapes)


def _open_dims(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return tuple(torch.export.Dim.AUTO for _ in range(value.dim()))
    return None


def _capture_error(error: Exception) -> CaptureError:
    """Say which line of the model torch.export could not follow, and what usually helps."""
    text = str(error)
    line = _source_line(error)
    first = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    hint = (
        "write this part with tensor operations only (no data-dependent Python, .item(), numpy or printing of values)"
    )
    if "data-dependent" in text or "Could not guard" in text or "GuardOnDataDependent" in type(error).__name__:
        hint = "a Python branch or size depends on a tensor's values: use torch.where, masks, or a fixed size instead"
    elif isinstance(error, (TypeError, RuntimeError, ValueError)) and "export" not in text[:80].lower():
        hint = "check that Model()(*get_inputs()) runs in eager mode first; then " + hint
    return CaptureError(f"the model cannot be captured: {first[:500]}", doing="exporting its graph", on=line, hint=hint)


def _source_line(error: BaseException) -> str:
    """The deepest frame of the traceback, or of the trace in the message, that is neither torch's nor ours."""
    place = ""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if _is_users(name):
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    for name, number in re.findall(r'File "([^"]+)", line (\d+)', str(error)):
        if _is_users(name):
            place = f"{name}:{number}"
    return place or "the model's forward"


def _is_users(filename: str) -> bool:
    return not any(
        part in filename for part in ("/torch/", "/modelnew/", "<frozen", "/sympy/", "importlib", "<string>", "<eval")
    )


def _describe(
    model: nn.Module, exported: ExportedProgram, decomposed: ExportedProgram, args: tuple[object, ...]
) -> Captured:
    graph: fx.Graph = decomposed.graph
    nodes = {node.name: node for node in graph.nodes}
    state: dict[fx.Node, str] = {}
    constants: dict[fx.Node, torch.Tensor] = {}
    user_inputs: list[fx.Node | None] = []
    for spec in decomposed.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            user_inputs.append(nodes.get(spec.arg.name) if hasattr(spec.arg, "name") else None)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            state[nodes[spec.arg.name]] = reach(model, spec.target)
        elif spec.kind == InputKind.CONSTANT_TENSOR:
            node = nodes[spec.arg.name]
            if attribute(model, spec.target) is not None:
                state[node] = reach(model, spec.target)
            else:
                constants[node] = decomposed.constants[spec.target]
        else:
            raise _unsupported_signature(f"an input of kind {spec.kind.name} ({spec.target})")
    leaves = _leaves(model, args, user_inputs)
    paths = {leaf.node.name: leaf.path for leaf in leaves if leaf.node is not None}
    working = _working_dtype([leaf.node for leaf in leaves if leaf.node is not None] + list(state))
    sizes = _open_sizes(leaves)
    return Captured(
        graph=graph,
        leaves=leaves,
        args_spec=pytree.tree_structure(args),
        state=state,
        constants=constants,
        written_back=_written_back(model, decomposed, paths),
        returns_spec=decomposed.call_spec.out_spec,
        sizes=sizes,
        conditions=_conditions(decomposed, leaves, sizes),
        working=working,
        exported=exported,
        decomposed=decomposed,
    )


def _conditions(
    decomposed: ExportedProgram, leaves: Sequence[Leaf], sizes: dict[str, tuple[fx.Node, int]]
) -> tuple[sympy.Basic, ...]:
    """Over the open sizes. That each is 2 or more is none: torch.export assumes it of all."""
    open_sizes = [
        size
        for leaf in leaves
        if leaf.node is not None
        for size in leaf.node.meta["val"].shape
        if isinstance(size, torch.SymInt)
    ]
    if not open_sizes:
        return ()
    found: dict[sympy.Basic, None] = {guard.expr: None for guard in open_sizes[0].node.shape_env.guards}
    for symbol, allowed in decomposed.range_constraints.items():
        if isinstance(allowed.lower, sympy.Integer) and allowed.lower > 2:
            found[sympy.Ge(symbol, allowed.lower)] = None
        if isinstance(allowed.upper, sympy.Integer):
            found[sympy.Le(symbol, allowed.upper)] = None
    return tuple(one for one in found if one.free_symbols and all(str(symbol) in sizes for symbol in one.free_symbols))


def _written_back(model: nn.Module, exported: Any, paths: dict[str, str]) -> tuple[str | None, ...]:
    found: list[str | None] = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind == OutputKind.USER_OUTPUT:
            found.append(None)
        elif spec.kind == OutputKind.BUFFER_MUTATION:
            found.append(reach(model, spec.target))
        elif spec.kind == OutputKind.USER_INPUT_MUTATION:
            found.append(paths[spec.target])
        else:
            raise _unsupported_signature(f"an output of kind {spec.kind.name} ({spec.target})")
    return tuple(found)


def _unsupported_signature(what: str) -> CaptureError:
    return CaptureError(
        f"the model cannot be captured: its graph has {what}",
        doing="exporting its graph",
        hint="forward may take and return tensors, numbers, None and lists, tuples and dicts of them",
    )


def reach(model: nn.Module, path: str) -> str:
    """An attribute path as an expression: "self.layers[0].weight"."""
    text, owner = "self", model
    for part in path.split("."):
        if part.isidentifier():
            text += f".{part}"
        elif part.isdigit() and isinstance(owner, (nn.Sequential, nn.ModuleList, nn.ParameterList)):
            text += f"[{part}]"
        else:
            text = f"getattr({text}, {part!r})"
        owner = getattr(owner, part, None)  # type: ignore[assignment]
    return text


def attribute(model: nn.Module, path: str) -> Any:
    """What `model` reaches by this path; None where there is no such attribute."""
    owner: Any = model
    for part in path.split("."):
        owner = getattr(owner, part, None)
    return owner


def _leaves(model: nn.Module, args: tuple[object, ...], placeholders: list[fx.Node | None]) -> tuple[Leaf, ...]:
    """Pair the leaves of the arguments with their placeholders, in order; a leaf that is no tensor has none."""
    flat, _ = pytree.tree_flatten_with_path(args)
    names = argument_names(model, len(args))
    leaves = []
    for (path, value), node in zip(flat, placeholders, strict=True):
        is_tensor = isinstance(value, torch.Tensor)
        argument: Any = path[0]
        reached = names[argument.idx] + pytree.keystr(path[1:])
        leaves.append(Leaf(reached, node if is_tensor else None, None if is_tensor else value))
    return tuple(leaves)


def argument_names(model: nn.Module, count: int) -> list[str]:
    """What forward calls its first `count` arguments."""
    names: list[str] = []
    for parameter in inspect.signature(model.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}[{i}]" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def _open_sizes(leaves: tuple[Leaf, ...]) -> dict[str, tuple[fx.Node, int]]:
    sizes: dict[str, tuple[fx.Node, int]] = {}
    for leaf in leaves:
        if leaf.node is None:
            continue
        for dim, size in enumerate(leaf.node.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                sizes.setdefault(str(size.node.expr), (leaf.node, dim))
    return sizes


def _working_dtype(nodes: list[fx.Node]) -> torch.dtype | None:
    """The first floating dtype among inputs, then parameters: what the kernels' `T` stands for."""
    for node in nodes:
        dtype: torch.dtype = node.meta["val"].dtype
        if dtype in FLOATING:
            return dtype
    return None
