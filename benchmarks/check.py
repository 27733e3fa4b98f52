"""How long `modelnew check` takes for every example at a small size, from the command to its end.

    python benchmarks/check.py [EXAMPLE...]

Each is optimised and checked once, which builds its kernels, and then checked again, which is what counts: less than ten
seconds on two cores. Writes results/check-MACHINE.json; with names, the other examples stay as they were there. Exit code
1 when one takes longer or is not accepted.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this folder: its cuda.py is not the package of that name, which PyTorch imports
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modelnew.bench import machine
from tests.examples import FOLDER, SMALL, write

HERE = Path(__file__).resolve().parent
LIMIT_S = 10.0
SCHEMA = "modelnew.checks/1"


def checked(example: str, path: Path) -> tuple[float, dict[str, Any]]:
    """Seconds that the command took, and its document."""
    sets = [f"--set={name}={value}" for name, value in SMALL[example].items()]
    command = [
        sys.executable,
        "-m",
        "modelnew",
        "check",
        str(FOLDER / f"{example}.py"),
        str(path),
        "--json",
        "--seed=1",
    ]
    started = time.monotonic()
    done = subprocess.run([*command, *sets], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return time.monotonic() - started, json.loads(done.stdout)


def measure(example: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = write(example, Path(folder))
        checked(example, path)
        load = os.getloadavg()[0]
        took, document = checked(example, path)
    report = document["reports"][0] if "reports" in document else document
    met = took < LIMIT_S and report["accepted"] is True
    found = {"sizes": SMALL[example], "took_s": round(took, 2), "load": load, "cases": len(report["cases"])}
    return {**found, "headline": report["headline"], "met": met}


def main() -> int:
    about = machine.describe("cpu")
    place = HERE / "results" / f"check-{re.sub(r'[^a-z0-9]+', '-', str(about['name']).lower()).strip('-')}.json"
    before = json.loads(place.read_text())["examples"] if place.exists() and sys.argv[1:] else {}
    found = {example: measure(example) for example in sys.argv[1:] or SMALL}
    document = {"schema": SCHEMA, "machine": about, "limit_s": LIMIT_S, "examples": before | found}
    for example, row in found.items():
        print(
            f"{example:24} {row['took_s']:6.2f} s  {row['cases']} cases  {'' if row['met'] else 'NOT MET'}  {row['headline']}"
        )
    place.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if all(row["met"] for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
