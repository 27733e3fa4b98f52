"""The inputs a candidate is tried on, and what each of them is there to catch."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from collections.abc import Generator as Yields
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import torch

from modelnew.check.generators import GENERATORS, Generator
from modelnew.check.layouts import LAYOUTS, expanded, laid_out, with_ignored, with_specials
from modelnew.check.observe import copy_tree, flat, same
from modelnew.check.resized import Group, Resizer
from modelnew.check.truth import Reference

SIZES = (1, 7, 31, 33)  # of a dim: one, prime, either side of a power of two
MORE_SIZES = (0, 2, 64, 257)  # of the first dim that is open
DRAWN_SIZES = (6, 10)  # further ones, up to 2 to this power, that nobody knows beforehand
MOST_INPUTS = 6  # that are changed one by one; the seed draws which
MOST_ALONE = 3  # that are laid out one by one
SPECIAL = "nan, infinities, -0 and subnormal numbers"


@dataclass(frozen=True)
class Case:
    """name, what it catches, the inputs (CPU tensors), the set of parameters to use ("shipped", "redrawn", "integers").

    may_refuse: the candidate may raise an error on them. training: the module's mode. same_values: the case whose
    values these are, in other memory.
    """

    name: str
    catches: str
    inputs: list[Any]
    state: str
    training: bool
    may_refuse: bool = False
    same_values: str = ""
    layout: bool = False  # the memory is unusual, so the output's may be too
    gradients: bool = False
    few_runs: bool = False  # its noise is measured by fewer runs
    far: bool = False  # does not apply where eager leaves the range of its dtype

    def named(self, name: str, catches: str) -> Case:
        """The same inputs for another purpose."""
        return replace(self, name=name, catches=catches)


class Source(Protocol):
    """Where the inputs come from. text: of the reference's source, where there is a file."""

    text: str

    def inputs(self, generator: Generator, seed: int) -> list[Any] | None:
        """CPU tensors; None where the generator changes nothing."""
        ...


class Cases:
    """The cases of a reference. `only`: names of cases; None for all."""

    def __init__(
        self,
        reference: Reference,
        source: Source,
        draw: random.Random,
        gradients: bool = False,
        only: Collection[str] | None = None,
    ) -> None:
        self.reference = reference
        self.source = source
        self.draw = draw
        self.gradients = gradients
        self.only = only
        self.training = reference.module.training
        self.base: list[Any] = []  # the inputs that the others are made from
        self._taken: set[str] = set()  # sizes that have a case

    @cached_property
    def resizer(self) -> Resizer:
        return Resizer(self.reference.module, self.base, self.draw.getrandbits(62))

    def all(self) -> Iterator[Case]:
        """Every case, the file's own inputs first."""
        found = yield from self._generated()
        if self._wanted("other parameters") and any(True for _ in self.reference.module.parameters()):
            catches = "answers kept from the same inputs, weights packed once"
            yield self._case("other parameters", catches, found["shipped"])
        self.base = found.get("normal", found["shipped"])
        same_values = "normal" if "normal" in found else ""
        if self._wanted("other mode"):
            matters = self.reference.mode_matters(self.base)
            catches = "what only holds in one mode"
            like = "" if matters else same_values
            yield self._case("other mode", catches, self.base, training=not self.training, same_values=like)
        resized = list(self._resized())
        yield from resized
        yield from self._laid_out(self.base, "", same_values)
        yield from self._laid_out_alone(same_values)
        for case in resized[1:3]:  # sizes and strides at once
            yield from self._laid_out(case.inputs, f"{case.name}, ", case.name, self.draw.choice(list(LAYOUTS)))
        catches = "strides of 0"
        for name, dim in (("expanded rows", 0), ("expanded columns", -1)):
            if self._wanted(name) and (spread := expanded(self.base, dim)) is not None:
                yield self._case(name, catches, spread, may_refuse=True, layout=True)
        if self._wanted("special values"):
            special, catches = with_specials(self.base, self.draw.getrandbits(62)), SPECIAL
            yield self._case("special values", catches, special)
            # on a GPU an index out of range ends the process
            labels = with_ignored(self.base, self.draw.getrandbits(62)) if self.reference.device.type == "cpu" else None
            if labels is not None and self.reference.takes(labels):
                yield self._case("ignored labels", "a label of -100 taken for an index", labels, may_refuse=True)
        if self.gradients:
            given = {"gradients": self.base} | {f"gradients, {case.name}": case.inputs for case in resized[1:2]}
            if (across := laid_out(self.base, LAYOUTS["transposed memory"])) is not None:
                given["gradients, transposed memory"] = across
            for name, inputs in given.items():
                may: dict[str, Any] = {
                    "gradients": True,
                    "may_refuse": name != "gradients",
                    "few_runs": name != "gradients",
                }
                yield self._case(name, "a missing or wrong backward", inputs, layout="memory" in name, **may)

    def at_boundaries(self, ranked: Sequence[AbstractSet[int]], most: int, draw: random.Random) -> Iterator[Case]:
        """Sizes around numbers at which code may change course, those of the first sets first; `most` sizes, which of
        them is drawn where there are more."""
        taken = set(self._taken)
        for numbers in ranked:
            places = [
                (label, group, size)
                for label, group in self.resizer.groups
                for number in sorted(numbers)
                for size in sorted(self._around(group, number))
            ]
            draw.shuffle(places)
            for label, group, size in places:
                if most and f"{label} {size}" not in taken and (case := self._sized(label, group, size)) is not None:
                    taken.add(case.name)
                    most -= 1
                    yield case

    def _around(self, group: Group, number: int) -> set[int]:
        """Sizes next to a number, of a dim or of all elements."""
        rows = number // self.resizer.row(group)
        return {number - 1, number, number + 1} | ({rows, rows + 1} if rows > 1 else set())

    def _generated(self) -> Yields[Case, None, dict[str, list[Any]]]:
        found: dict[str, list[Any]] = {}
        for generator in GENERATORS:
            seed = self.draw.getrandbits(62)
            if not (self._wanted(generator.name) or generator.name in ("shipped", "normal")):
                continue
            inputs = self.source.inputs(generator, seed)
            if inputs is not None:
                state = "shipped" if generator.fill is None else ("integers" if generator.integral else "redrawn")
                found[generator.name] = inputs
                if self._wanted(generator.name):
                    yield Case(generator.name, generator.catches, inputs, state, self.training, far=generator.far)
        return found

    def _resized(self) -> Iterator[Case]:
        for number, (label, group) in enumerate(self.resizer.groups):
            drawn = [round(2 ** self.draw.uniform(1, limit)) for limit in DRAWN_SIZES if number < 2]
            for size in (*SIZES, *(MORE_SIZES if not number else ()), *drawn):
                name = f"{label} {size}"
                if name in self._taken or not self._wanted(name):
                    continue
                if (case := self._sized(label, group, size, heavy=size in SIZES)) is not None:
                    self._taken.add(name)
                    yield case

    def _sized(self, label: str, group: Group, size: int, *, heavy: bool = False) -> Case | None:
        """The case; None where the reference does not take that size, or where it is much work that need not be."""
        if not heavy and not self.resizer.light(group, size):
            return None
        inputs = self.resizer.at(group, size)
        if inputs is None:
            return None
        catches = "sizes built into the code, tails, empty blocks"
        return self._case(f"{label} {size}", catches, inputs, may_refuse=True, few_runs=True)

    def _laid_out(self, inputs: list[Any], prefix: str, same_values: str, one: str = "") -> Iterator[Case]:
        catches = "strides and alignment that the code takes for granted"
        for name, change in LAYOUTS.items():
            if one not in ("", name) or not self._wanted(prefix + name):
                continue
            if (varied := laid_out(inputs, change)) is not None:
                yield self._case(prefix + name, catches, varied, may_refuse=True, layout=True, same_values=same_values)

    def _laid_out_alone(self, same_values: str) -> Iterator[Case]:
        """One of several inputs with its memory transposed: code that looks at another one's strides."""
        if len(flat(self.base)) < 2 or not self._wanted("transposed memory"):
            return
        across = {id(tensor): LAYOUTS["transposed memory"](tensor) for tensor in flat(self.base)}
        wide = [name for name, tensor in across.items() if tensor is not None]
        catches = "strides of one input taken for those of all"
        for number, name in enumerate(self.draw.sample(wide, min(len(wide), MOST_ALONE)), 1):
            alone = copy_tree(self.base, partial(_in_place_of, {name: across[name]}))
            about: dict[str, Any] = {"may_refuse": True, "layout": True, "same_values": same_values}
            yield self._case(f"one input transposed, {number}", catches, alone, **about)

    def _wanted(self, name: str) -> bool:
        return self.only is None or name in self.only

    def _case(self, name: str, catches: str, inputs: list[Any], training: bool | None = None, **what: Any) -> Case:
        return Case(name, catches, inputs, "redrawn", self.training if training is None else training, **what)


