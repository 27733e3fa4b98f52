"""The time that the hardware cannot beat: every byte moved once, every product computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelnew.bench.machine import Rates


@dataclass(frozen=True)
class Work:
    """What a model has to do: bytes of inputs and parameters read once, of outputs written once, and the
    floating-point operations of its products (2·m·n·k) by dtype name, such as "float32"."""

    bytes_read: int
    bytes_written: int
    flops: Mapping[str, int] = field(default_factory=dict)

    @property
    def bytes_moved(self) -> int:
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Floor:
    """seconds = max(memory_s, products_s): transfers and products can overlap, so they are not added."""

    work: Work
    rates: Rates
    memory_s: float
    products_s: float

    @property
    def seconds(self) -> float:
        return max(self.memory_s, self.products_s)

    @property
    def bound(self) -> str:
        """memory | products"""
        return "memory" if self.memory_s >= self.products_s else "products"

    def as_dict(self) -> dict[str, object]:
        """seconds, memory_s, products_s, bound, bytes_read, bytes_written, flops {dtype: count}, and the rates they
        were divided by."""
        return {
            "seconds": self.seconds,
            "memory_s": self.memory_s,
            "products_s": self.products_s,
            "bound": self.bound,
            "bytes_read": self.work.bytes_read,
            "bytes_written": self.work.bytes_written,
            "flops": dict(self.work.flops),
            "rates": self.rates.as_dict(),
        }


def floor(work: Work, rates: Rates) -> Floor:
    """The floor of some work at measured (or published) rates. Raises KeyError for a dtype whose matrix rate is not
    among them."""
    products = sum(count / rates.flops_per_s[dtype] for dtype, count in work.flops.items() if count)
    return Floor(work, rates, work.bytes_moved / rates.bytes_per_s, products)
