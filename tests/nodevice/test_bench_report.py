"""Floors, rows and the document for machines."""

from __future__ import annotations

import json
import math

import pytest
import torch

from modelnew.bench import Report, Row, Work, floor
from modelnew.bench.machine import Rates, describe, name
from modelnew.bench.report import SCHEMA, caveats
from modelnew.bench.stats import Ratio

RATES = Rates(bytes_per_s=1e9, flops_per_s={"float32": 1e12, "bfloat16": 1e13}, working_set=1 << 20)


def report(*rows: Row, baselines: tuple[str, ...] = ()) -> Report:
    noise, machine = Ratio(1.0, 0.99, 1.01), {"name": "a machine"}
    return Report("model.py", "cpu", None, 7, 2, machine, {"processes": 5}, noise, 0.01, rows, baselines=baselines)


def test_floor_is_the_larger_of_transfers_and_products() -> None:
    memory = floor(Work(6 * 10**8, 4 * 10**8, {"float32": 10**11}), RATES)
    assert (memory.seconds, memory.bound) == (1.0, "memory")
    products = floor(Work(10**6, 0, {"float32": 10**12, "bfloat16": 10**13}), RATES)
    assert (products.seconds, products.bound) == (2.0, "products")
    with pytest.raises(KeyError):
        floor(Work(0, 0, {"float8": 1}), RATES)


def test_a_time_below_the_floor_is_not_believed() -> None:
    with_floor = report(Row("eager", seconds=2.0), Row("fast", seconds=0.5), Row("bad", reason="broke")).with_floor(
        floor(Work(10**9, 0), RATES)
    )
    assert with_floor.row("eager").over_floor == 2.0
    assert not with_floor.row("eager").impossible
    assert with_floor.row("fast").impossible
    assert "not believed" in with_floor.row("fast").note
    assert with_floor.row("bad").over_floor is None
    assert with_floor.row("bad").note == "broke"


def test_what_new_pages_cost_is_said_where_a_result_gets_them() -> None:
    small = Row("new.py", seconds=0.03, seconds_reused=0.02, memory_bytes=1 << 20)
    large = Row("new.py", seconds=0.03, seconds_reused=0.02, memory_bytes=1 << 26)
    assert small.note == "" and small.as_dict()["note"] is None
    assert large.note == large.as_dict()["note"] == "20 ms where results come in memory that is mapped already"


def test_what_failed_or_is_impossible_is_not_good_but_a_baseline_may_fail() -> None:
    floor_of_1_s = floor(Work(10**9, 0), RATES)
    base, compiled = Row("eager", seconds=2.0), Row("torch.compile", reason="no compiler")
    baselines = ("eager", "torch.compile")
    good = report(base, compiled, Row("new.py", seconds=1.1), baselines=baselines)
    assert good.with_floor(floor_of_1_s).believed
    assert not report(base, Row("new.py", seconds=0.8), baselines=baselines).with_floor(floor_of_1_s).believed
    assert not report(base, Row("new.py", reason="crashed"), baselines=baselines).believed


@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        ({"processes": 5, "isolation": "a process per file"}, ""),
        ({"processes": 3}, ""),
        ({"processes": 1, "isolation": "a process per file"}, "one set of processes"),
        ({"processes": 1, "isolation": "one process: not enough memory"}, "all variants in one process"),
        ({"processes": 5, "outputs_checked_while_timed": False}, "not compared"),
        ({"processes": 3, "gpu_clocks": [{"throttle": 4}, {"throttle": 0}]}, "in 1 of 2 blocks"),
    ],
)
def test_what_makes_times_less_certain_is_said(protocol: dict[str, object], part: str) -> None:
    found = caveats(protocol)
    assert len(found) == bool(part) and part in "".join(found)


def test_document_is_strict_json_with_everything_in_it() -> None:
    ratio = Ratio(2.0, 0.0, math.inf)  # too few samples for an upper bound
    document = json.loads(
        report(Row("eager", seconds=1.0), Row("new", seconds=0.5, ratio=ratio, verdict="ambiguous", error=math.inf))
        .with_floor(floor(Work(10**8, 0), RATES))
        .json()
    )
    assert document["schema"] == SCHEMA
    assert document["floor"]["bound"] == "memory"
    assert document["noise"]["floor"] == 0.01
    new = document["variants"][1]
    assert (new["ratio"], new["low"], new["high"], new["error"]) == (2.0, 0.0, None, None)
    assert new["status"] == "timed" and not new["impossible"]


def test_machine_is_named_without_its_host_name() -> None:
    import platform

    assert platform.node() not in json.dumps(describe("cpu"))
    assert name().endswith(("core", "cores"))
    assert describe("cpu")["torch"] == torch.__version__
