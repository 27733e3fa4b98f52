"""One reference file of a folder, in a process of its own: `python -m modelnew.task [compile] FD` is where those come from.

It is built and checked while others are; later, when nothing else is at work, it says which kernels are kept, and times.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelnew.bench import bench_file, nursery
from modelnew.bench.fleet import ForkedNursery
from modelnew.delivery import OptimizeResult, deliver
from modelnew.drafts import Draft
from modelnew.errors import BuildError, MemoryShortError, ModelnewError
from modelnew.explain import work_of
from modelnew.outputs import write
from modelnew.progress import quiet

Message = dict[str, Any]


class Desk:
    """Answers the two requests of `bench.folder`."""

    def __init__(self) -> None:
        self._nursery = ForkedNursery().__enter__()  # before the reference file runs; it ends with this process
        self._draft: Draft | None = None

    def build(
        self, path: str, overrides: Mapping[str, str], output: str, device: str, dtype: str | None, beside: int
    ) -> Message:
        """Writes the optimised file and checks it: {accepted, reason, passing}; passing: it is the machine that is not ready.

        beside: how many are built at once. Each takes its share of the cores: threads that wait for one which another build
        has are most of the time otherwise. The kernels are checked on all of them.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // beside))
        try:
            self._draft = Draft(Path(path), overrides, device, dtype, quiet)
            finished = self._draft.finish(quiet, measure=False)
            result = deliver(finished, Path(output), device, dtype, check=True, bench=False, threads=threads)
        except ModelnewError as error:
            passing = isinstance(error, (BuildError, MemoryShortError))
            return {"accepted": False, "reason": _one_line(error), "passing": passing}
        finally:
            torch.set_num_threads(threads)
        return _verdict(result)

    def time(
        self,
        path: str,
        overrides: Mapping[str, str],
        output: str,
        device: str,
        dtype: str | None,
        baselines: Sequence[str],
        budget_s: float,
    ) -> Message:
        """Kernels against what they replace, then the file that is left against eager: {accepted, reason, report or None}.

        A file that a measurement has changed is checked again.
        """
        place, verdict = Path(output), {"accepted": True, "reason": None}
        try:
            draft = self._draft or Draft(Path(path), overrides, device, dtype, quiet)
            before = draft.finish(quiet, measure=False).program.text
            finished = draft.finish(quiet, measure=True)
            if finished.program.text != before:
                verdict = _verdict(deliver(finished, place, device, dtype, check=True, bench=False))
                if not verdict["accepted"]:
                    return {**verdict, "report": None}
            else:
                write(place, finished.text)
            options: Message = {"device": device, "dtype": dtype, "baselines": baselines, "budget_s": budget_s}
            work = work_of(finished.program)
            report = bench_file(finished.problem, [place], work=work, nursery=self._nursery, **options)
        except ModelnewError as error:
            return {**verdict, "reason": _one_line(error), "report": None}
        return {**verdict, "report": report.as_dict()}


def _verdict(result: OptimizeResult) -> Message:
    accepted = result.accepted is True
    return {"accepted": accepted, "reason": None if accepted else result.report["check"]["headline"]}


def _one_line(error: ModelnewError) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines())


if __name__ == "__main__":
    with contextlib.suppress(Exception):  # a part of PyTorch that every task would import by itself, and which moves
        importlib.import_module("torch.export._trace")
    nursery.main(Desk)
