"""The CUDA text of every example, compiled by nvcc for the devices that matter: no warnings, no spills, no local arrays."""

import shutil

import pytest

from tests.compile_gate import Case, check
from tests.examples import SMALL, load, write

ARCHS = ("sm_80", "sm_90a", "sm_100")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_examples_compile(tmp_path):
    cases = []
    for example in SMALL:
        kernels = load(write(example, tmp_path))["ModelNew"].kernels
        cases.append(Case(example, kernels.sources["cuda"], ("MN_T=float",), ARCHS))
    faults = [f"{c.case} {c.arch}: {said}" for c in check(cases, ARCHS) for said in c.complaints]
    assert faults == []
