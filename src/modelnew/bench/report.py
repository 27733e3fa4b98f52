"""The result of a measurement: rows for people, a versioned document for machines.

The document (`Report.as_dict`), schema "modelnew.bench/1"; times in seconds, sizes in bytes, missing values null:

    schema, subject, device, dtype, seed, threads     what was measured, and how
    machine    {name, torch, python, …}               see `machine.describe`
    protocol   {processes, blocks, rounds, …}         how often; from `bench_file` also: outputs, looks, isolation,
               outputs_checked_while_timed, load_before (processes that wanted a core), gpu_clocks (`clocks.gpu_state`)
    noise      {ratio, low, high, floor}              the original against itself; nothing below `floor` is claimed
    floor      {seconds, bytes_read, …} or null       see `floor.Floor.as_dict`
    variants   [{name, status: "timed" | "failed", reason, seconds, ratio, low, high, verdict, over_floor, impossible,
               seconds_reused, seconds_replayed, error, error_against, first_call_s, memory_bytes, flags, note}]

`ratio` is baseline seconds / variant seconds (above 1: faster); the baseline is the first variant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelnew.bench.floor import Floor
from modelnew.bench.stats import Ratio

SCHEMA = "modelnew.bench/1"
# of the floor: a time below this is a fault of the measurement or of the candidate, not a success
IMPOSSIBLE_SHARE = 0.9
_FRESH = 32 << 20  # results of more bytes come in new pages (`allocator`): what those cost is said


@dataclass(frozen=True)
class Row:
    """One variant. `reason` is set when it failed; then the figures are None.

    seconds: median of one call. seconds_reused: the same with output memory that is already mapped (CPU only).
    seconds_replayed: of the call as a captured graph (CUDA, short calls only).
    first_call_s: the first call in a new process: building or compiling, then running. memory_bytes: most that one call
        takes beyond what is in use before it, its result included.
    error: rms error of sampled outputs over their rms, against `error_against`: "float64", or the baseline's name.
    """

    name: str
    reason: str = ""
    seconds: float | None = None
    ratio: Ratio | None = None
    verdict: str = ""
    over_floor: float | None = None
    seconds_reused: float | None = None
    seconds_replayed: float | None = None
    error: float | None = None
    error_against: str = ""
    first_call_s: float | None = None
    memory_bytes: int | None = None
    flags: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return bool(self.reason)

    @property
    def impossible(self) -> bool:
        return self.over_floor is not None and self.over_floor < IMPOSSIBLE_SHARE

    @property
    def note(self) -> str:
        """What a reader must know beside the figures, one line."""
        if self.failed:
            return self.reason
        notes = ["faster than the hardware allows: not believed"] if self.impossible else []
        if self.seconds_reused is not None and (self.memory_bytes or 0) > _FRESH:
            notes.append(f"{1e3 * self.seconds_reused:.3g} ms where results come in memory that is mapped already")
        if self.seconds_replayed is not None:
            notes.append(f"{1e6 * self.seconds_replayed:.3g} µs as a captured graph")
        return "; ".join([*self.flags, *notes])

    def as_dict(self) -> dict[str, object]:
        ratio = self.ratio
        return {
            "name": self.name,
            "status": "failed" if self.failed else "timed",
            "reason": self.reason or None,
            "seconds": self.seconds,
            "ratio": ratio and ratio.value,
            "low": ratio and ratio.low,
            "high": ratio and _finite(ratio.high),
            "verdict": self.verdict or None,
            "over_floor": self.over_floor,
            "impossible": self.impossible,
            "seconds_reused": self.seconds_reused,
            "seconds_replayed": self.seconds_replayed,
            "error": _finite(self.error) if self.error is not None else None,
            "error_against": self.error_against or None,
            "first_call_s": self.first_call_s,
            "memory_bytes": self.memory_bytes,
            "flags": list(self.flags),
            "note": self.note or None,
        }


@dataclass(frozen=True)
class Report:
    """What `bench_modules` and `bench_file` return."""

    subject: str
    device: str
    dtype: str | None
    seed: int
    threads: int
    machine: Mapping[str, object]
    protocol: Mapping[str, object]
    noise: Ratio | None
    noise_floor: float
    variants: tuple[Row, ...]
    floor: Floor | None = None
    baselines: tuple[str, ...] = ()  # names of the variants that nobody has to answer for

    def rows(self) -> tuple[Row, ...]:
        """One row per variant, baseline first."""
        return self.variants

    def row(self, name: str) -> Row:
        """The row of one variant. Raises KeyError."""
        for row in self.variants:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def believed(self) -> bool:
        """Whether every optimised file was timed, and none is faster than the hardware allows."""
        return not any(row.impossible or (row.failed and row.name not in self.baselines) for row in self.variants)

    @property
    def caveats(self) -> list[str]:
        """What makes the times less certain, in words."""
        return caveats(self.protocol)

    def with_floor(self, floor: Floor) -> Report:
        """The same report, every time also as a multiple of the floor."""
        rows = (r if r.seconds is None else replace(r, over_floor=r.seconds / floor.seconds) for r in self.variants)
        return replace(self, floor=floor, variants=tuple(rows))

    def as_dict(self) -> dict[str, object]:
        """The document described at the top of this module; JSON-serialisable."""
        noise = self.noise and {"ratio": self.noise.value, "low": self.noise.low, "high": _finite(self.noise.high)}
        return {
            "schema": SCHEMA,
            "subject": self.subject,
            "device": self.device,
            "dtype": self.dtype,
            "seed": self.seed,
            "threads": self.threads,
            "machine": dict(self.machine),
            "protocol": dict(self.protocol),
            "noise": {**(noise or {"ratio": None, "low": None, "high": None}), "floor": self.noise_floor},
            "floor": self.floor.as_dict() if self.floor else None,
            "variants": [row.as_dict() for row in self.variants],
        }

    def json(self) -> str:
        return json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n"


def caveats(protocol: Mapping[str, Any]) -> list[str]:
    """What makes the times of one measurement less certain, in words."""
    found = []
    if protocol.get("isolation", "").startswith("one process"):
        found.append("all variants in one process: there is not enough memory for more")
    elif protocol.get("processes") == 1 and "isolation" in protocol:
        found.append("one set of processes: what memory layout does to the times is not in the intervals")
    if protocol.get("outputs_checked_while_timed") is False:
        found.append("outputs were not compared while they were timed: they are random, or do not depend on the inputs")
    clocks = protocol.get("gpu_clocks") or []
    held = sum(bool(state["throttle"]) for state in clocks)
    if held:
        found.append(f"the GPU's clocks were held down (power, heat) in {held} of {len(clocks)} blocks")
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) and value < 1e300 else None
