"""Products by Ampere's instructions, run thread by thread: bit for bit what the arithmetic's model says."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from modelnew.runtime.plan_product import AMPERE
from tests.cuda.product_kernels import EXPORTS, SOURCE, defines, plan_of
from tests.product_model import AMPERE as CORE
from tests.product_model import kernel_product
from tests.simt.harness import Program
from tests.simt.launches import SPREAD

VARIANTS = ((16, 0), (64, 1))  # both tiles, both ways to lie


@pytest.fixture(scope="module", params=VARIANTS, ids=["tile 16", "tile 64, across"])
def variant(request: pytest.FixtureRequest) -> Iterator[tuple[Program, int, int]]:
    tile, across = request.param
    program = Program(SOURCE + EXPORTS, defines(AMPERE, tile, across))
    yield program, tile, across
    program.close()


def weight(n: int, k: int, across: int) -> torch.Tensor:
    """Rows, or columns where it lies across, begin at multiples of 4 elements."""
    rows, columns = (k, n) if across else (n, k)
    w = torch.randn(rows, -(-columns // 4) * 4)[:, :columns]
    return w.t() if across else w


def launched(variant, name, outputs, x, w, *others, splits=1, hints=None, orders=(0, 1)):
    """Fills the outputs, in several orders of threads, which must agree bit by bit."""
    program, tile, _ = variant
    plan = plan_of(outputs, x, w, others, tile, splits, AMPERE, SPREAD)
    found = []
    for order in orders:
        program.launch(name, outputs, [x, w, *others, *([] if hints is None else [hints])], plan, order)
        found.append([output.clone() for output in outputs])
    for first, second in itertools.pairwise(found):
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (3, 5, 33), (17, 130, 70), (5, 131, 64)])
def test_every_bit_is_that_of_the_model(variant, m, n, k):
    torch.manual_seed(m)
    x, w = torch.randn(m, k) * torch.exp2(torch.randint(-40, 40, (m, 1))), weight(n, k, variant[2])
    y = torch.empty(m, n)
    launched(variant, "plain_alone", [y], x, w, orders=(0, 1, 7))
    assert np.array_equal(y.numpy(), kernel_product(x.numpy(), w.numpy(), CORE, bool(variant[2])))
