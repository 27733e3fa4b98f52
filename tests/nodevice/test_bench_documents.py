"""What is made of measurements: comparisons, tables, pictures, pages."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from modelnew.api import Measurement, save_measurement
from modelnew.bench.compare import compare
from modelnew.bench.documents import csv_text, measurements, read
from modelnew.bench.floor import Work, floor
from modelnew.bench.folder import FolderReport
from modelnew.bench.machine import Rates
from modelnew.bench.page import page
from modelnew.bench.plot import picture, require_drawing
from modelnew.bench.report import Report, Row
from modelnew.bench.stats import Ratio, verdict
from modelnew.bench.sweep import parse_sweep, sweep
from modelnew.errors import BenchError, MemoryShortError, ReferenceFileError, UsageError
from modelnew.tables import compare_cells, folder_summary

MACHINE = {"name": "A machine, 2 cores", "torch": "2.13.0", "python": "3.11"}


def report(speed_up: float, half: float = 0.01, flops: int = 0) -> Report:
    ratio = Ratio(speed_up, speed_up * (1 - half), speed_up * (1 + half))
    rows = (
        Row("eager", seconds=0.01, ratio=Ratio(1, 1, 1)),
        Row("new.py", seconds=0.01 / speed_up, ratio=ratio, verdict="faster", error=1e-7, error_against="float64"),
        Row("broken.py", reason="it <broke>"),
    )
    made = Report("model.py", "cpu", None, 1, 2, MACHINE, PROTOCOL, Ratio(1.0, 0.99, 1.01), 0.01, rows)
    rates = Rates(1e10, {"float32": 1e11}, 1 << 20)
    return made.with_floor(floor(Work(10**6, 10**6, {"float32": flops} if flops else {}), rates))


PROTOCOL = {"processes": 5, "blocks": 15, "rounds": 75}


def folder_document(speed_up: float = 2.0) -> dict[str, Any]:
    tasks = (
        {"task": "a.py", "accepted": True, "reason": None, "report": report(speed_up).as_dict()},
        {"task": "b.py", "accepted": True, "reason": None, "report": report(1.2).as_dict()},
        {"task": "c.py", "accepted": False, "reason": "rejected: r = 1e6", "report": None},
        {"task": "d.py", "accepted": True, "reason": "ended with code 2", "report": None},
    )
    for task in tasks[:2]:  # the candidate is the last variant
        task["report"]["variants"].pop()  # type: ignore[index]
    return FolderReport("models", tasks).as_dict()


@pytest.mark.parametrize(
    ("old", "new", "half", "regressed"),
    [
        (2.0, 1.98, 0.01, False),  # within the interval and the threshold
        (2.0, 1.80, 0.01, True),
        (2.0, 1.80, 0.15, False),  # too noisy to say
        (2.0, 1.94, 0.001, False),  # clear, but below the threshold
        (2.0, 3.00, 0.01, False),
    ],
)
def test_regressions_are_beyond_threshold_and_interval(old: float, new: float, half: float, regressed: bool) -> None:
    found = compare(report(old, half).as_dict(), report(new, half).as_dict(), 0.05)
    assert found.regressed == regressed
    (change,) = found.changes  # "broken.py" had no time before
    assert change.variant == "new.py"
    assert change.ratio == pytest.approx(new / old)
    assert found.same_machine
    json.dumps(found.as_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("new", "half", "verdict"),
    [
        (2.0, 0.001, "as fast"),
        (1.94, 0.001, "as fast"),  # certainly slower, but by less than the threshold
        (2.0, 0.04, "ambiguous"),  # it may be 5 % slower
        (2.0, 0.99, "ambiguous"),
        (1.8, 0.15, "ambiguous"),
        (1.8, 0.01, "slower"),
        (2.4, 0.01, "faster"),
        (2.4, 0.30, "ambiguous"),
    ],
)
def test_what_comparing_says(new: float, half: float, verdict: str) -> None:
    (change,) = compare(report(2.0, half).as_dict(), report(new, half).as_dict(), 0.05).changes
    assert change.verdict == verdict
    assert compare_cells(change)[-1] == verdict
    assert change.as_dict()["verdict"] == verdict
    assert change.regressed == (verdict == "slower")


def test_an_interval_without_an_upper_end_is_ambiguous_and_readable() -> None:
    now = report(2.0).as_dict()
    now["variants"][1].update(low=0.0, high=None)  # type: ignore[index]
    (change,) = compare(report(2.0).as_dict(), now).changes
    assert change.verdict == "ambiguous" and compare_cells(change)[4] == "0.00 to ∞"


def test_what_fails_now_or_is_gone_has_regressed() -> None:
    now = report(2.0).as_dict()
    now["variants"][1].update(status="failed", reason="does not build", seconds=None, ratio=None)  # type: ignore[index]
    assert compare(report(2.0).as_dict(), now).changes[0].reason == "does not build"
    assert compare(report(2.0).as_dict(), now).regressed
    del now["variants"][1]  # type: ignore[attr-defined]
    (change,) = compare(report(2.0).as_dict(), now).changes
    assert change.regressed and change.reason == "is not in the new run"


def test_folders_are_compared_task_by_task() -> None:
    found = compare(folder_document(2.0), folder_document(1.0))
    assert [(c.measurement, c.regressed) for c in found.changes] == [("a.py", True), ("b.py", False)]
    now = folder_document()
    now["tasks"][0].update(report=None, accepted=False, reason="rejected: r = 9")
    del now["tasks"][1]
    found = compare(folder_document(), now)
    assert [change.reason for change in found.changes] == ["rejected: r = 9", "is not in the new run"]
    assert all(change.regressed for change in found.changes)
    with pytest.raises(BenchError, match="no measurement in common"):
        compare(folder_document(), report(1.0).as_dict())


@pytest.mark.parametrize(
    ("ratio", "floor", "listed"),
    [
        (Ratio(0.55, 0.5, 0.6), 0.01, "slower"),
        (Ratio(0.55, 0.5, 0.6), 0.8, "slower"),  # the original against itself was worse: ambiguous, but not hidden
        (Ratio(0.55, 0.2, 1.5), 0.01, "ambiguous"),
        (Ratio(0.55, 0.1, float("inf")), 0.01, "ambiguous"),
        (Ratio(0.98, 0.97, 0.99), 0.022, None),  # the same
        (Ratio(1.8, 1.7, 1.9), 0.01, None),
    ],
)
def test_a_folder_names_what_is_slower_and_what_is_ambiguous(ratio: Ratio, floor: float, listed: str | None) -> None:
    rows = (Row("eager", seconds=1.0), Row("new.py", seconds=1.0, ratio=ratio, verdict=verdict(ratio, floor)))
    measured = Report("model.py", "cpu", None, 1, 2, MACHINE, PROTOCOL, None, floor, rows).as_dict()
    tasks = ({"task": "a.py", "accepted": True, "reason": None, "report": measured},)
    summary = FolderReport("models", tasks).summary()
    found = {name: summary[name] for name in ("slower", "ambiguous")}
    assert found == {name: ["a.py"] * (name == listed) for name in found}
    text = folder_summary(summary, 1)
    assert f"for certain: {int(listed == 'ambiguous')}" in text
    assert f"slower than eager: {'a.py' if listed == 'slower' else 'none'}" in text


def test_summary_of_a_folder_counts_all_tasks() -> None:
    summary = folder_document(2.5)["summary"]
    assert summary["fast_p"] == {"1": 0.5, "1.5": 0.25, "2": 0.25}
    assert summary["geometric_mean"] == pytest.approx((2.5 * 1.2) ** 0.5)
    assert FolderReport("none", ()).summary()["geometric_mean"] is None


def test_csv_has_a_line_per_variant() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(report(2.0).as_dict()))))
    assert [row["name"] for row in rows] == ["eager", "new.py", "broken.py"]
    assert float(rows[1]["seconds"]) == 0.005
    assert rows[2]["seconds"] == "" and rows[2]["reason"] == "it <broke>"
    assert [row["measurement"] for row in csv.DictReader(io.StringIO(csv_text(folder_document())))][::2] == [
        "a.py",
        "b.py",
    ]


def test_sweep_goes_on_where_a_value_does_not_fit() -> None:
    def measure(value: str) -> Report:
        if value == "512":
            raise MemoryShortError("not enough memory on cpu")
        if value == "-1":
            raise ReferenceFileError("get_inputs() raises")
        return report(float(value))

    name, values = parse_sweep("batch_size=1,8,512,8")
    found = sweep("model.py", name, values, measure, lambda text: None)
    assert [(p.value, p.reason) for p in found.points] == [("1", ""), ("8", ""), ("512", "not enough memory on cpu")]
    later = sweep("model.py", name, ["8", "-1"], measure, lambda text: None)
    assert [p.reason for p in later.points] == ["", "get_inputs() raises"]
    with pytest.raises(ReferenceFileError):
        sweep("model.py", name, ["-1", "8"], measure, lambda text: None)
    document = found.as_dict()
    assert [label for label, _ in measurements(document)] == ["batch_size=1", "batch_size=8"]
    for text in ("batch_size", "=1,2", "batch size=1", "batch_size=,"):
        with pytest.raises(UsageError):
            parse_sweep(text)


def test_reading_back(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(report(2.0).json())
    assert read(path) == report(2.0).as_dict()
    path.write_text(json.dumps({"schema": "modelnew.optimize/1", "bench": report(3.0).as_dict()}))
    assert read(path)["variants"][1]["ratio"] == 3.0
    for text in ("{", "[]", '{"schema": "something/1"}', '{"schema": "modelnew.optimize/1"}'):
        path.write_text(text)
        with pytest.raises(BenchError):
            read(path)
    with pytest.raises(BenchError, match="cannot be read"):
        read(tmp_path / "missing.json")


def documents() -> list[dict[str, Any]]:
    swept = sweep("model.py", "batch_size", ["1", "8"], lambda value: report(float(value) + 1), lambda text: None)
    named = sweep("model.py", "kind", ["'a'", "'b'"], lambda value: report(2.0), lambda text: None)
    return [
        report(2.0).as_dict(),
        report(2.0, flops=10**9).as_dict(),
        swept.as_dict(),
        named.as_dict(),
        folder_document(),
    ]


@pytest.mark.parametrize("number", range(5))
def test_pages_stand_alone_and_their_text_follows_the_reader(number: int) -> None:
    pytest.importorskip("matplotlib")
    text = page(documents()[number], explanation="kernel <one>", sources={"new.py": "a < b && c"})
    assert "kernel &lt;one&gt;" in text and "a &lt; b &amp;&amp; c" in text
    assert "<script" not in text and "<link" not in text and 'src="' not in text
    assert "it <broke>" not in text
    assert "<svg" in text and "currentColor" in text
    assert "#010203" not in text and "#000000" not in text  # ink that would vanish on a dark background


def test_pictures_in_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = documents()[1]
    path = tmp_path / "picture.png"
    save_measurement(Measurement(document, [], True), plot=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert picture(document) == picture(document)
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        require_drawing(tmp_path / "picture.pdf")
