"""The clock of a GPU: a cold cache, other streams, kept answers, graphs, what the card says of its clocks."""

import time

import pytest
import torch

from modelnew.bench import bench_file
from modelnew.bench.clock import CudaClock, captured
from modelnew.bench.clocks import gpu_state
from modelnew.bench.machine import measure
from modelnew.problem import Problem

MODEL = """
import torch
class {name}(torch.nn.Module):
    kept = {{}}
    def forward(self, x):
        {forward}
def get_inputs():
    return [torch.rand(2048, 1024)]
def get_init_inputs():
    return []
"""
HONEST = "return torch.sigmoid(x) * 2"
KEEPS = "return self.kept.setdefault((x.data_ptr(), x._version), torch.sigmoid(x) * 2)"
THRICE = "return torch.sigmoid(x) * 2 + 0 * torch.sigmoid(x) + 0 * torch.sigmoid(x)"


@pytest.fixture(scope="module")
def clock():
    return CudaClock(torch.device("cuda"))


def middle(clock, call, calls=20):
    return sorted(clock.sample(call, 1).seconds for _ in range(calls))[calls // 2]


def test_the_cache_is_cold_before_each_call(clock):
    x = torch.rand(1 << 22, device="cuda")  # 16 MiB, which stays in the L2 cache of any GPU that has one so large
    for _ in range(20):
        x.sum()
    torch.cuda.synchronize()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(50):
        x.sum()
    stop.record()
    torch.cuda.synchronize()
    warm = start.elapsed_time(stop) * 1e-3 / 50
    cold = middle(clock, lambda: x.sum())
    assert cold > x.nbytes / 5e12  # it comes from memory: faster than that is the cache
    assert cold > 1.1 * warm


def test_lines_that_a_call_asks_to_keep_are_released(clock):
    assert clock._release_l2() == 0  # the runtime's own function, and it succeeds


def test_work_on_another_stream_counts(clock):
    side = torch.cuda.Stream()
    x = torch.rand(1 << 26, device="cuda")

    def elsewhere():
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(20):
                torch.sigmoid(x)

    def here():
        for _ in range(20):
            torch.sigmoid(x)

    hidden, open_ = clock.sample(elsewhere, 3), clock.sample(here, 3)
    assert hidden.off_stream and not open_.off_stream
    assert hidden.seconds > 0.8 * open_.seconds


def test_time_on_the_host_counts(clock):
    x = torch.rand(8, device="cuda")
    sample = clock.sample(lambda: (time.sleep(0.002), x + 1), 3)
    assert sample.seconds >= 0.002


def test_a_graph_leaves_out_what_launching_costs(clock):
    x = torch.rand(1024, device="cuda")

    def call():
        y = x
        for _ in range(10):
            y = torch.sigmoid(y)
        return y

    assert middle(clock, captured(call, torch.device("cuda"))) < 0.8 * middle(clock, call)


def test_the_card_is_asked_and_left_alone():
    state = gpu_state("cuda")
    assert state is not None and state["sm_mhz"] > 100 and state["throttle"] >= 0


def test_the_measured_rates_are_this_cards():
    rates = measure("cuda", ["float32", "bfloat16"], 1 << 40)
    assert rates.bytes_per_s > 1e11
    assert rates.flops_per_s["bfloat16"] > rates.flops_per_s["float32"] > 1e12


def test_kept_answers_and_more_work_are_seen(tmp_path):
    for name, forward in (("reference", HONEST), ("honest", HONEST), ("keeps", KEEPS), ("thrice", THRICE)):
        kind = "Model" if name == "reference" else "ModelNew"
        (tmp_path / f"{name}.py").write_text(MODEL.format(name=kind, forward=forward))
    files = [tmp_path / f"{name}.py" for name in ("honest", "keeps", "thrice")]
    report = bench_file(
        Problem.load(tmp_path / "reference.py"), files, device="cuda", baselines=(), budget_s=3.0, seed=1
    )
    honest, keeps, thrice = (report.row(file.name) for file in files)
    assert honest.verdict in ("same", "ambiguous")
    assert "did not answer to the inputs" in keeps.reason
    assert thrice.verdict == "slower" and thrice.ratio.value < 0.8
    assert report.protocol["processes"] >= 2 and len(report.protocol["gpu_clocks"]) >= 3


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q"]))
