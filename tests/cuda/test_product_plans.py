"""Products at sizes that compute-sanitizer can follow, each in a program without PyTorch.

With MODELNEW_SANITIZER=memcheck (racecheck, synccheck, initcheck) in the environment, under that tool. The workspace is
an allocation of its own; every launch is made twice, over different bytes in the results.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.cuda.harness import GpuProgram
from tests.cuda.product_kernels import EXPORTS, SOURCE, VARIANTS, arch, covered, defines, plan_of


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(3)


@pytest.fixture(scope="module")
def program() -> Iterator[Callable[[str, int, int], GpuProgram]]:
    capability = torch.cuda.get_device_capability()
    here = [variant for variant in VARIANTS if covered(variant[0], capability)]
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda variant: GpuProgram(SOURCE + EXPORTS, defines(*variant), [arch(variant[0])]), here)
        running = dict(zip(here, made, strict=True))

    def get(*variant: object) -> GpuProgram:
        if variant not in running:
            pytest.skip(f"{variant[0]} is not for this GPU")
        return running[variant]

    yield get
    for each in running.values():
        each.close()


def weight(n: int, k: int, across: int) -> torch.Tensor:
    """Rows, or columns where it lies across, begin at multiples of 4 elements, as a whole view of what was drawn."""
    rows, columns = (k, n) if across else (n, k)
    w = torch.randn(rows, -(-columns // 4) * 4)[:, :columns]
    return w.t() if across else w


@pytest.mark.parametrize(("kind", "tile", "across"), VARIANTS)
@pytest.mark.parametrize(
    ("m", "n", "k", "splits"), [(1, 1, 3, 1), (20, 130, 64, 1), (130, 300, 200, 2), (17, 700, 33, 1)]
)
def test_a_product(program, kind, tile, across, m, n, k, splits):
    x, w, y = torch.randn(m, k), weight(n, k, across), torch.empty(m, n)
    program(kind, tile, across).launch("plain_alone", [y], [x, w], plan_of([y], x, w, [], tile, splits, kind))
    torch.testing.assert_close(y, x @ w.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("kind", "tile", "across"), VARIANTS)
@pytest.mark.parametrize(("m", "n", "k", "splits"), [(3, 130, 64, 1), (150, 1000, 1030, 3)])
def test_a_reduction_of_rows(program, kind, tile, across, m, n, k, splits):
    x, bias, y = torch.randn(m, k), torch.randn(n), torch.empty(m)
    w = weight(n, k, across).mul_(k**-0.5)
    plan = plan_of([y], x, w, [bias], tile, splits, kind)
    program(kind, tile, across).launch("sums", [y], [x, w, bias, w.abs().amax(1)], plan)
    torch.testing.assert_close(y, torch.sigmoid(x @ w.T + bias).mean(1))


@pytest.mark.parametrize(("kind", "tile", "across"), VARIANTS)
def test_several_results_and_values_that_are_summed_again(program, kind, tile, across):
    m, n, k = 30, 200, 100
    x, w, bias, factor = torch.randn(m, k), weight(n, k, across), torch.randn(n), torch.randn(m, n).half()
    x[3, 5], w[140, 7] = float("inf"), float("nan")
    y, z = torch.empty(n, m).T, torch.empty(m, n, dtype=torch.float16)
    plan = plan_of([y, z], x, w, [bias, factor], tile, 2, kind)
    program(kind, tile, across).launch("pairs", [y, z], [x, w, bias, factor], plan)
    torch.testing.assert_close(y, x @ w.T + bias, rtol=1e-5, atol=1e-4, equal_nan=True)
