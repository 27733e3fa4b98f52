"""The JSON documents of measurements: read back, told apart, flattened.

"modelnew.bench/1"         one measurement: `report.Report.as_dict`
"modelnew.bench-sweep/1"   {schema, subject, name, points: [{value, report | null, reason | null}]}:
`sweep.Sweep.as_dict` "modelnew.bench-folder/1"  {schema, folder, tasks: [{task, accepted, reason, report | null}],
summary}: `folder.FolderReport.as_dict`
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelnew.errors import BenchError

Document = dict[str, Any]

BENCH, SWEEP, FOLDER = "modelnew.bench/1", "modelnew.bench-sweep/1", "modelnew.bench-folder/1"
_COLUMNS = (
    *("name", "status", "seconds", "ratio", "low", "high", "verdict", "over_floor", "seconds_reused"),
    *("seconds_replayed", "error", "error_against", "first_call_s", "memory_bytes", "reason"),
)


def read(path: Path) -> Document:
    """A document of one of the kinds above; the report that `optimize` writes is read for its timing. Raises
    BenchError."""
    doing = "reading a measurement"
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"cannot be read: {error.strerror}", doing=doing, on=str(path)) from None
    except ValueError as error:
        raise BenchError(f"this is not JSON: {error}", doing=doing, on=str(path)) from None
    if isinstance(document, dict) and document.get("schema") == "modelnew.optimize/1":
        document = document.get("bench")
    if not isinstance(document, dict) or document.get("schema") not in (BENCH, SWEEP, FOLDER):
        raise BenchError(
            "this is no measurement of this version of modelnew",
            doing=doing,
            on=str(path),
            hint="Make one with `modelnew bench FILE --json`.",
        )
    return document


def measurements(document: Document) -> Iterator[tuple[str, Document]]:
    """(label, "modelnew.bench/1" document) of everything that was measured; the label of a single measurement is
    empty."""
    for label, report, _ in parts(document):
        if report:
            yield label, report


def parts(document: Document) -> Iterator[tuple[str, Document | None, str]]:
    """The same of everything that was to be measured; without a document where it was not, and why."""
    if document["schema"] == BENCH:
        yield "", document, ""
        return
    for part in document["tasks"] if document["schema"] == FOLDER else document["points"]:
        label = part["task"] if document["schema"] == FOLDER else f"{document['name']}={part['value']}"
        yield label, part["report"], part["reason"] or ""


def csv_text(document: Document) -> str:
    """One line per variant: the label, then the row's figures; seconds and bytes as plain numbers, missing ones
    empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("measurement", *_COLUMNS))
    for label, report in measurements(document):
        for variant in report["variants"]:
            writer.writerow((label or report["subject"], *("" if variant[c] is None else variant[c] for c in _COLUMNS)))
    return out.getvalue()
