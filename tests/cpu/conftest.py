"""Which tests build with less optimisation: those that look at modules and files, not at what the vectoriser makes of a kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = "module calls kept operators branches contiguous random_graphs".split()
QUICK = [*(HERE / f"test_{name}.py" for name in MODULES), HERE / "check", HERE / "cheats"]
QUICK_COMPILER = HERE / "quick-g++"


@pytest.fixture(autouse=True, scope="module")
def compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """CXX for this module and the processes that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        if any(request.path.is_relative_to(place) for place in QUICK):
            patch.setenv("CXX", str(QUICK_COMPILER))
        yield
