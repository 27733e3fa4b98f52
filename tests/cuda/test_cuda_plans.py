"""Every plan, as tests/simt executes it thread by thread, on a GPU: the same launches, the same judgement.

With MODELNEW_SANITIZER=memcheck (racecheck, synccheck, initcheck) in the environment, under that tool of
compute-sanitizer.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.cuda.harness import GpuProgram, build
from tests.simt import programs, test_simt_pointwise, test_simt_rows
from tests.simt.test_simt_pointwise import *  # noqa: F403
from tests.simt.test_simt_rows import *  # noqa: F403


@pytest.fixture(scope="module")
def program() -> Iterator[Callable[[str], GpuProgram]]:
    running: dict[str, GpuProgram] = {}

    def get(name: str) -> GpuProgram:
        if name not in running:
            programs.wait_for(name, build)
            running[name] = GpuProgram(*programs.defined(name))
        return running[name]

    yield get
    for each in running.values():
        each.close()


def test_nothing_is_left_out() -> None:
    """The star imports above bring every test, and no two of one name."""
    for module in (test_simt_pointwise, test_simt_rows):
        for name in dir(module):
            if name.startswith("test_"):
                assert globals()[name] is getattr(module, name)
