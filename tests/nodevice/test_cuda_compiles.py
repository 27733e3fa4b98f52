"""The device library and the text of every example, compiled by nvcc for the devices that matter: no warnings, no spills,
no local arrays; and no more instructions than before."""

import shutil

import pytest

from tests.compile_gate import Case, above_table, check, complaints_of, default_cases, table_of
from tests.examples import SMALL, load, write

OTHERS = ("sm_80", "sm_100")


pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")


def test_the_library_compiles():
    results = check([case for case in default_cases() if case.quick])
    assert complaints_of(results) + above_table(table_of(results)) == []


def test_examples_compile(tmp_path):
    cases = []
    for number, example in enumerate(SMALL):
        kernels = load(write(example, tmp_path))["ModelNew"].kernels
        cases.append(Case(example, kernels.sources["cuda"], ("MN_T=float",), ("sm_90a", OTHERS[number % 2])))
    assert complaints_of(check(cases)) == []
