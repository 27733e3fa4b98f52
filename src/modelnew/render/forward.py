"""Captured graph and its kernels → the statements of `forward`."""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._sympy.printers import PythonPrinter

from modelnew.errors import CaptureError
from modelnew.graph.capture import Captured
from modelnew.graph.partition import Region
from modelnew.graph.sources import op_name, source_line
from modelnew.graph.views import RESHAPES, is_axes_view
from modelnew.runtime.product import can_scale, scale_name

if TYPE_CHECKING:
    from modelnew.compiler import Called

aten = torch.ops.aten
WIDTH = 110
MOST_LITERAL = 4096  # elements of a tensor made inside forward that are written out as numbers

# Calls that have a plain name of the same meaning; everything else is written as torch.ops.aten.…
PLAIN = {
    aten.linear.default: "torch.nn.functional.linear",
    aten.mm.default: "torch.mm",
    aten.bmm.default: "torch.bmm",
    aten.addmm.default: "torch.addmm",
    aten.matmul.default: "torch.matmul",
    aten.conv1d.default: "torch.conv1d",
    aten.conv2d.default: "torch.conv2d",
    aten.conv3d.default: "torch.conv3d",
    aten.cat.default: "torch.cat",
    aten.scaled_dot_product_attention.default: "torch.nn.functional.scaled_dot_product_attention",
}
# methods of the table of kernels
PRODUCTS: dict[Any, str] = {
    aten.linear.default: "linear",
    aten.mm.default: "mm",
    aten.addmm.default: "addmm",
    aten.bmm.default: "bmm",
    aten.matmul.default: "matmul",
}
METHODS = {
    aten.permute.default: "permute",
    aten.transpose.int: "transpose",
    aten.t.default: "t",
    aten.unsqueeze.default: "unsqueeze",
    aten.squeeze.dim: "squeeze",
    aten.squeeze.dims: "squeeze",
    aten.expand.default: "expand",
    **dict.fromkeys(RESHAPES, "reshape"),
}


@dataclass
class Statement:
    """One statement of forward: the locals it makes and needs, and its lines."""

    makes: list[str]
    needs: set[str]
    lines: list[str]
    kernel: bool = False


@dataclass
class Forward:
    """Text of forward's body: `lines` up to the return; `needs` of kernels and sizes are already inside."""

    statements: list[Statement]
    returns: str
    mutations: list[str]
    constants: dict[str, str]  # name → literal of a tensor that forward makes
    needs_at_end: set[str] = field(default_factory=set)
    library: list[fx.Node] = field(default_factory=list)  # nodes that stay PyTorch's own calls, in order
    plain_products: bool = False  # whether products that no kernel takes in have launches of their own
    scales: tuple[tuple[float, float], ...] = ()  # what addmm's among them multiply by: beta and alpha, besides 1 and 1

    def lines(self) -> list[str]:
        """All lines, with `del` where a value has had its last use: eager frees it there too."""
        out: list[str] = []
        alive: set[str] = set()
        for number, statement in enumerate(self.statements):
            out += statement.lines
            alive |= set(statement.makes)
            later = set().union(self.needs_at_end, *(s.needs for s in self.statements[number + 1 :]))
            dead = sorted(alive - later)
            if dead and number + 1 < len(self.statements):
                out.append(f"del {', '.join(dead)}")
                alive &= later
        return [*out, *self.mutations, f"return {self.returns}"]


