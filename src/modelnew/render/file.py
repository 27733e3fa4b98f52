"""Program → the text of an optimised file. Same program and options, same bytes."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sympy
import torch.utils._pytree as pytree
from torch import nn
from torch.utils._sympy.printers import PythonPrinter

from modelnew.graph.capture import Leaf, argument_names
from modelnew.graph.views import is_open
from modelnew.kernel.ir import Kernel, layout_of
from modelnew.kernel.schedule import schedule
from modelnew.render.carry import carry
from modelnew.render.kernel import render_kernel
from modelnew.render.library import libraries
from modelnew.render.product import plain_products, render_product

if TYPE_CHECKING:
    from modelnew.compiler import Program

RULE = "# " + "=" * 118
PRODUCT_NUMERICS = (
    "On GPUs of compute capability 9.0 fp32 products run on tensor cores, each factor split in two fp16 halves: as accurate",
    "as fp32; those of few rows in plain fp32. Where PyTorch is allowed TF32, and on other devices, the library computes them.",
)
EVERYWHERE = (
    "On GPUs of compute capability 8.x, 9.0 and 12.x fp32 products run on tensor cores, each factor split in two fp16 halves:",
    "as accurate as fp32, by its arithmetic; on 8.x and 12.x it was never run, nor timed. On 9.0 those of few rows are computed",
    "in plain fp32. Where PyTorch is allowed TF32, and on other devices, the library computes them.",
)


@dataclass(frozen=True)
class Origin:
    """Where a program comes from. `reference`: the source that the file carries, or None for a live module.

    `made_for`: positional and keyword arguments of the constructor. `notes`: lines for the header, such as the regions
    that a measurement kept.
    """

    name: str
    reference: str | None
    command: str
    version: str
    made_for: tuple[tuple[object, ...], dict[str, object]] | None = None
    imports: str = ""
    notes: tuple[str, ...] = field(default=())


def render_file(program: Program, model: nn.Module, origin: Origin) -> str:
    """The whole optimised file. `model` gives forward's signature and the modules whose mode matters."""
    reference, future = _reference(origin)
    reserved = _bound_names(reference) | {"Model", "ModelNew", "KERNELS", "PRODUCTS", "LIBRARY", "SPECS"}
    runtime, public = carry(reserved)
    sections = [
        _header(program, origin),
        *future,
        "import torch",
        "",
        _section("The reference, as it was: ModelNew is a Model, with the same parameters and state_dict."),
        reference,
        _section(
            "The kernels. T is the dtype of the tensors, C what is computed in; the same text compiles for CPU and CUDA."
        ),
        _kernels(program),
        _section("The model on its kernels."),
        _model_new(program, model, public),
        _section("The device library: the part of it that these kernels use."),
        _libraries(program),
        _section("Planning, building and launching."),
        runtime,
        _section("What the kernels read and write, and what forward was captured for."),
        _wiring(program, model, origin, public),
    ]
    return "\n".join(sections).rstrip() + "\n"


def _section(title: str) -> str:
    return f"\n{RULE}\n# {title}\n{RULE}\n"


def _reference(origin: Origin) -> tuple[str, list[str]]:
    """The reference's text, with `from __future__` imports taken out: they must open a file."""
    text = origin.reference if origin.reference is not None else origin.imports
    lines = text.rstrip().splitlines()
    future = []
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            future.append(ast.unparse(statement))
            for number in range(statement.lineno - 1, statement.end_lineno or statement.lineno):
                lines[number] = ""
    return "\n".join(lines).strip("\n"), future


