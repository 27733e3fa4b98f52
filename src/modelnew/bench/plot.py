"""Pictures of measurements, readable on light and dark backgrounds.

In SVG, text and axes take the colour of the text around the picture, or of the reader's colour scheme where it stands
alone, on no background. PNG has a white one. Needs matplotlib (the extra `plot`).
"""

from __future__ import annotations

import importlib
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from modelnew.bench.documents import FOLDER, SWEEP, Document, measurements
from modelnew.errors import UsageError

Axes = Any  # matplotlib is not always there

# Okabe and Ito's colours that keep at least 3 : 1 against white and against near-black
COLOURS = ("#0080c0", "#d55e00", "#009e73", "#b06090", "#8a7f00", "#7a7a7a")
_MARKERS = "osD^vP"
_INK = "#010203"  # replaced by currentColor in SVG
_STYLE = (  # color-scheme: alone in a window it stands on what the reader's scheme makes of an empty page
    "<style>svg{color-scheme:light dark;color:#1f2328}@media (prefers-color-scheme: dark){svg{color:#e6edf3}}</style>"
)
FORMATS = (".svg", ".png")
_LONGEST_NAME = 30


def picture(document: Document, suffix: str = ".svg") -> bytes:
    """The picture: bars and, where the floor is known, a roofline; curves for a sweep; speed-ups for a folder."""
    return figure_bytes(lambda: _figure(document), suffix)


