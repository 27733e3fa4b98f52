"""Kernel → C++: the functor that is its body, and the function that launches it."""

from __future__ import annotations

from collections.abc import Collection

from modelnew.kernel.ir import COSTLY, FLOAT_TYPES, FORMED, Expr, Kernel, walk
from modelnew.kernel.schedule import Exponentials, Moments, Schedule, made_for, schedule
from modelnew.render.expression import Writer, bare
from modelnew.render.names import names_of

# Of the costly functions those that a kernel computes while it waits for memory anyway; two of them, or any other, and
# CUDA's threads take more at a time.
LIGHT = frozenset({"sigmoid", "silu", "tanh", "exp", "exp2", "sqrt", "rsqrt", "div"})


def symbol(kernel: Kernel) -> str:
    """The exported name; a prefix keeps `exp` and `tanh` apart from the C library's."""
    return f"launch_{kernel.name}"


def render_kernel(kernel: Kernel) -> str:
    body = _row_body(kernel) if kernel.reduced else _pointwise_body(kernel)
    comments = [f"// {source}" for source in kernel.sources]
    return "\n".join([*comments, *body, "", *_launcher(kernel), ""])


def _loads(kernel: Kernel) -> list[Expr]:
    """For each input the expression that reads it."""
    found = {int(expr.detail): expr for expr in walk(kernel.results) if expr.kind == "load"}
    return [found[number] for number in range(len(kernel.inputs)) if number in found]


def _values(texts: list[str]) -> str:
    return f"mn::values({', '.join(texts)})"


def _pointwise_body(kernel: Kernel) -> list[str]:
    inputs, _, unique = names_of(kernel)
    loads = _loads(kernel)
    names = {id(load): inputs[int(load.detail)] for load in loads}
    form = unique("form") if _has_forms(kernel.results) else ""
    writer = Writer(names, unique, form=form)
    texts = writer.write(kernel.results)
    types = {int(load.detail): load.ctype for load in loads}
    parameters = ", ".join(
        [*([f"Form& {form}"] if form else []), *(f"{types[number]} {name}" for number, name in enumerate(inputs))]
    )
    statements = [
        *writer.lines,
        f"return {_values([bare(text) for text in texts])};",
    ]
    return [
        f"struct {kernel.name}_body {{",
        *(["  static constexpr bool heavy = true;"] if _is_heavy(kernel) else []),
        *(["  template <class Form>"] if form else []),
        f"  MN_FN auto operator()({parameters}) const {{",
        *(f"    {line}" for line in statements),
        "  }",
        "};",
    ]


def _has_forms(roots: tuple[Expr, ...], hidden: Collection[int] = ()) -> bool:
    """Whether a function that is called to make `roots` has a cheaper form. hidden: ids of what is made already."""
    return any(expr.kind == "call" and expr.detail in FORMED for expr in made_for(roots, hidden))


def _is_heavy(kernel: Kernel) -> bool:
    costly = [expr.detail for expr in walk(kernel.results) if expr.kind == "call" and expr.detail in COSTLY]
    return len(costly) > 1 or any(function not in LIGHT for function in costly)


def _row_body(kernel: Kernel) -> list[str]:
    lines = RowWriter(kernel, schedule(kernel)).lines()
    return [
        f"struct {kernel.name}_body {{",
        "  template <class Row> MN_FN void operator()(Row& row) const {",
        *(f"    {line}" for line in lines),
        "  }",
        "};",
    ]