def _bound_names(text: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)} | {
        node.name for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


def _header(program: Program, origin: Origin) -> str:
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in program.working) or "those of the captured inputs"
    called = [f"  {k.name}: {_family(k)}" for k in program.kernels]
    if program.forward.plain_products:
        called.append("  linear: matrix product")
    lines = [
        f'"""{origin.name} on kernels of its own. Written by modelnew {origin.version}; yours to keep and to change.',
        "",
        f"Written by:  {origin.command}",
        "Needs PyTorch 2.0 or later and Python 3.9 or later; the kernels are built when they are first called, on the CPU with a",
        "C++ compiler, on a GPU with nvcc, and kept in a cache that goes by their content: change a kernel here, and the next",
        "call builds the changed one.",
        "",
        "Kernels:",
        *(called or ["  none: nothing in this model gains from one"]),
        "",
        f"T may be {dtypes}.",
        "fp16, bf16 and fp32 compute in fp32, fp64 in fp64; results round to nearest even; functions are within 2 ulp (fp32);",
        "reductions have a fixed order, so the same input gives the same bits.",
        *((EVERYWHERE if program.unmeasured else PRODUCT_NUMERICS) if program.products else ()),
        "Whatever the kernels do not cover runs the original forward: other dtypes, ranks or modes, autograd that is recording,",
        "autocast, tracing, and a Model that is constructed with other arguments.",
        *origin.notes,
        '"""',
        "",
    ]
    return "\n".join(lines)


def _family(kernel: Kernel) -> str:
    return kernel.family if kernel.product is None else f"{kernel.family} after a product, or with it"


def _kernels(program: Program) -> str:
    body = "\n".join(render_kernel(kernel) for kernel in program.kernels).rstrip()
    prologue = "using T = MN_T;  // set by the build\nusing C = mn::compute_t<T>;\n"
    text = f'KERNELS = r"""\n{prologue}\n{body}\n"""\n'
    if program.products:
        taking = [render_product(kernel) for kernel in program.kernels if kernel.product is not None]
        alone = [plain_products(program.forward.scales)] if program.forward.plain_products else []
        products = "\n".join([*taking, *alone]).rstrip()
        text += (
            "\n# Matrix products with what follows them, for the devices that have launches of them.\n"
            f'PRODUCTS = r"""\n{prologue}\n{products}\n"""\n'
        )
    return text


def _libraries(program: Program) -> str:
    texts = [
        f'LIBRARY["{part}"] = r"""\n{text}"""\n'
        for part, text in libraries(program.kernels, products=program.product_kernels).items()
    ]
    return "\n".join(["LIBRARY = {}", "", *texts])


def _model_new(program: Program, model: nn.Module, public: dict[str, str]) -> str:
    signature, call = _signature(model, len(program.captured.args_spec.children()))
    body = program.forward.lines()
    constants = [f"{name} = {literal}" for name, literal in program.forward.constants.items()]
    lines = [
        *constants,
        *([""] if constants else []),
        "class ModelNew(Model):",
        "    covered = True  # whether this instance is as the one that was captured",
        "",
    ]
    if program.launches:
        lines += [
            "    def __init__(self, *args, **kwargs):",
            "        super().__init__(*args, **kwargs)",
            "        self.covered = self.guard.made(args, kwargs)",
            "",
            f"    def forward(self, {signature}):" if signature else "    def forward(self):",
            f"        if not self.guard.covers(self{', ' + call if call else ''}):",
            f"            return super().forward({call})",
            "        try:",
            *(f"            {line}" for line in body),
            f"        except {public['Uncovered']}:",
            f"            return super().forward({call})",
        ]
    else:
        lines += ["    pass"]
    return "\n".join(lines) + "\n"


