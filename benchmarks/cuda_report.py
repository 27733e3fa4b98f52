"""What `cuda.py` measured, as lines, a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.cases import COMPILE, EAGER
from benchmarks.cuda_cases import COPY
from modelnew.bench.plot import COLOURS, figure_bytes

Document = dict[str, Any]
OURS = "modelnew"


def seconds(value: float) -> str:
    return f"{value * 1e3:.3f} ms" if value >= 1e-4 else f"{value * 1e6:.1f} µs"


def line(row: Document) -> str:
    ratios = "  ".join(f"{name} {ratio:5.2f}×" for name, ratio in row["ratios"].items())
    bars = ", ".join(f"{bar:g}× {name}" for name, bar in row["bars"].items())
    return (
        f"{row['case']:56} {seconds(row['seconds'][OURS]):>10} {row['bytes_per_s'] / 1e9:5.0f} GB/s  {ratios}"
        f"   at least {bars}   {'met' if row['met'] else 'NOT MET'}"
    )


def markdown(document: Document) -> str:
    """The table of the README."""
    lines = [
        "| case | modelnew | GB/s | copy | eager | torch.compile | bar |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in document["rows"]:
        ratios = [f"{row['ratios'][name]:.2f}×" if name in row["ratios"] else "" for name in (COPY, EAGER, COMPILE)]
        bars = ", ".join(f"{name} {bar:g}×" for name, bar in row["bars"].items())
        rate = f"{row['bytes_per_s'] / 1e9:.0f}" if row["bytes_per_s"] > 1e10 else ""
        met = "" if row["met"] else "; not met"
        lines.append(
            f"| {row['case']} | {seconds(row['seconds'][OURS])} | {rate} | {' | '.join(ratios)} | {bars}{met} |"
        )
    return "\n".join(lines) + "\n"


def picture(document: Document, path: Path) -> None:
    """Speed of the optimised module and of torch.compile against eager, case by case."""

    def draw() -> Any:
        figure = Figure(figsize=(8, 1.2 + 0.32 * len(document["rows"])), layout="constrained")
        axes = figure.subplots()
        rows = document["rows"]
        for place, row in enumerate(rows):
            for name, marker, colour in ((COMPILE, "s", COLOURS[1]), (OURS, "o", COLOURS[0])):
                speed = row["seconds"][EAGER] / row["seconds"][name]
                axes.plot(speed, place, marker, color=colour, label=None if place else name)
        axes.axvline(1.0, color=COLOURS[-1], linestyle="--", linewidth=1.2)
        axes.set_yticks(range(len(rows)), [row["case"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        axes.minorticks_off()
        axes.set_xlabel("speed against eager, higher is better")
        axes.set_title(f"on {document['machine']['name']}", loc="left", fontsize="medium")
        axes.grid(visible=True, axis="y", alpha=0.25)
        axes.legend(frameon=False, fontsize="small", loc="lower right")
        return figure

    path.write_bytes(figure_bytes(draw, path.suffix))