class RowWriter:
    """Writes a row program stage by stage. `handles` are values per element that the row holds, by name and type."""

    def __init__(self, kernel: Kernel, plan: Schedule) -> None:
        self.kernel, self.plan = kernel, plan
        self.inputs, self.outputs, self.unique = names_of(kernel)
        self.named: dict[int, str] = {}
        self.handles: dict[int, tuple[str, str]] = {}
        self.divisors: dict[int, str] = {}
        self.text: list[str] = []

    def lines(self) -> list[str]:
        for load in _loads(self.kernel):
            number = int(load.detail)
            name = self.inputs[number]
            varies = id(load) in self.plan.elements
            if varies and self._is_shared(number):
                self.text.append(f"auto {name} = mn::share<{number}>(row);")
            else:
                self.text.append(f"auto {name} = row.template {'load' if varies else 'scalar'}<{number}>();")
            self._bind(load, name, handle=varies)
        exponentials, moments = self.plan.exponentials, self.plan.moments
        for stage, sweep in enumerate(self.plan.sweeps):
            self._scalars(self.plan.scalars[stage])
            if stage - 1 in exponentials:  # what this stage keeps and reduces has been made
                continue
            for kept in self.plan.keeps[stage]:
                name = self.unique(str(kept.detail))
                call = "mn::replace(row, " if self.plan.replaces(kept, stage) else "row.keep("
                self.text.append(f"auto {name} = {call}{self._functor((kept,))});")
                self._bind(kept, name, handle=True)
            if stage in exponentials:
                self._exponentials(exponentials[stage], stage)
            elif stage in moments:
                self._moments(moments[stage], stage)
            elif sweep.reductions and stage - 1 not in moments:
                self._reduce(sweep.reductions)
        self._finish()
        return self.text

    def _is_shared(self, number: int) -> bool:
        """All rows read the same of this input, and there may be several."""
        axes = {axis for axis in self.kernel.inputs[number].axes if axis is not None}
        return axes <= self.kernel.reduced and self.kernel.rank > len(self.kernel.reduced)

    def _bind(self, expr: Expr, name: str, *, handle: bool) -> None:
        self.named[id(expr)] = name
        if handle:
            self.handles[id(expr)] = (name, expr.ctype)

    def _scalars(self, scalars: tuple[Expr, ...]) -> None:
        """One value per row each: all named, for the functors to capture."""
        for expr in scalars:
            if id(expr) not in self.named:
                writer = Writer(self.named, self.unique)
                (value,) = writer.write((expr,))
                if value not in self.named.values():
                    name = self.unique(str(expr.detail) if expr.kind == "call" else expr.kind)
                    self.text += [*writer.lines, f"const auto {name} = {value};"]
                    value = name
                self.named[id(expr)] = value

    def _functor(self, roots: tuple[Expr, ...], form: str = "") -> str:
        """`[=](C x) { return …; }, x`: the lambda and the handles it takes. `form`: see `Writer`."""
        used: dict[int, tuple[str, str]] = {}
        stack: list[Expr] = list(roots)
        seen: set[int] = set()
        while stack:
            expr = stack.pop()
            if id(expr) in seen:
                continue
            seen.add(id(expr))
            if expr.kind == "index" and id(expr) not in self.handles:
                self._bind(expr, self.unique("position"), handle=True)
                self.text.append(f"auto {self.named[id(expr)]} = row.index();")
            if id(expr) in self.handles:
                used[id(expr)] = self.handles[id(expr)]
            elif id(expr) not in self.named:
                stack.extend(expr.args)
                self._divisor(expr)
        ordered = [pair for key, pair in self.handles.items() if key in used]
        writer = Writer(self.named, self.unique, divisors=self.divisors, form=form)
        texts = writer.write(roots)
        result = texts[0] if len(texts) == 1 else _values(texts)
        result = bare(result)
        parameters = ", ".join([*([f"auto& {form}"] if form else []), *(f"{ctype} {name}" for name, ctype in ordered)])
        names = "".join(f", {name}" for name, _ in ordered)
        if not writer.lines:
            return f"[=]({parameters}) {{ return {result}; }}{names}"
        inside = "".join(f"\n      {line}" for line in writer.lines)
        return f"[=]({parameters}) {{{inside}\n      return {result};\n    }}{names}"

    def _exponentials(self, found: Exponentials, stage: int) -> None:
        """One call for two sweeps; of what it gives, that gets a name which something else reads."""
        name = self.unique("soft")
        exp = f"[]({found.exp.ctype} x) {{ return mn::exp_below{'<T>' if found.exp.ctype == 'C' else ''}(x); }}"
        call = f"mn::exponential{'s' if found.kept else '_sum'}<{found.top.ctype}>"
        self.text.append(f"auto {name} = {call}(row, {exp}, {self._functor((found.value,))});")
        guarded = found.shift is not found.top
        members = {
            "max": found.top,
            "shift": found.shift if guarded else None,
            "exp": found.exp if found.kept else None,
        }
        made = {id(found.exp), id(found.total)}
        hidden = made | {id(found.shift)} if guarded else made
        for member, expr in {**members, ("shifted_sum" if guarded else "sum"): found.total}.items():
            around = hidden if expr is found.top else made
            if expr is None or (member in ("max", "shift") and not self.plan.reads_later(expr, stage + 1, around)):
                continue
            own = self.unique(member)
            self.text.append(f"{'auto' if expr is found.exp else 'const auto'} {own} = {name}.{member};")
            self._bind(expr, own, handle=expr is found.exp)

    def _moments(self, found: Moments, stage: int) -> None:
        """One call for two sweeps; its mean gets a name only where something else reads it."""
        name = self.unique("moments")
        functor = self._functor((found.value,))
        self.text.append(f"const auto {name} = row.template moments<{found.value.ctype}>({functor});")
        self._bind(found.mean, f"{name}.mean", handle=False)
        for expr, member in ((found.mean, "mean"), (found.squares, "squares")):
            if expr is found.squares or self.plan.reads_later(expr, stage + 2, {id(found.squares)}):
                own = self.unique(member)
                self.text.append(f"const auto {own} = {name}.{member};")
                self._bind(expr, own, handle=False)

    def _divisor(self, expr: Expr) -> None:
        """What all elements of a row are divided by is made ready for that once."""
        if expr.kind != "call" or expr.detail != "div" or expr.ctype not in FLOAT_TYPES:
            return
        by = expr.args[1]
        if id(by) in self.named and id(by) not in self.handles and id(by) not in self.divisors:
            name = self.unique(f"by_{self.named[id(by)]}")
            self.text.append(f"const auto {name} = mn::divisor({self.named[id(by)]});")
            self.divisors[id(by)] = name

    def _reduce(self, reductions: tuple[Expr, ...]) -> None:
        operations = [
            f"mn::{r.detail}<{r.ctype}>{{}}" if r.detail not in ("any", "all") else f"mn::{r.detail}{{}}"
            for r in reductions
        ]
        functor = self._functor(tuple(r.args[0] for r in reductions))
        if len(reductions) == 1:
            name = self.unique(str(reductions[0].detail))
            self.text.append(f"const auto {name} = row.reduce({operations[0]}, {functor});")
            self._bind(reductions[0], name, handle=False)
            return
        both = self.unique("reduced")
        self.text.append(f"const auto {both} = row.reduce(mn::together({', '.join(operations)}), {functor});")
        for number, reduction in enumerate(reductions):
            name = self.unique(str(reduction.detail))
            self.text.append(f"const auto {name} = mn::get<{number}>({both});")
            self._bind(reduction, name, handle=False)

    def _finish(self) -> None:
        if self.plan.stores:
            numbers = ", ".join(map(str, self.plan.stores))
            stored = tuple(self.kernel.results[i] for i in self.plan.stores)
            form = self.unique("form") if _has_forms(stored, self.named) else ""
            call = f"mn::store<{numbers}>(row, " if form else f"row.template store<{numbers}>("
            self.text.append(f"{call}{self._functor(stored, form)});")
        for number in self.plan.puts:
            writer = Writer(self.named, self.unique)
            (value,) = writer.write((self.kernel.results[number],))
            self.text += [*writer.lines, f"row.template put<{number}>({value});"]