def _signature(model: nn.Module, given: int) -> tuple[str, str]:
    """forward's parameters as it declares them, and the same as arguments of a call."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    simple = all(p.kind is p.POSITIONAL_OR_KEYWORD and _literal(p.default) for p in parameters)
    if not simple:
        names = argument_names(model, given)
        starred = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        plain = [name for name in names if name.isidentifier()]
        tail = [f"*{starred}"] if starred else []
        return ", ".join([*plain, *tail]), ", ".join([*plain, *tail])
    declared = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    return ", ".join(declared), ", ".join(p.name for p in parameters)


def _literal(value: object) -> bool:
    return value is inspect.Parameter.empty or value is None or isinstance(value, (bool, int, float, str))


def _wiring(program: Program, model: nn.Module, origin: Origin, public: dict[str, str]) -> str:
    if not program.launches:
        return ""
    dtypes = ", ".join(map(str, program.working))
    dtypes = f"({dtypes},)" if dtypes else "()"
    specs = []
    for kernel in program.kernels:
        inputs = ", ".join(f'("{o.storage}", {o.axes!r})' for o in kernel.inputs)
        outputs = ", ".join(f'("{o.storage}", {o.axes!r})' for o in kernel.outputs)
        more = [f"rank={kernel.rank}"]
        if kernel.reduced:
            passes = schedule(kernel)
            more += [f"reduced={tuple(sorted(kernel.reduced))!r}", f"passes={passes.passes}", f"kept={passes.kept}"]
        if kernel.any_rank:
            more.append("any_rank=True")
        if kernel.product is not None:
            more.append(f"product={kernel.product}")
        orders = tuple(layout_of(result, kernel) for result in kernel.results)
        if any(order != tuple(range(len(kernel.inputs))) for order in orders):
            more.append(f"layouts={orders!r}")
        specs += [
            f'    "{kernel.name}": dict(',
            f"        inputs=[{inputs}],",
            f"        outputs=[{outputs}],",
            f"        {', '.join(more)},",
            "    ),",
        ]
    products = [
        f'        "{kind}": LIBRARY["common"] + LIBRARY["cuda"] + LIBRARY["product"] + LIBRARY["{kind}"] + PRODUCTS,'
        for kind in program.product_kernels
    ]
    name = "".join(c if c.isalnum() else "_" for c in origin.name.removesuffix(".py")) or "model"
    return "\n".join(
        [
            "# Each operand: its type in C++, and for each of its dims the axis of the kernel's domain that it runs along.",
            "SPECS = {",
            *specs,
            "}",
            "",
            f"ModelNew.kernels = {public['Kernels']}(",
            f'    "{name}",',
            "    {",
            '        "cpu": LIBRARY["common"] + LIBRARY["cpu"] + KERNELS,',
            '        "cuda": LIBRARY["common"] + LIBRARY["cuda"] + KERNELS,',
            *products,
            "    },",
            f"    {dtypes},",
            "    SPECS,",
            ")",
            *_guard(program, model, origin, public),
            *_straight(program, model, public),
        ]
    )


def _guard(program: Program, model: nn.Module, origin: Origin, public: dict[str, str]) -> list[str]:
    given = len(program.captured.args_spec.children())
    arguments = [_argument(spec, leaves, program, public) for spec, leaves in _by_argument(program)]
    parameters = list(inspect.signature(model.forward).parameters.values())
    if all(p.kind is p.POSITIONAL_OR_KEYWORD and _literal(p.default) for p in parameters):
        arguments += [repr(p.default) for p in parameters[given:]]
    smallest = {_size_name(program, symbol): least for symbol, least in program.smallest.items()}
    return [
        "",
        f"ModelNew.guard = {public['Guard']}(",
        f"    arguments=({''.join(text + ', ' for text in arguments).rstrip(' ')}),",
        f"    working=({''.join(f'{dtype}, ' for dtype in program.working).rstrip(' ')}),",
        f"    smallest={smallest!r},",
        *_conditions(program),
        f"    laid_out={program.laid_out!r},",
        f"    without_grad={program.without_grad!r},",
        f"    writes={any(not path.startswith('self') for path, _ in program.captured.mutations)!r},",
        f"    training={modes_that_matter(model)!r},",
        f"    hooks={_hooks(model)!r},",
        f"    made_for={origin.made_for!r},",
        ")",
    ]


def _straight(program: Program, model: nn.Module, public: dict[str, str]) -> list[str]:
    """Where forward is one kernel of its arguments, as they come: calls need not go through it."""
    if len(program.kernels) != 1:
        return []
    name = program.kernels[0].name
    _, arguments = _signature(model, len(program.captured.args_spec.children()))
    body = [line for line in program.forward.lines() if not line.startswith("#")]
    made = body[0].partition(" = ")[0]
    if body != [f"{made} = self.kernels.{name}({arguments})", f"return {made}"]:
        return []
    return ["", f'{public["answer_straight"]}(ModelNew, "{name}")']


def _conditions(program: Program) -> list[str]:
    """What must be true of the open sizes for forward to take the captured way."""
    names = {
        symbol: sympy.Symbol(f'size["{_size_name(program, symbol)}"]', integer=True)
        for symbol in program.captured.sizes
    }
    texts = [
        PythonPrinter().doprint(one.xreplace({symbol: names[str(symbol)] for symbol in one.free_symbols}))
        for one in program.captured.conditions
    ]
    if not texts:
        return []
    return ["    conditions=(", *(f"        lambda size: {text}," for text in texts), "    ),"]


def _by_argument(program: Program) -> list[tuple[pytree.TreeSpec, list[Leaf]]]:
    leaves = list(program.captured.leaves)
    found = []
    for spec in program.captured.args_spec.children():
        found.append((spec, leaves[: spec.num_leaves]))
        leaves = leaves[spec.num_leaves :]
    return found


def _argument(spec: pytree.TreeSpec, leaves: list[Leaf], program: Program, public: dict[str, str]) -> str:
    """One argument as the guard compares it: tensors as dtype and sizes, everything else as itself."""
    texts = iter([_leaf(leaf, program, public) for leaf in leaves])

    def text(part: pytree.TreeSpec) -> str:
        if part.is_leaf():
            return next(texts)
        if part.type is dict:
            return (
                "{"
                + ", ".join(f"{key!r}: {text(child)}" for key, child in zip(part.context, part.children(), strict=True))
                + "}"
            )
        inner = ", ".join(text(child) for child in part.children())
        return f"[{inner}]" if part.type is list else f"({inner}{',' if part.num_children == 1 else ''})"

    return text(spec)


def _leaf(leaf: Leaf, program: Program, public: dict[str, str]) -> str:
    if leaf.node is None:
        return repr(leaf.value)
    value = leaf.node.meta["val"]
    dtype = '"T"' if value.dtype == program.captured.working else str(value.dtype)
    if program.any_rank:
        return f"{public['Tensor']}({dtype}, None)"
    sizes = []
    for size in value.shape:
        if is_open(size):
            sizes.append(repr(_size_name(program, str(size.node.expr))))
        else:
            sizes.append(str(int(size)))
    return f"{public['Tensor']}({dtype}, ({''.join(size + ', ' for size in sizes).rstrip(' ')}))"


def _size_name(program: Program, symbol: str) -> str:
    found = program.captured.sizes.get(symbol)
    if found is None:
        return symbol
    node, dim = found
    leaf = next(leaf for leaf in program.captured.leaves if leaf.node is node)
    return f"{leaf.path}.shape[{dim}]"


def modes_that_matter(model: nn.Module) -> dict[str, bool]:
    """Module path → mode, for modules whose class looks at `self.training` somewhere."""
    found: dict[str, bool] = {}
    for path, module in model.named_modules():
        if _looks_at_mode(type(module)):
            found[path] = module.training
    return found


def _hooks(model: nn.Module) -> dict[str, int]:
    counts = {path: len(m._forward_hooks) + len(m._forward_pre_hooks) for path, m in model.named_modules() if path}
    return {path: count for path, count in counts.items() if count}


def _looks_at_mode(cls: type[Any]) -> bool:
    for base in cls.__mro__:
        if base in (nn.Module, object):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):
            return True
        if "training" in source:
            return True
    return False
