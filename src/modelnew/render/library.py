"""The pieces of the device library that a file's kernels use, as one text per target."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files

from modelnew.kernel.ir import INFIX, Kernel, walk
from modelnew.kernel.product import contraction

LOCAL = re.compile(r'^#include "([^"]+)"\s*$')
SYSTEM = re.compile(r"^#include <([^>]+)>\s*$")
ENTRY = {
    ("cpu", "pointwise"): "cpu/pointwise.h",
    ("cpu", "row program"): "cpu/rows.h",
    ("cuda", "pointwise"): "cuda/pointwise.cuh",
    ("cuda", "row program"): "cuda/rows.cuh",
}
PRODUCTS = {kind: f"cuda/{kind}.cuh" for kind in ("product_few", "product_hopper", "product_ampere")}
EXPONENTIALS = "common/topped_exponentials.h"  # of a product's rows
TARGETS = ("cpu", "cuda")


def libraries(kernels: Iterable[Kernel], *, products: Sequence[str]) -> dict[str, str]:
    """ "common" → what both targets share, and per target its own part; a target's text is common + its own.

    products: of PRODUCTS, the kernels that CUDA's products have; "product" → what these need besides, and for each its own.
    """
    kernels = list(kernels)
    found = {target: _headers(target, kernels) for target in TARGETS}
    common = {
        name: text for headers, _ in found.values() for name, text in headers.items() if name.startswith("common/")
    }
    system = sorted(set.intersection(*(included for _, included in found.values())))
    texts = {"common": _text(system, common.items())}
    for target, (headers, included) in found.items():
        own = [(name, text) for name, text in headers.items() if name not in common]
        texts[target] = _text(sorted(included - set(system)), own)
    if products:
        taking = [contraction(kernel) for kernel in kernels if kernel.product is not None]
        more = [EXPONENTIALS] if any(len(one.reductions) > 1 for one in taking) else []
        texts |= _products(products, more, *found["cuda"])
    return texts


def _products(kinds: Sequence[str], more: list[str], cuda: dict[str, str], cuda_system: set[str]) -> dict[str, str]:
    """`more`: headers that all of them need besides their own."""
    found = {kind: (dict(cuda), set(cuda_system)) for kind in PRODUCTS}
    for kind, (headers, included) in found.items():
        for header in (*more, PRODUCTS[kind]):
            _expand(header, headers, included, set())
    system = set.intersection(*(included for _, included in found.values()))
    shared = {n: t for n, t in found[kinds[0]][0].items() if all(n in headers for headers, _ in found.values())}
    texts = {"product": _text(sorted(system - cuda_system), [(n, t) for n, t in shared.items() if n not in cuda])}
    for kind in kinds:
        headers, included = found[kind]
        texts[kind] = _text(sorted(included - system), [(n, t) for n, t in headers.items() if n not in shared])
    return texts


def _text(system: list[str], headers: Iterable[tuple[str, str]]) -> str:
    includes = [f"#include <{name}>" for name in system]
    return "\n".join([*includes, *([""] if includes else []), *(f"// ---- {name}\n{text}\n" for name, text in headers)])


def _headers(target: str, kernels: list[Kernel]) -> tuple[dict[str, str], set[str]]:
    """Headers in the order of their includes, each once, and the standard headers that they ask for."""
    roots = ["common/core.h"]
    roots += sorted({header for function in _functions(kernels) if (header := providers().get(function))})
    roots += [
        ENTRY[target, family] for family in ("pointwise", "row program") if any(k.family == family for k in kernels)
    ]
    system: set[str] = set()
    pieces: dict[str, str] = {}
    for root in roots:
        _expand(root, pieces, system, set())
    return pieces, system


def _functions(kernels: Iterable[Kernel]) -> set[str]:
    calls = (expr.detail for kernel in kernels for expr in walk(kernel.results) if expr.kind == "call")
    return {str(function) for function in calls if function not in INFIX}


def _expand(header: str, pieces: dict[str, str], system: set[str], open_headers: set[str]) -> None:
    """Enter `header`, without its includes, after everything that it includes."""
    if header in pieces or header in open_headers:
        return
    open_headers.add(header)
    body: list[str] = []
    depth = 0  # inside #if: a conditional include stays where it is
    for line in read(header).splitlines():
        depth += line.startswith("#if") - line.startswith("#endif")
        local, standard = LOCAL.match(line), SYSTEM.match(line)
        if local and depth == 0:
            _expand(local.group(1), pieces, system, open_headers)
        elif standard and depth == 0:
            system.add(standard.group(1))
        elif line.strip() != "#pragma once" and not line.startswith("// provides:"):
            body.append(line)
    pieces[header] = re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip()


@cache
def read(header: str) -> str:
    return files("modelnew").joinpath("device", *header.split("/")).read_text(encoding="utf-8")


@cache
def providers() -> dict[str, str]:
    """Function → header, from the first line of each header under common/math."""
    found: dict[str, str] = {}
    for entry in sorted(files("modelnew").joinpath("device", "common", "math").iterdir(), key=lambda e: e.name):
        first = entry.read_text(encoding="utf-8").split("\n", 1)[0]
        if first.startswith("// provides:"):
            for function in first.removeprefix("// provides:").split(","):
                found[function.strip()] = f"common/math/{entry.name}"
    return found