def figure_bytes(figure: Callable[[], Any], suffix: str) -> bytes:
    """What `figure()` draws, in the style of all our pictures."""
    matplotlib = _matplotlib("matplotlib")
    ink = _INK if suffix == ".svg" else "#1f2328"
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[str, object] = dict.fromkeys(names, ink) | {
        "svg.fonttype": "none",
        "svg.hashsalt": "modelnew",
        "font.family": ["DejaVu Sans", "sans-serif"],
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with matplotlib.rc_context(settings):
        out = io.BytesIO()
        options: dict[str, Any] = {"metadata": {"Date": None}} if suffix == ".svg" else {"dpi": 160}
        figure().savefig(out, format=suffix[1:], transparent=suffix == ".svg", bbox_inches="tight", **options)
    data = out.getvalue()
    if suffix == ".svg":
        text = data.decode().replace(_INK, "currentColor")
        head, tag, rest = text.partition("<defs>")
        data = (head + _STYLE + tag + rest).encode()
    return data


def require_drawing(path: Path | None) -> None:
    """Raises UsageError where no picture can be drawn to `path`, or into a page (None): better before an hour of timing
    than after it."""
    if path is not None and path.suffix not in FORMATS:
        raise UsageError(f"pictures are written as {' or '.join(FORMATS)}", doing="drawing", on=str(path))
    _matplotlib("matplotlib")


def _matplotlib(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        hint = "Install it: pip install 'modelnew[plot]'"
        raise UsageError("drawing needs matplotlib", doing="drawing", hint=hint) from None


def _figure(document: Document) -> Any:
    new_figure = _matplotlib("matplotlib.figure").Figure
    if document["schema"] == SWEEP:
        figure = new_figure(figsize=(7, 4.2), layout="constrained")
        _curves(figure.subplots(), document)
    elif document["schema"] == FOLDER:
        figure = new_figure(figsize=(7, 1.2 + 0.45 * max(1, len(document["tasks"]))), layout="constrained")
        _speedups(figure.subplots(), document)
    else:
        heights = [0.5 + 0.42 * len(document["variants"])]
        products = document["floor"] and any(document["floor"]["flops"].values())
        if document["floor"]:
            heights.append(3.6 if products else heights[0])
        figure = new_figure(figsize=(7, sum(heights) + 0.6 * len(heights)), layout="constrained")
        figure.get_layout_engine().set(hspace=0.06, h_pad=0.08)
        parts = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        _bars(parts[0], document)
        if len(parts) > 1:
            (_roofline if products else _bandwidth)(parts[1], document)
    return figure


def _timed(report: Document) -> list[dict[str, Any]]:
    return [variant for variant in report["variants"] if variant["status"] == "timed"]


def _colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    unique = list(dict.fromkeys(names))
    return {name: (COLOURS[i % len(COLOURS)], _MARKERS[i % len(_MARKERS)]) for i, name in enumerate(unique)}


def _unit(seconds: float) -> tuple[str, float]:
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if seconds * scale >= 1:
            return unit, scale
    return "µs", 1e6


def _bars(axes: Axes, report: Document) -> None:
    """Time per call of every variant; the floor as a line, speed-ups beside the bars."""
    timed = _timed(report)
    unit, scale = _unit(max(variant["seconds"] for variant in timed))
    colours = _colours([variant["name"] for variant in report["variants"]])
    longest = max(variant["seconds"] for variant in timed) * scale
    for place, variant in enumerate(report["variants"]):
        if variant["status"] != "timed":
            _beside(axes, place, "failed", style="italic")
            continue
        value = variant["seconds"] * scale
        axes.barh(place, value, color=colours[variant["name"]][0], height=0.62)
        _beside(axes, place, f"{_digits(value)} {unit}" + (f"  ({variant['ratio']:.2f}×)" if place else ""))
    label = f"time per call [{unit}], lower is better"
    if report["floor"]:
        floor = report["floor"]["seconds"] * scale
        longest = max(longest, floor)
        axes.axvline(floor, color=COLOURS[-1], linestyle="--", linewidth=1.2)
        label += f"; dashed: the floor, {_digits(floor)} {unit}"
    axes.set_yticks(range(len(report["variants"])), [_short(variant["name"]) for variant in report["variants"]])
    axes.set_ylim(len(report["variants"]) - 0.5, -0.5)
    axes.set_xlim(0, 1.03 * longest)
    axes.set_xlabel(label)
    axes.set_title(f"{Path(report['subject']).name} on {report['machine']['name']}", loc="left", fontsize="medium")


def _beside(axes: Axes, place: int, text: str, **style: str) -> None:
    """Text to the right of the axes, where no line or bar crosses it."""
    axes.text(1.015, place, text, transform=axes.get_yaxis_transform(), va="center", **style)


def _digits(value: float) -> str:
    """Three digits or, of larger numbers, all before the point: 0.0123, 4,060."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _short(name: str) -> str:
    """A name that leaves room for the picture."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 13]}…{name[-12:]}"


def _roofline(axes: Axes, report: Document) -> None:
    """Achieved rate over intensity, under what the machine was measured to reach."""
    floor, rates = report["floor"], report["floor"]["rates"]
    flops = sum(floor["flops"].values())
    here = flops / (floor["bytes_read"] + floor["bytes_written"])
    peak = flops / sum(count / rates["flops_per_s"][dtype] for dtype, count in floor["flops"].items() if count)
    ridge = peak / rates["bytes_per_s"]
    left, right = min(here, ridge) / 8, max(here, ridge) * 8
    roof = [min(at * rates["bytes_per_s"], peak) / 1e9 for at in (left, ridge, right)]
    axes.plot([left, ridge, right], roof, color=COLOURS[-1])
    for variant in _timed(report):
        colour, marker = _colours([v["name"] for v in report["variants"]])[variant["name"]]
        rate = flops / variant["seconds"] / 1e9
        axes.plot(here, rate, marker, color=colour, label=_short(variant["name"]), markersize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: _digits(value))
    axes.set_xlabel("intensity [flop/byte]")
    axes.set_ylabel("rate [Gflop/s]")
    axes.set_title("roofline: the grey line is what this machine was measured to reach", loc="left", fontsize="medium")
    axes.grid(visible=True, which="major", alpha=0.25)
    axes.legend(frameon=False, fontsize="small", loc="lower right")


def _bandwidth(axes: Axes, report: Document) -> None:
    """A model without products only moves bytes: how near each variant comes to the machine's best rate."""
    floor, timed = report["floor"], _timed(report)
    best = floor["rates"]["bytes_per_s"] / 1e9
    rates = [(floor["bytes_read"] + floor["bytes_written"]) / variant["seconds"] / 1e9 for variant in timed]
    colours = _colours([variant["name"] for variant in report["variants"]])
    for place, (variant, rate) in enumerate(zip(timed, rates, strict=True)):
        axes.barh(place, rate, color=colours[variant["name"]][0], height=0.62)
        _beside(axes, place, f"{_digits(rate)} GB/s, {100 * rate / best:.0f} %")
    axes.axvline(best, color=COLOURS[-1], linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(timed)), [_short(variant["name"]) for variant in timed])
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.set_xlim(0, 1.03 * max(best, *rates))
    axes.set_xlabel(f"useful bytes [GB/s], higher is better; dashed: the best rate measured, {_digits(best)} GB/s")


def _curves(axes: Axes, document: Document) -> None:
    """Time per call over the swept constant, one curve per variant, and the floor."""
    points = [(point["value"], point["report"]) for point in document["points"] if point["report"]]
    values = _positions([value for value, _ in points])
    series: dict[str, list[tuple[float, float]]] = {}
    for position, (_, report) in zip(values, points, strict=True):
        for variant in _timed(report):
            series.setdefault(variant["name"], []).append((position, variant["seconds"]))
        if report["floor"]:
            series.setdefault("floor", []).append((position, report["floor"]["seconds"]))
    unit, scale = _unit(max(seconds for curve in series.values() for _, seconds in curve))
    colours = _colours([name for name in series if name != "floor"]) | {"floor": (COLOURS[-1], "")}
    for number, (name, curve) in enumerate(series.items()):
        colour, marker = colours[name]
        style = {
            "linestyle": "--" if name == "floor" else "-",
            "marker": marker,
            "color": colour,
            "label": _short(name),
        }
        larger = max(5, 10 - 2 * number)  # so that one which lies under another can be seen
        axes.plot([p for p, _ in curve], [s * scale for _, s in curve], markersize=larger, **style)
    numeric = all(_is_number(value) for value, _ in points)
    if numeric and all(position > 0 for position in values):
        axes.set_xscale("log", base=2)
    axes.set_xticks(values, [value for value, _ in points])
    axes.minorticks_off()
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: _digits(value))
    axes.set_xlabel(document["name"])
    axes.set_ylabel(f"time per call [{unit}]")
    axes.set_title(Path(document["subject"]).name, loc="left", fontsize="medium")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, fontsize="small")


def _positions(values: Sequence[str]) -> list[float]:
    return [float(v) for v in values] if all(map(_is_number, values)) else [float(i) for i in range(len(values))]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _speedups(axes: Axes, document: Document) -> None:
    """Speed against eager of every task's candidate, with its interval."""
    found = [(label, report["variants"][-1]) for label, report in measurements(document)]
    for place, (_, variant) in enumerate(found):
        if variant["status"] != "timed":
            axes.text(1.0, place, " failed", va="center", style="italic")
            continue
        ends = [variant["low"] or variant["ratio"], variant["high"] or variant["ratio"]]
        axes.plot(ends, [place, place], color=COLOURS[0], linewidth=1.5)
        axes.plot(variant["ratio"], place, "o", color=COLOURS[0])
        axes.text(variant["ratio"], place - 0.2, f"{variant['ratio']:.2f}×", ha="center", va="bottom", fontsize="small")
    axes.axvline(1.0, color=COLOURS[-1], linestyle="--", linewidth=1.2)
    axes.set_yticks(range(len(found)), [label for label, _ in found])
    axes.set_ylim(len(found) - 0.4, -0.7)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.set_xlabel("speed against eager with its 95 % interval, higher is better")
