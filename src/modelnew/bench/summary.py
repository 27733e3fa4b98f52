"""From measured times to the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from modelnew.bench import machine, stats
from modelnew.bench.report import Report, Row
from modelnew.bench.schedule import Times

AGAIN = "the original again"  # the baseline's second entry, for the noise floor


def summarise(
    times: Times,
    names: Sequence[str],
    first_calls: Mapping[str, float],
    errors: Mapping[str, float],
    *,
    error_against: str,
    subject: str,
    device: str,
    dtype: str | None,
    seed: int,
    memory: Mapping[str, int] | None = None,
    protocol: Mapping[str, object] | None = None,
    level: float = stats.LEVEL,
) -> Report:
    """The report of what was measured; `names[0]` is the baseline. level: share of the intervals that may miss the truth."""
    baseline = names[0]
    noise = stats.estimate(times.log_ratios(AGAIN, baseline), level) if times.seconds(AGAIN) else None
    floor = stats.noise_floor(noise) if noise else stats.LEAST_CLAIM
    rows = []
    for name in names:
        if name in times.failed or not times.seconds(name):
            rows.append(Row(name, reason=times.failed.get(name, "was not timed")))
            continue
        ratio = stats.Ratio(1.0, 1.0, 1.0)
        if name != baseline:
            ratio = stats.estimate(times.log_ratios(name, baseline), level)
        rows.append(
            Row(
                name,
                seconds=statistics.median(times.seconds(name)),
                ratio=ratio,
                verdict=stats.verdict(ratio, floor) if name != baseline else "",
                seconds_reused=statistics.median(reused) if (reused := times.reused.get(name)) else None,
                seconds_replayed=statistics.median(replayed) if (replayed := times.replayed.get(name)) else None,
                error=errors.get(name),
                error_against=error_against if name in errors and name != error_against else "",
                first_call_s=first_calls.get(name),
                memory_bytes=(memory or {}).get(name),
                flags=times.flags(name),
            )
        )
    rounds = [len(block) for launch in times.launches for block in launch]
    counts = {"processes": len(times.launches), "blocks": len(rounds), "rounds": sum(rounds)}
    return Report(
        subject=subject,
        device=device,
        dtype=dtype,
        seed=seed,
        threads=torch.get_num_threads(),
        machine=machine.describe(device),
        protocol={**counts, **(protocol or {})},
        noise=noise,
        noise_floor=floor,
        variants=tuple(rows),
    )
