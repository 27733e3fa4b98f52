"""The CUDA text of every example, as it is written, run in the emulator: each launch gives what the CPU kernel gives."""

import pytest
import torch

from modelnew.render.carry import carry
from modelnew.runtime import plan_cuda
from tests.examples import SMALL, load, write
from tests.simt.harness import Program
from tests.simt.launches import H200


@pytest.mark.parametrize("example", SMALL)
def test_example(example, tmp_path, monkeypatch):
    space = load(write(example, tmp_path))
    names = carry()[1]
    kernel_class, planner = space[names["Kernel"]], space[names["_Planner"]]
    source = space["ModelNew"].kernels.sources["cuda"]
    program = Program(source, ("MN_T=float",))
    on_cpu = kernel_class.__call__
    launched = []

    def both(kernel, *tensors):
        result = on_cpu(kernel, *tensors)
        expected = result if isinstance(result, tuple) else (result,)
        outputs = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) for t in expected]
        with monkeypatch.context() as patch:
            cuda = planner(
                lambda layout: plan_cuda.plan_pointwise(layout, H200), lambda layout: plan_cuda.plan_rows(layout, H200)
            )
            patch.setitem(space, names["_planner"], lambda device: cuda)
            plan = kernel.plan(tensors)
        program.launch(f"launch_{kernel.name}", outputs, list(tensors), plan)
        for made, wanted in zip(outputs, expected, strict=True):
            assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-6, equal_nan=True), kernel.name
        launched.append(kernel.name)
        return result

    monkeypatch.setattr(kernel_class, "__call__", both)
    torch.manual_seed(0)
    with torch.no_grad():
        space["ModelNew"](*space["get_init_inputs"]())(*space["get_inputs"]())
    assert launched
