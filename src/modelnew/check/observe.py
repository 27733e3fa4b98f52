"""One call of a module, and everything about the call that is not the values of its outputs.

The same code looks at the reference and at the candidate, so what the reference itself does (return its input, update a
buffer) is allowed to the candidate too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from modelnew.check.forms import Forms
from modelnew.check.wide import tensors

WRITTEN = "is written to"
LARGE = 1 << 22  # elements of a parameter above which changes are found by checksum
KEPT_BYTES = 1 << 22  # of the outputs of earlier calls that are held, as a caller may; the last call's are always


@dataclass
class Answer:
    """What came of one call.

    leaves: name → output tensor, dense, with its strides as the module returned them in `strides`. structure: the
    nesting of the output.
    facts: things a module should not do, in words, such as "output shares memory with input 0". state: entries of the
    state_dict that the call changed. kernels: launches by kernel name where the module counts them. error: what it
    raised, error_text: with the place.
    """

    leaves: dict[str, torch.Tensor] = field(default_factory=dict)
    strides: dict[str, tuple[int, ...]] = field(default_factory=dict)
    devices: dict[str, str] = field(default_factory=dict)
    structure: str = ""
    facts: list[str] = field(default_factory=list)
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    error: str = ""
    error_text: str = ""


class Observer:
    """Calls one module and watches what it does beside computing."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.previous: list[torch.Tensor] = []
        # of the last calls, the latest first: outputs in memory of their own, and what they were
        self._returned: list[list[tuple[torch.Tensor, torch.Tensor]]] = []

    def call(
        self,
        inputs: list[Any],
        *,
        seed: int,
        poison: bool,
        training: bool,
        modes: Any = None,
        how: Callable[..., tuple[Any, list[str]]] | None = None,
        under: str = "no_grad",
    ) -> Answer:
        """`module(*inputs)` after seeding; nothing it raises comes out.

        under: "no_grad", "inference_mode", "autograd" (which records the call), or "frozen" (it would, but no parameter
        takes a gradient).
        poison: fresh memory from PyTorch's allocator is filled with nan, so that an element nobody writes cannot be
        right by luck. how: (module, inputs) → (result, facts), where it is not to be called plainly.
        """
        answer = Answer()
        self.module.train(training)
        before = {name: snapshot(value) for name, value in self._state().items()}
        versions = _versions(inputs) if how is None else {}  # another way to call may write to them itself
        launched = launches(self.module)
        seed_all(seed)
        try:
            with _surroundings(self.module, inputs, under), _poisoned(poison), modes or contextlib.nullcontext():
                forms = Forms.of(self.module, inputs)
                result, found = how(self.module, inputs) if how else (self.module(*inputs), [])
                answer.facts += found + forms.changed(Forms.of(self.module, inputs))
            _synchronize(inputs)
            named, answer.structure = flatten(result)
            answer.leaves = {name: value.detach().contiguous() for name, value in named.items()}
        except BaseException as error:  # a candidate may raise SystemExit or KeyboardInterrupt by itself
            answer.error, answer.error_text = told(error)
            return answer
        if versions:
            now = _versions(inputs)
            answer.facts += [f"input {i} {WRITTEN}" for i, then in versions.items() if now[i] != then]
        others = {f"input {i}": tensor for i, value in enumerate(inputs) for tensor in tensors(value)}
        others |= {f"parameter {name}": value for name, value in self._state().items()}
        answer.facts += self._memory_facts(named, others)
        if any(not same(snapshot(now), then) for call in self._returned for now, then in call):
            answer.facts.append("an output changed after it was returned")
        self.previous = list(named.values())
        own = [value for value in self.previous if not any(_overlap(value, other) for other in others.values())]
        self._keep([(value, snapshot(value)) for value in own])
        for name, value in named.items():
            answer.strides[name] = tuple(value.stride())
            answer.devices[name] = str(value.device.type)
        answer.state = {
            name: value.detach().clone()
            for name, value in self._state().items()
            if name in before and not same(before[name], snapshot(value))
        }
        answer.kernels = {
            name: n - launched.get(name, 0) for name, n in launches(self.module).items() if n > launched.get(name, 0)
        }
        return answer

    def _keep(self, returned: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Holds outputs and those of the calls before, as long as these are small."""
        calls, self._returned, size = [returned, *self._returned], [], 0
        for call in calls:
            size += sum(value.untyped_storage().nbytes() for value, _ in call if value.layout == torch.strided)
            if self._returned and size > KEPT_BYTES:
                break
            self._returned.append(call)

    def _state(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.module.state_dict().items() if isinstance(value, torch.Tensor)}

    def _memory_facts(self, outputs: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> list[str]:
        facts = []
        for name, value in outputs.items():
            if type(value) is not torch.Tensor:
                facts.append(f"{name} is a {type(value).__name__}, not a plain tensor")
            elif value.layout == torch.strided and value.numel() and not value.untyped_storage().data_ptr():
                facts.append(f"{name} has no memory behind it")
            facts += [
                f"{name} shares memory with {other}" for other, tensor in others.items() if _overlap(value, tensor)
            ]
            # a view of an input lies where the last one lay when the input does; that it is a view is told above
            facts += [f"{name} shares memory with {other}" for other in _beside(name, outputs)]
            own = not any(_overlap(value, tensor) for tensor in others.values())
            if own and any(_overlap(value, old) for old in self.previous):
                facts.append(f"{name} reuses the memory of the previous call's output")
        return facts

    def forget(self) -> None:
        """Lets the last call's outputs go."""
        self.previous, self._returned = [], []


def _beside(name: str, outputs: Mapping[str, torch.Tensor]) -> list[str]:
    """The outputs before `name` that lie where it lies. Columns of one matrix lie between each other, not on each other."""
    value, earlier = outputs[name], list(outputs)[: list(outputs).index(name)]
    if value.layout != torch.strided or not value.is_contiguous():
        return []
    return [other for other in earlier if _overlap(value, outputs[other]) and outputs[other].is_contiguous()]


def wrote(module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Writes `state` into the module's parameters and buffers as an optimizer does; False where its state_dict holds
    copies, or other names."""
    own = module.state_dict()
    if own.keys() != state.keys():
        return False
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)
    now = module.state_dict()
    return all(same(now[name], value) for name, value in state.items())


def told(error: BaseException) -> tuple[str, str]:
    """An error in one line or more, and with its place; whatever its own methods do."""
    try:
        text = str(error).strip()
        place = "".join(traceback.format_exception(error, limit=-4))
    except Exception:
        text = place = "(its text cannot be had)"
    return f"{type(error).__name__}: {text or '(no message)'}", place


def _versions(inputs: list[Any]) -> dict[int, list[int]]:
    """How often PyTorch wrote to each input: one that was written to and put right again was wrong meanwhile."""
    return {i: [tensor._version for tensor in tensors(value)] for i, value in enumerate(inputs)}


@contextlib.contextmanager
def _surroundings(module: nn.Module, inputs: list[Any], under: str) -> Iterator[None]:
    """What autograd records as it does in the middle of a model: parameters and inputs take gradients."""
    frozen = [value for value in module.parameters() if value.requires_grad] if under == "frozen" else []
    recorded = [value for value in tensors(inputs) if value.is_floating_point()] if under == "autograd" else []
    for value in (*frozen, *recorded):
        value.requires_grad_(under == "autograd")
    try:
        with {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(under, torch.enable_grad)():
            yield
    finally:
        for value in (*frozen, *recorded):
            value.requires_grad_(under != "autograd")


def seed_all(seed: int) -> None:
    """torch.manual_seed, which would import a compiler at its first call."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@contextlib.contextmanager
def _poisoned(on: bool) -> Iterator[None]:
    was_on, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch._C._get_deterministic_fill_uninitialized_memory()
    if on:
        torch._C._set_deterministic_algorithms(True, warn_only=True)  # the public function imports a compiler first
        torch._C._set_deterministic_fill_uninitialized_memory(True)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(was_on, warn_only=warned)
        torch._C._set_deterministic_fill_uninitialized_memory(filled)


def _synchronize(inputs: list[Any]) -> None:
    """An error of a kernel belongs to the call that launched it."""
    for device in {tensor.device for tensor in tensors(inputs) if tensor.device.type == "cuda"}:
        torch.cuda.synchronize(device)


def snapshot(value: torch.Tensor) -> torch.Tensor:
    """What tells a change of `value` later: a copy, or a checksum of one that is too large to be kept twice."""
    return value.detach().clone() if value.numel() <= LARGE else checksum(value)


def checksum(value: torch.Tensor) -> torch.Tensor:
    """A number that depends on every bit of `value` and, by blocks, on the order; int64, 0-d, on the CPU."""
    flat = value.detach().contiguous().view(-1).view(torch.uint8)
    words = flat[: flat.numel() // 4 * 4].view(torch.int32)
    total = torch.tensor(value.numel(), dtype=torch.int64)
    for block in (*words.split(LARGE), flat[words.numel() * 4 :]):
        total = total * 31 + block.sum(dtype=torch.int64).cpu()  # wraps around, which is as good
    return total


def launches(module: nn.Module) -> dict[str, int]:
    """Kernel name → launches so far, where the module counts them (`module.kernels.calls`); else empty."""
    calls = getattr(getattr(module, "kernels", None), "calls", None)
    return {str(name): int(count) for name, count in calls.items()} if isinstance(calls, dict) else {}


def flatten(value: Any, name: str = "output") -> tuple[dict[str, torch.Tensor], str]:
    """The tensors of an output by name, and its nesting in words. Numbers become 0-d tensors, complex tensors real ones
    with one dim more; None and texts are part of the nesting. Raises RuntimeError for what cannot be judged.
    """
    if isinstance(value, torch.Tensor) and (value.layout != torch.strided or value.is_quantized):
        kind = value.dtype if value.is_quantized else value.layout
        raise RuntimeError(f"{name} is {str(kind).removeprefix('torch.')}: only dense tensors can be judged")
    if isinstance(value, torch.Tensor) and value.is_complex():
        return {name: torch.view_as_real(value.resolve_conj())}, f"tensor of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, torch.Tensor):
        return {name: value}, "tensor"
    if isinstance(value, (bool, int, float)):
        return {name: torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)}, type(
            value
        ).__name__
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        items = [(f"{name}[{key!r}]", str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{name}[{i}]", "", item) for i, item in enumerate(value)]
    elif type(value).__module__ == "numpy":
        return {name: torch.as_tensor(value)}, type(value).__name__
    elif value is None or isinstance(value, (str, bytes, torch.dtype, torch.device)):
        return {}, repr(value)
    else:
        raise RuntimeError(f"{name} is a {type(value).__name__}, which cannot be judged")
    found: dict[str, torch.Tensor] = {}
    words = []
    for path, key, item in items:
        inner, structure = flatten(item, path)
        found |= inner
        words.append(f"{key}: {structure}" if key else structure)
    return found, f"{'dict' if isinstance(value, Mapping) else 'list'}({', '.join(words)})"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bytes (nan equals nan)."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point():
        as_bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[a.element_size()]
        return torch.equal(a.contiguous().view(as_bits), b.contiguous().view(as_bits).to(a.device))
    return torch.equal(a, b.to(a.device))


def _overlap(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.device != b.device or not a.numel() or not b.numel() or a.layout != torch.strided or b.layout != torch.strided:
        return False
    (start_a, end_a), (start_b, end_b) = _span(a), _span(b)
    return start_a < end_b and start_b < end_a


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (last + 1) * tensor.element_size()


def copy_tree(value: Any, convert: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`value` with `convert` applied to its tensors; one that appears twice is converted once."""
    done: dict[int, torch.Tensor] = {}

    def one(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if id(item) not in done:
                done[id(item)] = convert(item)
            return done[id(item)]
        if isinstance(item, dict):
            return {key: one(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            items = [one(inner) for inner in item]
            return tuple(items) if isinstance(item, tuple) else items
        return item

    return one(value)


def flat(value: Any) -> list[torch.Tensor]:
    """The different tensors of a tree, in order."""
    found: list[torch.Tensor] = []

    def one(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    copy_tree(value, one)
    return found


def own_elements(tensor: torch.Tensor) -> bool:
    """Whether no two elements share memory through a stride of 0: only then can it be written."""
    return all(stride or size < 2 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on `device` with the same strides and offset; the tensor itself where it is there already."""
    if tensor.device == device:
        return tensor
    return _with_storage(tensor, tensor.untyped_storage().to(device=device), tensor.dtype)


def twin(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A copy with the same strides and the same offset into a storage of its own; of `dtype`, where it is floating and
    one is given."""
    storage = tensor.detach().untyped_storage()
    if dtype is None or not tensor.is_floating_point():
        return _with_storage(tensor, storage.clone(), tensor.dtype)
    whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
    return _with_storage(tensor, whole.to(dtype, copy=True).untyped_storage(), dtype)


def _with_storage(like: torch.Tensor, storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.Tensor:
    empty = torch.empty(0, dtype=dtype, device=storage.device)
    return empty.set_(storage, like.storage_offset(), like.shape, like.stride())
