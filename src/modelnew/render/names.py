"""C++ names of a kernel's operands."""

from __future__ import annotations

from collections.abc import Callable

from modelnew.kernel.ir import Kernel

KEYWORDS = frozenset(
    "alignas auto bool break case catch char class const constexpr continue default delete do double else enum explicit export"
    " extern false float for friend goto if inline int long mutable namespace new operator private protected public register"
    " return short signed sizeof static struct switch template this throw true try typedef typeid typename union unsigned using"
    " virtual void volatile while and or not xor bitand bitor compl and_eq or_eq xor_eq not_eq T C"
    " mn row plan queue std half hints count".split()
)


def names_of(kernel: Kernel) -> tuple[list[str], list[str], Callable[[str], str]]:
    """C++ names for inputs and outputs, and a source of further ones."""
    taken: set[str] = set(KEYWORDS)

    def unique(wish: str) -> str:
        name, number = wish, 1
        while name in taken:
            number += 1
            name = f"{wish}{number}"
        taken.add(name)
        return name

    inputs = [unique(operand.name) for operand in kernel.inputs]
    outputs = [unique(operand.name + "_out" if operand.name in inputs else operand.name) for operand in kernel.outputs]
    return inputs, outputs, unique