class ForwardWriter:
    """Writes the statements in the graph's order, each region's kernel just before its first use."""

    def __init__(
        self,
        captured: Captured,
        called: Sequence[Called],
        onednn: frozenset[str] = frozenset(),
        *,
        ours: bool = True,
    ) -> None:
        """`onednn`: names of linear nodes that oneDNN computes on the CPU. `ours`: linear layers have launches of ours."""
        self.onednn, self.ours = onednn, ours
        self.captured = captured
        self.called = {id(one.region): one for one in called}
        self.owner: dict[fx.Node, Region] = {n: c.region for c in called for n in c.region.axes if not is_axes_view(n)}
        self.inside_views = {n: c.region for c in called for n in c.region.axes if is_axes_view(n)}
        self.taken_in = {c.reads[c.product] for c in called if c.product is not None}
        self.text: dict[fx.Node, str] = {}
        self.locals: dict[fx.Node, str] = {}
        self.symbols: dict[str, str] = {}
        self.taken: set[str] = {"self", "torch", *keyword.kwlist}
        self.statements: list[Statement] = []
        self.constants: dict[str, str] = {}
        self.library: list[fx.Node] = []
        self.emitted: set[int] = set()
        self.anchor: str | None = None  # a tensor whose device and dtype stand for the model's

    def write(self) -> Forward:
        self._bind_inputs()
        live = self._live()
        for node in self.captured.graph.nodes:
            inside = node in self.owner or node in self.taken_in
            wanted = node.op == "call_function" and node in live and not inside
            if wanted and (node not in self.inside_views or self._is_used_outside(node)):
                self._external(node)
        returns = self._structure(self.captured.returns)
        needs: set[str] = set()
        mutations = []
        for target, value in self.captured.mutations:
            text = self._ref(value, needs)
            if text != target:
                mutations.append(f"{target}.copy_({text})")
        needs |= {name for node, name in self.locals.items() if node in self._returned()}
        plain = [node for node in self.library if node not in self.taken_in and self._is_plain_product(node)]
        scales = tuple(dict.fromkeys(found for node in plain if (found := scales_of(node)) is not None))
        constants, library = self.constants, self.library
        return Forward(self.statements, returns, mutations, constants, needs, library, bool(plain), scales)

    def _is_plain_product(self, node: fx.Node) -> bool:
        """A linear layer in the working dtype, of matrices; or a product of two, or of several pairs."""
        value: Any = node.meta.get("val")
        if not self.ours or node.target not in PRODUCTS or value.dtype != self.captured.working:
            return False
        factors = node.args[:2] if node.target is aten.matmul.default else ()
        return value.dim() >= 2 and all(factor.meta["val"].dim() >= 2 for factor in factors)  # type: ignore[union-attr]

    def name_of(self, node: fx.Node) -> str:
        """What a reader knows a tensor by: the argument, the parameter's path with underscores, the op that made it."""
        if node in self.captured.state:
            words = re.findall(r"\w+", self.captured.state[node].removeprefix("self"))
            return "_".join(words) if words[0].isidentifier() else "layer_" + "_".join(words)
        text = self.text.get(node, "")
        return text if node.op == "placeholder" and text.isidentifier() else op_name(node)

    def _bind_inputs(self) -> None:
        for leaf in self.captured.leaves:
            if leaf.node is not None:
                self.text[leaf.node] = leaf.path
                self.taken.add(leaf.path)
                self.anchor = self.anchor or self._anchor_of(leaf.node, leaf.path)
        for node, path in self.captured.state.items():
            self.text[node] = path
        for node, path in self.captured.state.items():
            self.anchor = self.anchor or self._anchor_of(node, path)
        for node, tensor in self.captured.constants.items():
            self.text[node] = self._constant(node, tensor)
        for symbol, (node, dim) in self.captured.sizes.items():
            self.symbols[symbol] = f"{self.text[node]}.shape[{dim}]"

    def _anchor_of(self, node: fx.Node, path: str) -> str | None:
        return path if node.meta["val"].dtype == self.captured.working or self.captured.working is None else None

    def _constant(self, node: fx.Node, tensor: torch.Tensor) -> str:
        """A tensor that forward makes from literals; it moves to the inputs' device when used."""
        if tensor.numel() > MOST_LITERAL:
            raise CaptureError(
                f"forward makes a tensor of {tensor.numel()} constants",
                doing="writing the optimised file",
                on=source_line(next(iter(node.users), node)),
                hint="make it once in __init__ and keep it with self.register_buffer(name, tensor)",
            )
        if isinstance(tensor, FakeTensor):
            raise CaptureError(
                "forward uses a tensor that the module keeps inside a list, a dict or another object",
                doing="writing the optimised file",
                on=source_line(next(iter(node.users), node)),
                hint="make it an attribute of the module, best with self.register_buffer(name, tensor)",
            )
        name = f"CONSTANT_{len(self.constants)}"
        self.constants[name] = f"torch.tensor({tensor.tolist()!r}, dtype={tensor.dtype})"
        return f"{name}.to({self.anchor}.device)" if self.anchor else name

    def _live(self) -> set[fx.Node]:
        """Nodes whose values are needed; a region is needed whole."""
        live: set[fx.Node] = set()
        stack = [*self._returned(), *(node for _, node in self.captured.mutations)]
        while stack:
            node = stack.pop()
            if node in live:
                continue
            live.add(node)
            region = self.owner.get(node)
            if region is not None:
                stack.extend(self.called[id(region)].reads)
            elif not self._is_size(node):
                stack.extend(node.all_input_nodes)
        return live

    def _returned(self) -> set[fx.Node]:
        return {leaf for leaf in torch.utils._pytree.tree_leaves(self.captured.returns) if isinstance(leaf, fx.Node)}

    def _is_used_outside(self, view: fx.Node) -> bool:
        region = self.inside_views[view]
        return any(user not in region.axes for user in view.users) or view in self._returned()

    def _is_size(self, node: fx.Node) -> bool:
        """A number computed from sizes: written where it is used, as an expression of open sizes."""
        return isinstance(node.meta.get("val"), (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)) and (
            node.target is not aten._local_scalar_dense.default
        )

    def _unique(self, wish: str) -> str:
        name, number = wish, 1
        while name in self.taken:
            number += 1
            name = f"{wish}_{number}"
        self.taken.add(name)
        return name

    def _ref(self, node: fx.Node, needs: set[str]) -> str:
        """The text of a node's value; its region's kernel, or its own call, is written first where that has not happened: a
        region may need a call that comes later in the graph than the first user of the region."""
        region = self.owner.get(node)
        if region is not None and id(region) not in self.emitted:
            self._kernel(region)
        if region is None and node.op == "call_function" and node not in self.taken_in:
            self._external(node)
        if node in self.locals:
            needs.add(self.locals[node])
            return self.locals[node]
        if self._is_size(node):
            return self._number(node.meta["val"], needs)
        return self.text[node]

    def _kernel(self, region: Region) -> None:
        self.emitted.add(id(region))
        called = self.called[id(region)]
        needs: set[str] = set()
        callee, args = f"self.kernels.{called.name}", [n for i, n in enumerate(called.reads) if i != called.product]
        texts = [self._ref(node, needs) for node in args]
        covered = region.nodes
        if called.product is not None:
            product = called.reads[called.product]
            function, factors = self._callee(product, needs)
            callee, texts = f"{callee}.after", [function, *factors, *texts]
            covered = [product, *covered]
            self.library.append(product)
        makes = [self._unique(op_name(node)) for node in called.stores]
        self.locals.update(zip(called.stores, makes, strict=True))
        comments = [f"# {line}" for line in dict.fromkeys(filter(None, map(source_line, covered)))]
        call = _call(f"{', '.join(makes)} = {callee}", texts)
        self.statements.append(Statement(makes, needs, [*comments, *call], kernel=True))
        for node, name in zip(called.stores, makes, strict=True):
            self._learn_sizes(node, name)

    def _external(self, node: fx.Node) -> None:
        if node in self.locals or self._is_size(node):
            return
        needs: set[str] = set()
        target, args = self._callee(node, needs)
        name = self._unique(op_name(node) if node.target is not operator.getitem else op_name(node.args[0]))  # type: ignore[arg-type]
        self.locals[node] = name
        lines = [f"{name} = {args[0]}"] if not target else _call(f"{name} = {target}", args)
        self.statements.append(Statement([name], needs, lines))
        self.library.append(node)
        self._learn_sizes(node, name)

    def _learn_sizes(self, node: fx.Node, name: str) -> None:
        """Sizes that only exist once this value does (nonzero, item)."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and value.node.expr.is_symbol:
            self.symbols.setdefault(str(value.node.expr), name)
        for dim, size in enumerate(value.shape if isinstance(value, torch.Tensor) else ()):
            if isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                self.symbols.setdefault(str(size.node.expr), f"{name}.shape[{dim}]")

    def _callee(self, node: fx.Node, needs: set[str]) -> tuple[str, list[str]]:
        """What is called, and the text of its arguments; an empty callee means that the text is the whole expression."""
        value: Callable[[Any], str] = lambda arg: self._value(arg, needs)  # noqa: E731
        target = node.target
        if target is operator.getitem:
            return "", [f"{value(node.args[0])}[{node.args[1]}]"]
        if target is aten._local_scalar_dense.default:
            return "", [f"{value(node.args[0])}.item()"]
        if target in METHODS:
            return f"{value(node.args[0])}.{METHODS[target]}", [value(arg) for arg in node.args[1:]]
        args = [value(arg) for arg in node.args]
        args += [f"{key}={value(arg)}" for key, arg in node.kwargs.items() if not (key == "pin_memory" and not arg)]
        if node.name in self.onednn:
            return "self.kernels.onednn_linear", args
        if node not in self.taken_in and self._is_plain_product(node):
            return f"self.kernels.{PRODUCTS[target]}", args
        if target in PLAIN:
            return PLAIN[target], args
        if not isinstance(target, torch._ops.OpOverload):
            raise CaptureError(
                f"the graph calls {target}, which an optimised file cannot name",
                doing="writing the optimised file",
                on=source_line(node),
                hint="use operations of PyTorch itself",
            )
        namespace, name = target._schema.name.split("::")
        return f"torch.ops.{namespace}.{name}.{target._overloadname or 'default'}", args

    def _value(self, arg: Any, needs: set[str]) -> str:
        if isinstance(arg, fx.Node):
            return self._ref(arg, needs)
        if isinstance(arg, (list, tuple)):
            inner = ", ".join(self._value(one, needs) for one in arg)
            return f"[{inner}]" if isinstance(arg, list) else f"({inner}{',' if len(arg) == 1 else ''})"
        if isinstance(arg, torch.device):
            return f"{self.anchor}.device" if self.anchor else repr(arg)
        if isinstance(arg, torch.dtype) and arg == self.captured.working and self.anchor:
            return f"{self.anchor}.dtype"
        if isinstance(arg, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._number(arg, needs)
        if isinstance(arg, float) and arg in (float("inf"), float("-inf")):
            return f'float("{arg}")'
        return str(arg) if isinstance(arg, (torch.dtype, torch.layout, torch.memory_format)) else repr(arg)

    def _number(self, value: Any, needs: set[str]) -> str:
        if not isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return repr(value)
        expression = value.node.expr
        names = {}
        for symbol in expression.free_symbols:
            text = self.symbols.get(str(symbol))
            if text is None:
                raise CaptureError(
                    f"a size of the model depends on values ({expression})",
                    doing="writing the optimised file",
                    hint="use masks or fixed sizes instead of selecting by values",
                )
            needs |= {name for name in self.locals.values() if text == name or text.startswith(name + ".")}
            names[symbol] = sympy.Symbol(text, integer=True)
        printed: str = PythonPrinter().doprint(expression.xreplace(names))
        return printed

    def _structure(self, value: Any) -> str:
        needs: set[str] = set()
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key!r}: {self._structure(one)}" for key, one in value.items()) + "}"
        if type(value) in (list, tuple):
            inner = ", ".join(self._structure(one) for one in value)
            return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
        if type(value).__module__ == "torch.return_types":
            return f"torch.return_types.{type(value).__name__}(({', '.join(self._structure(one) for one in value)}))"
        if isinstance(value, fx.Node) or value is None or isinstance(value, (bool, int, float, str)):
            return self._value(value, needs)
        raise CaptureError(
            f"forward returns a {type(value).__name__}",
            doing="writing the optimised file",
            hint="return tensors, numbers, None, or lists, tuples and dicts of them",
        )


def scales_of(node: fx.Node) -> tuple[float, float] | None:
    """Beta and alpha of an addmm that has others than 1 and 1, and a launch with them."""
    numbers = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    if node.target is not aten.addmm.default or not all(map(can_scale, numbers)) or not scale_name(*numbers):  # type: ignore[arg-type]
        return None
    beta, alpha = (float(number) for number in numbers)  # type: ignore[arg-type]
    return beta, alpha


def _call(callee: str, args: list[str]) -> list[str]:
    """`callee(args)`, broken over lines where it is too long."""
    line = f"{callee}({', '.join(args)})"
    if len(line) <= WIDTH:
        return [line]
    inner = ", ".join(args)
    if len(inner) <= WIDTH:
        return [f"{callee}(", f"    {inner},", ")"]
    return [f"{callee}(", *(f"    {arg}," for arg in args), ")"]
