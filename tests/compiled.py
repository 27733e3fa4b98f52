"""Models for tests: a function as a module, compiled without the further captures that `modelnew.optimize` makes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from modelnew.compiler import Program, compile_module
from modelnew.live import load_source, wrap
from modelnew.render.file import Origin, render_file


class Function(nn.Module):
    """A module whose forward is `function(self, *inputs)`, with the given submodules."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def compiled(model: nn.Module, inputs: Sequence[Any]) -> tuple[nn.Module, Program]:
    """The model on its kernels, for exactly the captured dtype and rank, and its program."""
    program = compile_module(model, inputs)
    text = render_file(program, model, Origin("Model", None, "a test", "0", imports="# given"))
    return wrap(model, load_source(text, type(model))), program


def names(program: Program) -> list[str]:
    return [kernel.name for kernel in program.kernels]


def assert_closer(new: torch.Tensor, eager: torch.Tensor, truth: torch.Tensor, slack: float = 4.0) -> None:
    """The design's rule for single kernels: err(new) <= 2 err(eager) + slack · eps · max|truth|.

    nan and inf where eager or the truth has them.
    """
    assert new.shape == eager.shape
    assert new.dtype == eager.dtype
    if not new.dtype.is_floating_point:
        assert torch.equal(new, eager)
        return
    truth, wide, theirs_wide = truth.double(), new.double(), eager.double()
    special = ~(truth.isfinite() & theirs_wide.isfinite())
    as_eager = (wide == theirs_wide) | (wide.isnan() & theirs_wide.isnan())
    as_truth = (wide == truth) | (wide.isnan() & truth.isnan())  # eager's fp32 gelu(inf) is nan, the truth inf
    assert bool((as_eager | as_truth)[special].all())
    finite = ~special
    if not bool(finite.any()):
        return
    scale = float(truth[finite].abs().max())
    ours = float((wide - truth)[finite].abs().max())
    theirs = float((eager.double() - truth)[finite].abs().max())
    assert ours <= 2 * theirs + slack * torch.finfo(new.dtype).eps * scale, (
        f"{ours:.3g} against eager's {theirs:.3g}, scale {scale:.3g}"
    )
