"""What `modelnew bench` can tell apart on this machine: a copy of the original, and one that does 5 % more work.

    python benchmarks/bars.py [--runs 20] [--budget SECONDS] [--seed N] [--more]
    python benchmarks/bars.py --folder

Each run is a whole `bench` of two files against the reference, on one thread: one with the same forward, which must not
be called faster or slower in 19 of 20 runs, and one that does about a twentieth of its work twice, which must be called
slower in 19 of 20. `--more` adds to the runs that there are. `--folder` times `modelnew bench examples` at small sizes, from
an empty cache of kernels: less than three minutes. Both write results/bars-MACHINE.json. Exit code 1 when a bar is not met.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from modelnew.api import LOOKS
from modelnew.bench import bench_file, machine
from modelnew.problem import Problem

HERE = Path(__file__).resolve().parent
INDISTINGUISHABLE, TOLD_APART = 0.95, 0.95  # shares of the runs
FOLDER_S = 180.0
SCHEMA = "modelnew.bars/3"
SMALL = {
    "batch_size": 16,
    "features": 65536,
    "in_features": 1024,
    "out_features": 1024,
    "tokens": 512,
    "vocabulary": 8192,
    "width": 256,
    "height": 32,
    "hidden": 512,
    "in_channels": 16,
    "out_channels": 16,
}
MODEL = """
import torch

class {name}(torch.nn.Module):
    def forward(self, x):
        {first}
        return torch.erf(x)

def get_inputs():
    return [torch.rand(512, 1000)]

def get_init_inputs():
    return []
"""


def run(folder: Path, budget_s: float, seed: int) -> dict[str, Any]:
    """One bench; the two files' rows and what it says of the noise."""
    for file, name, first in (
        ("reference.py", "Model", "pass"),
        ("copy.py", "ModelNew", "pass"),
        ("more_work.py", "ModelNew", "torch.erf(x[:18])  # 3.5 % of the rows, and what a call costs"),
    ):
        (folder / file).write_text(MODEL.format(name=name, first=first))
    files = [folder / "copy.py", folder / "more_work.py"]
    load, started = os.getloadavg()[0], time.monotonic()
    report = bench_file(
        Problem.load(folder / "reference.py"), files, baselines=(), budget_s=budget_s, seed=seed, looks=LOOKS
    )
    found: dict[str, Any] = {
        "seed": seed,
        "load": load,
        "noise": report.noise_floor,
        "processes": report.protocol["processes"],
    }
    for file in files:
        row = report.row(file.name)
        if row.ratio is None:
            raise SystemExit(f"{file.name} could not be timed: {row.reason}")
        ratio = row.ratio
        found[file.stem] = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": row.verdict}
    return {**found, "took_s": round(time.monotonic() - started, 1)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    same = sum(found["copy"]["verdict"] in ("same", "ambiguous") for found in runs)
    slower = sum(found["more_work"]["verdict"] == "slower" for found in runs)
    return {
        "runs": len(runs),
        "copy_not_told_apart": same,
        "more_work_told_apart": slower,
        "met": same >= INDISTINGUISHABLE * len(runs) and slower >= TOLD_APART * len(runs),
        "copy_ratio": statistics.median(found["copy"]["ratio"] for found in runs),
        "more_work_ratio": statistics.median(found["more_work"]["ratio"] for found in runs),
    }


def folder() -> dict[str, Any]:
    """How long the whole folder of examples takes, and what came of it."""
    with tempfile.TemporaryDirectory() as place:
        sets = [f"--set={name}={value}" for name, value in SMALL.items()]
        options = [*sets, "--budget=2", f"--results={place}/results", f"--html={place}/page.html", "--json"]
        command = [sys.executable, "-m", "modelnew", "bench", str(HERE.parent / "examples"), *options]
        load, started = os.getloadavg()[0], time.monotonic()
        environment = {**os.environ, "MODELNEW_CACHE_DIR": f"{place}/cache"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        took = time.monotonic() - started
        tasks = json.loads(done.stdout)["tasks"]
        timed = sum(bool(task["report"]) for task in tasks)
        page = (Path(place) / "page.html").exists()
    met = took < FOLDER_S and timed == len(tasks) and page
    return {"took_s": round(took, 1), "load": load, "tasks": len(tasks), "timed": timed, "page": page, "met": met}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--more", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the first run")
    parser.add_argument("--folder", action="store_true")
    options = parser.parse_args()
    about = machine.describe("cpu")
    name = re.sub(r"[^a-z0-9]+", "-", str(about["name"]).lower()).strip("-")
    place = HERE / "results" / f"bars-{name}.json"
    before = json.loads(place.read_text()) if place.exists() else {}
    if options.folder:
        found = {"folder": folder()}
        print(json.dumps(found, indent=1))
        place.write_text(json.dumps({**before, **found}, indent=1) + "\n")
        return 0 if found["folder"]["met"] else 1
    torch.set_num_threads(1)
    same = (before.get("schema"), before.get("budget_s")) == (SCHEMA, options.budget)
    runs = before["each"] if options.more and same else []
    document: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seed, options.seed + options.runs):
            runs.append(run(Path(scratch), options.budget, seed))
            print(json.dumps(runs[-1]), flush=True)
            document = {"schema": SCHEMA, "machine": {**about, "threads": 1}, "budget_s": options.budget}
            document |= {**summary(runs), "folder": before.get("folder"), "each": runs}
            place.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(summary(runs), indent=1))
    return 0 if document["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
