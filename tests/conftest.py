"""The order of tests: with several workers, each begins with some of the longest, so that none is left alone with them."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST = [
    HERE / name
    for name in (
        "nodevice/test_cuda_compiles.py",
        "cpu/cheats/test_conduct.py",
        "simt/test_simt_rows.py",
        "simt/test_simt_examples.py",
        "cpu/device/test_rows.py",
        "cpu/test_random_graphs.py",
        "simt/test_simt_faults.py",
        "simt/test_simt_pointwise.py",
        "cpu/cheats/test_hostile.py",
        "cpu/test_rows.py",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`--dist worksteal` gives each worker as many tests, in their order."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers == 1:
        return
    files = [[item for item in items if item.path == path] for path in LONGEST]
    others = iter([item for item in items if item.path not in LONGEST])
    share = -(-len(items) // workers)
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        ordered += [item for tests in files[worker::workers] for item in tests]
        ordered += [item for _, item in zip(range((worker + 1) * share - len(ordered)), others, strict=False)]
    items[:] = [*ordered, *others]
