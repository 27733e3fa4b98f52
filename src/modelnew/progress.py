"""What a long job says of itself while it runs."""

from collections.abc import Callable

Progress = Callable[[str], None]


def quiet(text: str) -> None:
    """Progress that nobody watches."""
