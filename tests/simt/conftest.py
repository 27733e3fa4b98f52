from collections.abc import Callable, Iterator

import pytest

from tests.simt import programs
from tests.simt.harness import Program


@pytest.fixture(scope="session")
def program() -> Iterator[Callable[[str], Program]]:
    """Gives the running program of a name in programs.BUILDS."""
    running: dict[str, Program] = {}

    def get(name: str) -> Program:
        if name not in running:
            programs.wait_for(name)
            running[name] = Program(*programs.defined(name))
        return running[name]

    yield get
    for each in running.values():
        each.close()
