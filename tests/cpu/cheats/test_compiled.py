"""torch.compile's own code is honest: it is accepted, at the sizes, strides and special values that it is run on."""

import torch

from .test_numeric import judges, results  # noqa: F401
from .zoo import ZOO


def test_compiled_code_is_accepted(judges):  # noqa: F811
    name = "layernorm gelu"
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def compile_it(module):
        module.compile(dynamic=True)
        return module

    with torch._dynamo.config.patch(recompile_limit=2):  # then eager takes over: each one takes seconds
        found = results(judges[name], name, ZOO[name].forward, compile_it)
    bad = [case for case in found if case.outcome == "rejected"]
    assert not bad, [(case.name, case.reason) for case in bad]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