def one_value(case: Case, draw: random.Random) -> list[Case]:
    """The case's inputs with one value in each floating tensor replaced by another that occurs in it, the furthest one."""
    changed = False

    def one(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal changed
        if not tensor.is_floating_point() or not tensor.is_contiguous() or tensor.numel() < 2:
            return tensor
        new = tensor.clone()
        elements, place = new.view(-1), draw.randrange(tensor.numel())
        elements[place] = elements[(elements.double() - float(elements[place])).abs().argmax()]
        changed = True
        return new

    inputs = copy_tree(case.inputs, one)
    catches = "the last answer kept where only a sample of the values is looked at"
    return [replace(case, name="one value changed", catches=catches, inputs=inputs, few_runs=True)] if changed else []


def one_by_one(case: Case, others: list[Any], draw: random.Random) -> list[Case]:
    """The case's inputs, of which one tensor after the other becomes what it is in `others`. Empty where only one
    differs, or where several lie in the same memory."""
    before, after = flat(case.inputs), flat(others)
    if len(before) != len(after) or any(
        len({tensor.untyped_storage().data_ptr() for tensor in group}) < len(group) for group in (before, after)
    ):
        return []
    pairs = [(x, y) for x, y in zip(before, after, strict=True) if _same_form(x, y) and not same(x, y)]
    if len(pairs) < 2:
        return []
    found: list[Case] = []
    changed: dict[int, torch.Tensor] = {}
    for x, y in draw.sample(pairs, min(len(pairs), MOST_INPUTS)):
        changed[id(x)] = y
        inputs = copy_tree(case.inputs, partial(_in_place_of, changed))
        number = 1 + len(found)
        catches = "the last answer kept while an input that nobody looked at changes"
        step = replace(case, name=f"one input changed, {number}", catches=catches, inputs=inputs, few_runs=True)
        found.append(step)
    return found


def _in_place_of(others: Mapping[int, torch.Tensor | None], tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that stands for this one, where there is one."""
    other = others.get(id(tensor))
    return tensor if other is None else other


def same_forms(inputs: list[Any], others: list[Any]) -> bool:
    """Whether all bytes of some inputs can come to the addresses of the others."""
    before, after = flat(inputs), flat(others)
    return len(before) == len(after) and all(map(_same_form, before, after))


def _same_form(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether the bytes of one can come to the address of the other."""
    forms = [(t.shape, t.stride(), t.dtype, t.storage_offset(), t.untyped_storage().nbytes()) for t in (x, y)]
    return forms[0] == forms[1]
