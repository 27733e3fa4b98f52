"""One task of a folder, timed in a process of its own: `python -m modelnew.bench.task REQUEST` prints the report."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from modelnew.bench.files import bench_file
from modelnew.bench.floor import Work
from modelnew.errors import EXIT_BAD_INPUT, ModelnewError
from modelnew.problem import Problem


def main(text: str) -> int:
    request = json.loads(text)
    try:
        with redirect_stdout(sys.stderr):
            problem = Problem.load(Path(request["path"]), request["overrides"])
            work = Work(**request["work"]) if request["work"] else None
            report = bench_file(problem, [Path(request["candidate"])], work=work, **request["options"])
    except ModelnewError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_BAD_INPUT
    print(json.dumps(report.as_dict(), allow_nan=False))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
