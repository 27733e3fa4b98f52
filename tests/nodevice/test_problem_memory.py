"""Free memory: the machine's, or that of the control group the process is in."""

import pytest
import torch

from modelnew import memory

GB = 10**9
MACHINE = {
    "/proc/meminfo": "MemTotal:       64000000 kB\nMemFree: 1 kB\nMemAvailable:   32000000 kB\nHugePages_Total: 0\n"
}
V2 = {
    **MACHINE,
    "/proc/self/cgroup": "0::/user/job\n",
    "/sys/fs/cgroup/user/job/memory.max": "max\n",
    "/sys/fs/cgroup/user/job/memory.current": "5\n",
    "/sys/fs/cgroup/user/memory.max": f"{8 * GB}\n",
    "/sys/fs/cgroup/user/memory.current": f"{6 * GB}\n",
    "/sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {GB}\n",
}
V1 = {
    **MACHINE,
    "/proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/job\n",
    "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{4 * GB}\n",
    "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GB}\n",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
    "/sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [(MACHINE, (32000000 * 1024, 64000000 * 1024)), (V2, (3 * GB, 8 * GB)), (V1, (3 * GB, 4 * GB))],
)
def test_the_tighter_of_machine_and_control_group(monkeypatch, files, expected):
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(str(path), "").splitlines())
    assert memory.free_memory(torch.device("cpu")) == expected


def test_this_machine_has_some():
    free, total = memory.free_memory(torch.device("cpu"))
    assert 10**7 < free <= total


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 KB"), (12.9e9, "12.9 GB"), (3e15, "3e+03 TB")]
)
def test_sizes_are_told_in_powers_of_1000(size, text):
    assert memory.readable(size) == text
