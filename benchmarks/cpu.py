"""Optimised modules against eager and torch.compile on this machine's CPU, fp32.

    python benchmarks/cpu.py [--only TEXT] [--budget SECONDS]

Every case runs in a process of its own, its variants interleaved; where memory limits a case, one of them only moves its
bytes: the floor. Prints a table with the bar of each case and writes results/cpu-MACHINE.json; with --only, the
rows of other cases stay as they were there. Exit code 1 when a bar is not met.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.cases import CASES, COMPILE, EAGER, Case
from benchmarks.cpu_floor import floor_of
from benchmarks.host import BUILD_BARS, OVERHEAD_BAR_S, build_seconds, overhead_seconds
from modelnew.bench import bench_modules, machine

HERE = Path(__file__).resolve().parent
OURS, FLOOR = "modelnew", "floor"


def measure(case: Case, budget_s: float) -> dict[str, Any]:
    """One case in this process: the document of its report."""
    from modelnew import optimize

    torch.manual_seed(0)
    model, inputs = case.model(), case.inputs()
    with torch.no_grad():
        fast = optimize(model, *inputs)
        floor = floor_of(fast(*inputs)) if case.moves_memory else None
    variants = {EAGER: model, COMPILE: torch.compile(model), OURS: fast}
    if floor is not None:
        variants[FLOOR] = floor
    document = bench_modules(variants, inputs, budget_s=budget_s).as_dict()
    return {**document, "floor": floor.fastest if floor else None}


def in_new_process(case: Case, budget_s: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", case.name, "--budget", str(budget_s)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name}: the process that measures it ended with code {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def row_of(case: Case, documents: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: medians over the case's processes."""
    seconds: dict[str, list[float]] = {}
    failed = {}
    for document in documents:
        for variant in document["variants"]:
            if variant["status"] == "timed":
                seconds.setdefault(variant["name"], []).append(variant["seconds"])
            else:
                failed[variant["name"]] = variant["reason"]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    floor_median = medians.pop(FLOOR, None)
    ours = medians.get(OURS)
    ratios = {
        base: statistics.median(b / o for b, o in zip(seconds[base], seconds[OURS], strict=True))
        for base in (EAGER, COMPILE)
        if ours and len(seconds.get(base, [])) == len(seconds[OURS])
    }
    met = ours is not None and all(base in failed or ratios.get(base, 0) >= bar for base, bar in case.bars.items())
    noise = max(document["noise"]["floor"] for document in documents)
    row = {
        "case": case.name,
        "processes": len(documents),
        "floor": documents[0]["floor"],
        "floor_median": floor_median,
        "seconds": medians,
        "ratios": ratios,
        "bars": dict(case.bars),
    }
    return {**row, "met": met, "noise": noise, "failed": failed}


HOST = "host"  # what --only takes for these


def host_rows() -> list[dict[str, Any]]:
    """Build time and host overhead: seconds that must stay below a limit."""
    cold, warm = build_seconds()
    overhead = overhead_seconds()
    limits = [
        ("first build of an example, cold cache", cold, BUILD_BARS[0]),
        ("first build of an example, warm cache", warm, BUILD_BARS[1]),
        ("host overhead of a module, tiny input", overhead, OVERHEAD_BAR_S),
    ]
    return [{"case": case, "value_s": value, "limit_s": limit, "met": value <= limit} for case, value, limit in limits]


def line(row: dict[str, Any]) -> str:
    met = "met" if row["met"] else "NOT MET"
    if "limit_s" in row:
        return f"{row['case']:56} {row['value_s'] * 1e3:11.3f} ms   at most {row['limit_s'] * 1e3:g} ms   {met}"
    shown = [f"{base} {row['ratios'].get(base, 0):5.2f}×" for base in (EAGER, COMPILE)]
    bars = ", ".join(f"{bar:g}× {base}" for base, bar in row["bars"].items())
    ours = row["seconds"].get(OURS)
    time = f"{ours * 1e3:11.3f} ms" if ours else "     failed   "
    above = f"{ours / row['floor']:5.2f} × floor" if ours and row["floor"] else " " * 13
    between = f"{ours / row['floor_median']:5.2f} × its median" if ours and row.get("floor_median") else " " * 18
    return f"{row['case']:56} {time}  {above}  {between}   {'  '.join(shown)}   at least {bars}   {met}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this; other rows of the result stay")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of timing per process")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        case = next(case for case in CASES if case.name == options.case)
        print(json.dumps(measure(case, options.budget)))
        return 0
    rows = []
    for case in CASES:
        if options.only in case.name:
            rows.append(row_of(case, [in_new_process(case, options.budget) for _ in range(case.processes)]))
            print(line(rows[-1]), flush=True)
    if options.only in HOST:
        for row in host_rows():
            rows.append(row)
            print(line(row))
    write(rows)
    return 0 if all(row["met"] for row in rows) else 1


def write(rows: list[dict[str, Any]]) -> None:
    """Into the machine's result, in the place of rows of the same name."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine.name().lower()).strip("-")
    path = HERE / "results" / f"cpu-{slug}.json"
    path.parent.mkdir(exist_ok=True)
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    found = {row["case"]: row for row in [*before, *rows]}
    order = [case.name for case in CASES]
    rows = [found[name] for name in order if name in found] + [row for row in found.values() if "limit_s" in row]
    path.write_text(
        json.dumps({"schema": "modelnew.cpu/1", "machine": machine.describe("cpu"), "rows": rows}, indent=2)
    )
    print(f"written: {path.relative_to(HERE.parent)}")


if __name__ == "__main__":
    sys.exit(main())
