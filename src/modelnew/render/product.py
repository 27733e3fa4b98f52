"""A kernel that takes in a product → C++: what becomes of each of the product's elements, and the function that launches it."""

from __future__ import annotations

from collections.abc import Iterable

from modelnew.kernel.ir import Expr, Kernel, walk
from modelnew.kernel.product import Contraction, contraction
from modelnew.render.expression import Writer, bare
from modelnew.render.names import names_of
from modelnew.runtime.product import scale_name

_PLAIN = """\
// linear(x, weight), without and with a bias
struct linear_term {
  MN_FN auto operator()(C product) const { return mn::values(product); }
};
struct linear_with_bias_term {
  MN_FN auto operator()(C product, C bias) const { return mn::values(product + bias); }
};

MN_EXPORT int launch_linear_product(void* y, const void* x, const void* weight, void* hints, const int64_t* plan,
                                    mn::queue queue) {
  return mn::product<linear_term, mn::types<T>, mn::types<T, T>>({y}, {x, weight}, hints, plan, queue);
}

MN_EXPORT int launch_linear_with_bias_product(void* y, const void* x, const void* weight, const void* bias, void* hints,
                                              const int64_t* plan, mn::queue queue) {
  return mn::product<linear_with_bias_term, mn::types<T>, mn::types<T, T, T>>({y}, {x, weight, bias}, hints, plan, queue);
}
"""
_SCALED = """
// beta * bias + alpha * product: {beta!r} and {alpha!r}
struct {name}_term {{
  MN_FN auto operator()(C product, C bias) const {{ return mn::values({sum}); }}
}};

MN_EXPORT int launch_{name}_product(void* y, const void* x, const void* weight, const void* bias, void* hints,
                                    const int64_t* plan, mn::queue queue) {{
  return mn::product<{name}_term, mn::types<T>, mn::types<T, T, T>>({{y}}, {{x, weight, bias}}, hints, plan, queue);
}}
"""


def plain_products(scales: Iterable[tuple[float, float]]) -> str:
    """Launches of products that no kernel takes in. `scales`: what addmm multiplies by, beta and alpha, besides 1 and 1."""
    texts = [_PLAIN]
    for beta, alpha in scales:
        bias, product = (
            name if number == 1 else f"C({number!r}) * {name}" for number, name in ((beta, "bias"), (alpha, "product"))
        )
        name = "linear_with_bias" + scale_name(beta, alpha)
        texts.append(_SCALED.format(name=name, beta=beta, alpha=alpha, sum=f"{bias} + {product}"))
    return "".join(texts)


def render_product(kernel: Kernel) -> str:
    """The functors and the launcher of family 3, which CUDA alone has."""
    found = contraction(kernel)
    used = [number for number in range(len(kernel.inputs)) if number != kernel.product]
    lines = [*(f"// {source}" for source in kernel.sources), *_term(kernel, found, used)]
    if found.finish is not None:
        lines += ["", *_finish(kernel, found, found.finish)]
    return "\n".join([*lines, "", *_launcher(kernel, found, used), ""])


def _term(kernel: Kernel, found: Contraction, used: list[int]) -> list[str]:
    assert kernel.product is not None
    inputs, _, unique = names_of(kernel)
    loads = {int(e.detail): e for e in walk((found.term,)) if e.kind == "load"}
    writer = Writer({id(load): inputs[number] for number, load in loads.items()}, unique)
    (text,) = writer.write((found.term,))
    result = f"mn::values({bare(text)})"
    if found.reductions:
        result = bare(text) if len(found.reductions) == 1 else f"{_reduction(found)}::of({bare(text)})"
    order = [kernel.product, *used]
    parameters = ", ".join(f"{loads[n].ctype} {inputs[n]}" if n in loads else "C" for n in order)
    return _functor(f"{kernel.name}_term", parameters, writer.lines, result)


def _finish(kernel: Kernel, found: Contraction, finish: Expr) -> list[str]:
    _, _, unique = names_of(kernel)
    first = found.reductions[0]
    if len(found.reductions) == 1:
        name = unique(str(first.detail))
        named, parameter = {id(first): name}, f"{first.ctype} {name}"
    else:
        name = unique("exponentials")
        total = f"{_reduction(found)}::below_top({name})" if found.shifts_infinities else f"{name}.total"
        named, parameter = (
            {id(first): f"{name}.top", id(found.reductions[1]): total},
            f"mn::topped<{first.ctype}> {name}",
        )
    writer = Writer(named, unique, size="count")
    (text,) = writer.write((finish,))
    return _functor(f"{kernel.name}_finish", f"{parameter}, int64_t count", writer.lines, f"mn::values({bare(text)})")


def _reduction(found: Contraction) -> str:
    first = found.reductions[0]
    return f"mn::{first.detail if len(found.reductions) == 1 else 'topped_exponentials'}<{first.ctype}>"


def _functor(name: str, parameters: str, statements: list[str], result: str) -> list[str]:
    return [
        f"struct {name} {{",
        f"  MN_FN auto operator()({parameters}) const {{",
        *(f"    {line}" for line in [*statements, f"return {result};"]),
        "  }",
        "};",
    ]


def _launcher(kernel: Kernel, found: Contraction, used: list[int]) -> list[str]:
    inputs, outputs, unique = names_of(kernel)
    read = [unique("x"), unique("weight"), *(inputs[number] for number in used)]
    pointers = [f"void* {outputs[0]}", *(f"const void* {name}" for name in read)]
    stored = f"mn::types<{kernel.outputs[0].storage}>"
    loaded = f"mn::types<{', '.join(['T', 'T', *(kernel.inputs[number].storage for number in used)])}>"
    functors = f"{kernel.name}_term"
    if found.reductions:
        functors += f", {_reduction(found)}, {kernel.name}_finish"
    entry = "product_rows" if found.reductions else "product"
    return [
        f"MN_EXPORT int launch_{kernel.name}_product({', '.join(pointers)}, void* hints, const int64_t* plan, mn::queue queue) {{",
        f"  return mn::{entry}<{functors}, {stored}, {loaded}>(",
        f"      {{{outputs[0]}}}, {{{', '.join(read)}}}, hints, plan, queue);",
        "}",
    ]
