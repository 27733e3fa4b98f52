"""One self-contained HTML page of a measurement: table, pictures, what was fused, the kernels' source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from modelnew.bench.documents import FOLDER, SWEEP, Document, measurements
from modelnew.bench.plot import picture
from modelnew.bench.report import caveats

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --paper: #fff; --code: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --paper: #0d1117; --code: #151b23; }
}
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.facts { color: var(--soft); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .note { text-align: left; } td.note { white-space: normal; color: var(--soft); }
svg { max-width: 100%; height: auto; color: var(--ink) !important; }
pre { background: var(--code); border: 1px solid var(--line); border-radius: 6px; overflow-x: auto; padding: .8rem;
  font: 13px/1.45 ui-monospace, monospace; }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0; }
"""

_HEAD = ("variant", "median", "speed", "95 % interval", "verdict", "÷ floor", "error", "first call", "memory", "")


def page(document: Document, *, explanation: str = "", sources: Mapping[str, str] | None = None) -> str:
    """The page. explanation: what was fused, as text; sources: name → the optimised file of that name, with the kernels
    and the lines they came from. Raises UsageError without matplotlib."""
    title = document.get("subject") or document.get("folder") or "measurement"
    body = [f"<h1>{escape(Path(str(title)).name)}</h1>"]
    found = list(measurements(document))
    if found:
        body += [_facts(found[0][1], whole=len(found) == 1), _svg(document)]
    if document["schema"] == FOLDER:
        body += _folder(document)
    if document["schema"] == SWEEP:
        missing = [
            (f"{document['name']}={p['value']}", p["reason"] or "") for p in document["points"] if not p["report"]
        ]
        body += [_table(("not timed", "why"), missing)] if missing else []
    for label, report in found:
        if label:
            body += [f"<h2>{escape(label)}</h2>", _facts(report, whole=True) if len(found) > 1 else ""]
        body.append(_table(_HEAD, [_cells(variant) for variant in report["variants"]]))
        if len(found) > 1:
            body.append(f"<details><summary>picture</summary>{_svg(report)}</details>")
    body += _text("What was fused", explanation, shown=True)
    for name, source in (sources or {}).items():
        body += _text(name, source, shown=False)
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(str(title))}</title>'
    )
    content = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n{head}\n<style>{_STYLE}</style>\n{content}\n</html>\n'


def _svg(document: Document) -> str:
    text = picture(document, ".svg").decode()
    return "<figure>" + text[text.index("<svg") :] + "</figure>"


def _facts(report: Document, *, whole: bool) -> str:
    """How it was measured; `whole` False: only what holds for every measurement of the page."""
    machine, protocol, noise = report["machine"], report["protocol"], report["noise"]
    common = [
        f"{machine['name']}, {report['threads']} threads, {report['device']}, {report['dtype'] or 'own dtypes'}",
        f"torch {machine['torch']}, Python {machine['python']}",
    ]
    if not whole:
        return _paragraph(common)
    facts = [
        *common,
        f"processes: {protocol['processes']}, blocks: {protocol['blocks']}, rounds: {protocol['rounds']}, seed {report['seed']}",
    ]
    if noise["ratio"] is not None:
        low, high = f"{noise['low']:.3f}", "∞" if noise["high"] is None else f"{noise['high']:.3f}"
        facts.append(f"the original against itself: {noise['ratio']:.3f}× ({low} to {high}); nothing nearer is claimed")
    if report["floor"]:
        floor = report["floor"]
        moved = floor["bytes_read"] + floor["bytes_written"]
        facts.append(f"floor {seconds(floor['seconds'])} ({floor['bound']}-bound: {moved:,} bytes moved)")
    return _paragraph([*facts, *caveats(protocol)])


def _paragraph(facts: Sequence[str]) -> str:
    return '<p class="facts">' + "<br>".join(escape(fact) for fact in facts) + "</p>"


def _cells(variant: Mapping[str, Any]) -> Sequence[str]:
    if variant["status"] != "timed":
        return (variant["name"], f"failed: {variant['reason']}")
    high = "∞" if variant["high"] is None else f"{variant['high']:.2f}"
    error, memory = variant["error"], variant["memory_bytes"]
    return (
        variant["name"],
        seconds(variant["seconds"]),
        f"{variant['ratio']:.2f}×",
        f"{variant['low']:.2f} to {high}",
        variant["verdict"] or "",
        "" if variant["over_floor"] is None else f"{variant['over_floor']:.2f}",
        "" if error is None else f"{error:.1e}",
        "" if variant["first_call_s"] is None else seconds(variant["first_call_s"]),
        "" if memory is None else f"{memory / 1e6:,.1f} MB",
        variant.get("note") or "",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Fewer cells than the head has: the last one takes the place of the rest."""

    def line(cells: Sequence[str], tag: str) -> str:
        marked = [f"<{tag}>{escape(c)}</{tag}>" for c in cells[:-1]]
        rest = 1 + len(head) - len(cells)
        return "<tr>" + "".join(marked) + f'<{tag} colspan="{rest}" class="note">{escape(cells[-1])}</{tag}></tr>'

    return '<div class="wide"><table>' + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table></div>"


def _folder(document: Document) -> list[str]:
    summary = document["summary"]
    shares = [
        f"{100 * share:.0f} % accepted and more than {p}× as fast as eager" for p, share in summary["fast_p"].items()
    ]
    mean = summary["geometric_mean"]
    lines = [*shares, f"geometric mean of accepted tasks: {mean:.2f}×" if mean else ""]
    if summary["slower"]:
        lines.append("slower than eager: " + ", ".join(summary["slower"]))
    if summary["ambiguous"]:
        lines.append("ambiguous, neither faster nor slower for certain: " + ", ".join(summary["ambiguous"]))
    failed = [(task["task"], task["reason"] or "") for task in document["tasks"] if not task["report"]]
    body = ["<p>" + "<br>".join(escape(text) for text in lines if text) + "</p>"]
    return body + ([_table(("not accepted, or not timed", "why"), failed)] if failed else [])


def _text(title: str, text: str, *, shown: bool) -> list[str]:
    if not text:
        return []
    state = " open" if shown else ""
    return [f"<details{state}><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"]


def seconds(value: float) -> str:
    """Three digits with a unit: "23.4 ms"."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1:
            return f"{value * scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"
