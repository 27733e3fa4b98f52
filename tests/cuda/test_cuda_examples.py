"""Every example at full size, in fp32, fp16 and bf16, against float64; compared in slices, since most fill half a GPU."""

import copy

import pytest
import torch

import modelnew
from tests.compiled import assert_closer
from tests.examples import FOLDER, load

SLICE = 1 << 27  # elements that are compared at a time


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_example(path):
    space = load(path)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model, inputs = space["Model"](*space["get_init_inputs"]()).eval(), space["get_inputs"]()
    fast = modelnew.optimize(model, *inputs)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model.to(dtype)
        given = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
        before = sum(fast.kernels.calls.values())
        new = fast(*given)
        assert sum(fast.kernels.calls.values()) > before, "the original forward ran"
        compare(model, given, new)
        del given, new
        torch.cuda.empty_cache()


def compare(model, inputs, new):
    """Examples work on each element of the first dim by itself, except those whose result is one number."""
    truth = copy.deepcopy(model).double()
    rows = inputs[0].shape[0] if new.dim() else 1
    step = max(1, rows * SLICE // inputs[0].numel()) if new.dim() else 1
    for first in range(0, rows, step):
        part = slice(first, first + step) if new.dim() else ...
        given = [x[part] for x in inputs]
        wide = [x.double() if x.is_floating_point() else x for x in given]
        assert_closer(new[part], model(*given), truth(*wide))
