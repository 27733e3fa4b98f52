"""The scalar functions on the GPU: every value of the 16-bit types, a sample of the floats. All of those: exhaustive.py."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.cuda.math_functions import TRUTHS, evaluate, every_16_bit_value, floats, library, worst_error


@pytest.fixture(scope="module")
def libraries():
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    with ThreadPoolExecutor() as compilers:
        return dict(zip(dtypes, compilers.map(library, dtypes), strict=True))


@pytest.mark.parametrize("name", TRUTHS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_value(libraries, name, dtype):
    x = every_16_bit_value(dtype)
    worst = worst_error(name, x, evaluate(libraries[dtype], name, x))
    assert worst.ulp <= 1 and worst.wrong == 0, worst


@pytest.mark.parametrize("name", TRUTHS)
def test_float_sample(libraries, name):
    """Every 251st float."""
    x = floats(0, (1 << 32) // 251, 251)
    worst = worst_error(name, x, evaluate(libraries[torch.float32], name, x))
    assert worst.ulp <= 2 and worst.wrong == 0, worst