def _launcher(kernel: Kernel) -> list[str]:
    inputs, outputs, _ = names_of(kernel)
    pointers = ", ".join([*(f"void* {name}" for name in outputs), *(f"const void* {name}" for name in inputs)])
    stored = f"mn::types<{', '.join(o.storage for o in kernel.outputs)}>"
    loaded = f"mn::types<{', '.join(o.storage for o in kernel.inputs)}>"
    entry = "rows" if kernel.reduced else "pointwise"
    along = dict.fromkeys(o.storage for o in kernel.inputs if o.varies_along(kernel.reduced))
    if along and any(o.storage not in along for o in kernel.inputs) and kernel.reduced:
        loaded += f", mn::types<{', '.join(along)}>"  # what vectors are made of: values per row have no say in it
    return [
        f"MN_EXPORT int {symbol(kernel)}({pointers}, const int64_t* plan, mn::queue queue) {{",
        f"  return mn::{entry}<{kernel.name}_body, {stored}, {loaded}>(",
        f"      {{{', '.join(outputs)}}}, {{{', '.join(inputs)}}}, plan, queue);",
        "}",
        f"MN_EXPORT void* call_{kernel.name}(void* self, void* const* given, int64_t) {{",
        f"  return mn::call<mn::queue>({symbol(kernel)}, self, given);",
        "}",
    ]
