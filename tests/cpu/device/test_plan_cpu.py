"""Which plan a layout gets, as a table, and what holds for every plan."""

import pytest

from modelnew.runtime.layout import Layout, RowLayout
from modelnew.runtime.plan_cpu import plan_pointwise, plan_rows

CACHE = 32 << 20
HEAD = 8

POINTWISE = [
    # sizes, strides per operand, kind, rows x columns of a block
    ((), ((), ()), "flat", (0, 1024)),
    ((1 << 20,), ((1,), (1,)), "flat", (0, 1024)),
    ((1 << 20,), ((1,), (0,)), "flat", (0, 1024)),
    ((1000,), ((1,), (2,)), "blocks", (1, 1000)),
    ((5000,), ((1,), (2,)), "blocks", (1, 1000)),
    ((4096, 4096), ((4096, 1), (1, 4096)), "blocks", (128, 8)),
    ((30, 4096), ((4096, 1), (1, 30)), "blocks", (30, 34)),
    ((4096, 300), ((300, 1), (300, 1), (0, 1)), "blocks", (1, 300)),
    ((4096, 8), ((8, 1), (0, 1)), "blocks", (128, 8)),
    ((4096, 255), ((255, 1), (0, 1)), "blocks", (4, 255)),
]


@pytest.mark.parametrize(("sizes", "strides", "kind", "block"), POINTWISE)
def test_pointwise(
    sizes: tuple[int, ...], strides: tuple[tuple[int, ...], ...], kind: str, block: tuple[int, int]
) -> None:
    layout = Layout(sizes, strides, (4,) * len(strides), 1)
    plan = plan_pointwise(layout, CACHE)
    assert plan.kind == kind
    assert plan.numbers[6:8] == block
    rank = plan.numbers[3]
    assert len(plan.numbers) == HEAD + rank * (1 + len(strides))
    assert plan.numbers[2] == layout.elements
    assert plan.why and "\n" not in plan.why


def test_the_dim_that_an_input_runs_along_comes_next_to_last() -> None:
    """(a, b, c) with an input whose `a` is contiguous: blocks cut a and c, b is walked around them."""
    layout = Layout((40, 3, 50), ((150, 50, 1), (1, 40, 120)), (4, 4), 1)
    plan = plan_pointwise(layout, CACHE)
    assert plan.numbers[HEAD : HEAD + 3] == (3, 40, 50)
    assert plan.numbers[HEAD + 3 :] == (50, 150, 1, 40, 1, 120)


def test_stores_past_the_cache_only_where_outputs_do_not_fit() -> None:
    small, large = (Layout((n,), ((1,), (1,)), (4, 4), 1) for n in (1 << 20, 1 << 24))
    assert plan_pointwise(small, CACHE).numbers[0] == 0
    assert plan_pointwise(large, CACHE).numbers[0] == 256
    reduced = RowLayout((1 << 14,), (1 << 12,), ((1,), (1 << 12,)), ((0,), (1,)), (4, 4), 1, 1, 0, 4)
    assert plan_rows(reduced, CACHE).numbers[0] == 0
    written = reduced._replace(outer_strides=((1 << 12,), (1 << 12,)), inner_strides=((1,), (1,)))
    assert plan_rows(written, CACHE).numbers[0] == 256


ROWS = [
    # outer, inner, the input's strides, bytes kept per element, kind, b and c
    ((4096,), (4096,), ((4096,), (1,)), 8, "whole", (1, 1024)),
    ((), (100,), ((), (1,)), 8, "whole", (1, 100)),
    ((15,), (16_384,), ((16_384,), (1,)), 8, "split", (1, 1024)),
    ((16,), (16_384,), ((16_384,), (1,)), 8, "whole", (1, 1024)),
    ((100,), (200_000,), ((200_000,), (1,)), 8, "split", (1, 1021)),
    ((100,), (200_000,), ((200_000,), (1,)), 0, "whole", (1, 1021)),
    ((1000,), (16,), ((16,), (1,)), 8, "columns", (250, 4)),
    ((1000,), (17,), ((17,), (1,)), 8, "whole", (1, 17)),
    ((4096,), (4096,), ((1,), (4096,)), 8, "columns", (256, 4)),
    ((32, 3136), (64,), ((200_704, 1), (3136,)), 8, "columns", (242, 4)),
    ((64,), (32, 3136), ((3136,), (200_704, 1)), 8, "whole", (1, 784)),
    ((64,), (32, 49), ((49,), (3136, 1)), 8, "whole", (20, 49)),
    ((), (), ((), ()), 8, "whole", (1, 1)),
]


@pytest.mark.parametrize(("outer", "inner", "strides", "on_chip", "kind", "cut"), ROWS)
def test_rows(
    outer: tuple[int, ...],
    inner: tuple[int, ...],
    strides: tuple[tuple[int, ...], tuple[int, ...]],
    on_chip: int,
    kind: str,
    cut: tuple[int, int],
) -> None:
    layout = RowLayout(outer, inner, (strides[0],) * 2, (strides[1],) * 2, (4, 4), 1, 3, on_chip, 4)
    plan = plan_rows(layout, CACHE)
    assert plan.kind == kind
    assert plan.numbers[6:8] == cut
    assert plan.numbers[2:5] == (layout.rows, len(outer), len(inner))
    assert len(plan.numbers) == HEAD + 3 * (len(outer) + len(inner))
    assert cut[0] * cut[1] <= 1024
    assert plan.why and "\n" not in plan.why
