"""What a wrong answer looks like: a few hypotheses, tried in order, so that a rejection says what to repair."""

from __future__ import annotations

import re
from typing import Any

import torch

from modelnew.check.cases import Case
from modelnew.check.observe import Answer, copy_tree, flat, moved
from modelnew.check.process import DiedError
from modelnew.check.truth import STATE, Evaluation, Reference

POINTERS = "does a kernel read the 16-bit data through fp32 pointers?"
CLOSE = 1e-2  # relative rms deviation below which two tensors are taken for the same answer


def explain(reference: Reference, case: Case, evaluation: Evaluation, answer: Answer, seed: int) -> str:
    """What the candidate seems to do on this case; empty where nothing fits."""
    if answer.error:
        return compile_error(answer.error + "\n" + answer.error_text)
    for name, truth in evaluation.truths.items():
        if name.startswith(STATE) or not truth.exact.is_floating_point() or name not in answer.leaves:
            continue
        got = answer.leaves[name].to(truth.exact.device)
        if got.shape != truth.exact.shape or not got.numel():
            continue
        in_order = _ignoring_strides(reference, case, name, seed) if case.layout else None
        if in_order is not None and _close(got, in_order) and not _close(truth.eager, in_order):
            return "it ignores the strides of its inputs: it reads their memory as if it were contiguous"
        missing = got.isnan() & ~truth.exact.isnan()
        if case.layout and bool(missing.any()):
            return "nan where the truth has none: it reads beside its inputs' elements, or leaves some unwritten"
        if bool(missing.any()) and not bool(missing.all()):
            return f"{int(missing.sum())} of {got.numel()} elements look as if nobody wrote them"
        if bool(missing.all()):
            return (
                "all elements are nan: fresh memory that nobody wrote, or arithmetic on it; did a kernel fail unseen?"
            )
        if bool((got == got.flatten()[0]).all()) and not bool((truth.eager == truth.eager.flatten()[0]).all()):
            return f"every element is {float(got.flatten()[0]):.5g}"
        for i, value in enumerate(flat(case.inputs)):
            if value.shape == got.shape and torch.equal(value.to(got.device, got.dtype), got):
                return f"it returns input {i} as it is"
        if got.dtype in (torch.float16, torch.bfloat16) and not _close(got, truth.eager):
            return POINTERS
    return ""


def _close(got: torch.Tensor, other: torch.Tensor) -> bool:
    if other.shape != got.shape or not torch.equal(got.isnan(), other.isnan()):
        return False
    size = float(other.double().nan_to_num(0.0).norm())
    return bool(float((got.double() - other.double()).nan_to_num(0.0).norm()) <= CLOSE * size)


def _ignoring_strides(reference: Reference, case: Case, name: str, seed: int) -> torch.Tensor | None:
    """Eager's answer to the inputs' memory read in order from their first element."""

    def in_order(tensor: torch.Tensor) -> torch.Tensor:
        whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        start = tensor.storage_offset()
        part = whole[start : start + tensor.numel()]
        short = tensor.numel() - part.numel()  # an expanded row: what lies behind it is anybody's guess
        return torch.cat([part, part.new_zeros(short)]).view(tensor.shape) if short else part.view(tensor.shape)

    inputs: list[Any] = copy_tree(case.inputs, lambda tensor: moved(in_order(tensor), reference.device))
    answer = reference.observer.call(inputs, seed=seed, poison=False, training=case.training)
    reference.observer.forget()
    return answer.leaves.get(name)


def compile_error(text: str) -> str:
    """The first line of a compiler's complaint in `text`."""
    found = re.search(r"^.*?([^\s/]+:\d+(?::\d+)?: (?:fatal )?error: .*)$", text, re.MULTILINE)
    return f"the compiler says {found.group(1)[:200]}" if found else ""


def loading_error(loaded: Answer) -> str:
    """Why a file could not be loaded, in one line."""
    why = compile_error(loaded.error)
    return f"it does not build: {why}" if why else f"it raises {loaded.error.splitlines()[0]}"


def crash(died: DiedError, dtype: torch.dtype) -> str:
    """What makes a process crash in a kernel."""
    if not any(name in str(died) for name in ("SIGSEGV", "SIGABRT", "SIGBUS")):
        return ""
    return f": {POINTERS}" if dtype in (torch.float16, torch.bfloat16) else ": does a kernel leave its tensors' memory?"
