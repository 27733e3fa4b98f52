"""In the place of `modelnew.task`: copies the reference as the optimised file, refuses one, notes every build."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from modelnew.bench import bench_file, nursery, race
from modelnew.bench.fleet import ForkedNursery
from modelnew.problem import Problem


class Desk:
    def __init__(self) -> None:
        self._nursery = ForkedNursery().__enter__()

    def build(self, path: str, overrides: dict[str, str], output: str, **options: Any) -> dict[str, Any]:
        name = Path(path).name
        with (Path(output).parent / "log").open("a") as log:
            log.write(name + "\n")
        if name == "wrong.py":
            return {"accepted": False, "reason": "rejected: the last element differs"}
        if name == "silent.py":
            return {"accepted": True, "reason": None}
        if name == "leaves.py":
            os._exit(0)
        if name == "hangs.py":
            time.sleep(1000)
        Path(output).write_text(Path(path).read_text().replace("class Model", "class ModelNew"))
        return {"accepted": True, "reason": None}

    def time(self, path: str, overrides: dict[str, str], output: str, **options: Any) -> dict[str, Any]:
        race.PROCESSES["cpu"] = 2  # what is tested here is not how well it is timed
        problem = Problem.load(path, overrides)
        report = bench_file(problem, [Path(output)], nursery=self._nursery, **options)
        return {"accepted": True, "reason": None, "report": report.as_dict()}


if __name__ == "__main__":
    nursery.main(Desk)
