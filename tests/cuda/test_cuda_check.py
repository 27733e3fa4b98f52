"""What `check` and `bench` see on a GPU alone: streams, graphs, tensors that only slices of fit."""

import pytest
import torch

from modelnew.bench import bench_file
from modelnew.check import check_files
from modelnew.problem import Problem

MODEL = """
import torch
rows, columns = {rows}, 1024
class {name}(torch.nn.Module):
    def forward(self, x):
{forward}
def get_inputs():
    return [torch.rand(rows, columns)]
def get_init_inputs():
    return []
"""

HONEST = "return torch.sigmoid(x) * 2"
OWN_STREAMS = """
here, side = torch.cuda.current_stream(), torch.cuda.Stream()
side.wait_stream(here)
with torch.cuda.stream(side):
    y = torch.sigmoid(x) * 2
y.record_stream(here)
here.wait_stream(side)
return y
"""
DOES_NOT_WAIT = """
side = torch.cuda.Stream()
y = torch.empty_like(x)
with torch.cuda.stream(side):
    torch.mul(torch.sigmoid(x), 2, out=y)
torch.cuda.current_stream().wait_stream(side)
return y
"""
IS_NOT_WAITED_FOR = """
side = torch.cuda.Stream()
y = torch.empty_like(x)
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(400):
        torch.mul(torch.sigmoid(x), 2, out=y)
    y.copy_(torch.sigmoid(x) * 2)
x.record_stream(side)
y.record_stream(side)
return y
"""


def write(folder, name, forward, rows=4096):
    body = "".join(f"        {line}\n" for line in forward.strip().splitlines())
    path = folder / f"{name}.py"
    path.write_text(MODEL.format(name="Model" if name == "reference" else "ModelNew", forward=body, rows=rows))
    return path


def judged(folder, *files, rows=4096):
    problem = Problem.load(write(folder, "reference", HONEST, rows))
    return check_files(problem, [write(folder, name, text, rows) for name, text in files], device="cuda", seed=1)


def test_work_follows_the_callers_stream(tmp_path):
    files = [("honest", HONEST), ("streams", OWN_STREAMS), ("early", DOES_NOT_WAIT), ("late", IS_NOT_WAITED_FOR)]
    honest, streams, early, late = judged(tmp_path, *files)
    assert honest.accepted is True, honest.headline
    assert streams.accepted is True, streams.headline
    for report in (early, late):
        assert report.accepted is False, report.headline
        assert "late inputs, own stream" in {case.name for case in report.cases if case.outcome == "rejected"}


def test_the_files_own_sizes_are_judged_in_slices(tmp_path):
    wrong = HONEST.replace("return", "y =") + "\ny[-1:] *= 1 + (x.shape[0] > 2**21) * 0.001\nreturn y"
    right, wrong = judged(
        tmp_path, ("honest", HONEST), ("end", wrong), rows=2**21 + 5
    )  # 8.6 GB, more than 2^31 elements
    assert right.accepted is True, right.headline
    assert "one at the file's own sizes, in slices of the batch" in right.notes, right.notes
    assert wrong.headline.startswith(f"rejected: wrong for whole sizes (row {2**21 + 4}, "), wrong.headline


def test_short_calls_are_also_timed_as_a_graph(tmp_path):
    problem = Problem.load(write(tmp_path, "reference", HONEST, 64))
    files = [write(tmp_path, "honest", HONEST, 64), write(tmp_path, "late", IS_NOT_WAITED_FOR, 64)]
    report = bench_file(problem, files, device="cuda", baselines=(), budget_s=2.0, seed=1)
    eager, honest, late = (report.row(name) for name in ("eager", "honest.py", "late.py"))
    for row in (eager, honest):
        assert row.seconds_replayed is not None and 0 < row.seconds_replayed <= 1.5 * row.seconds
    assert late.failed or late.seconds > 10 * eager.seconds  # 400 kernels that the caller's stream does not see
    assert {"sm_mhz", "throttle"} <= report.protocol["gpu_clocks"][0].keys()


def test_inputs_are_drawn_on_the_device(tmp_path, monkeypatch):
    from modelnew.fakes import made_on

    problem = Problem.load(write(tmp_path, "reference", HONEST, 64))
    (x,) = made_on("cuda", problem.module.get_inputs)
    assert x.is_cuda
    stubborn = made_on("cuda", lambda: torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert not stubborn.is_cuda  # a CPU generator cannot draw there: as the file does it


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
