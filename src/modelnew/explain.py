"""What a program fuses and why not more; what it moves, and how long that takes at least."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelnew.bench.floor import Floor, Work
from modelnew.compiler import Program
from modelnew.graph.sources import source_line
from modelnew.graph.views import is_axes_view
from modelnew.graph.work import flops, moved, traffic
from modelnew.kernel.schedule import schedule
from modelnew.render.kernel import render_kernel


def work_of(program: Program) -> Work:
    read, written = traffic(program.captured)
    return Work(read, written, flops(program.captured))


@dataclass(frozen=True)
class Explanation:
    """`floor` is None where the device's rates are unknown. `file` is the text of the optimised file."""

    program: Program
    floor: Floor | None
    file: str
    shown: str = ""
    with_source: bool = False

    def text(self) -> str:
        out = io.StringIO()
        work = work_of(self.program)
        if self.shown:
            out.write(self.shown + "\n")
        else:
            out.write("graph\n")
            for node in self.program.captured.graph.nodes:
                if node.op == "call_function":
                    out.write(f"  {node.name:<24} {node.target!s:<36} {_described(node)}\n")
        out.write("\nkernels\n")
        if not any(node.op == "call_function" for node in self.program.captured.graph.nodes):
            out.write("  none: there is nothing to compute\n")
        elif not (self.program.kernels or self._library()):
            out.write("  none: views move nothing\n")
        for entry in self._kernels():
            out.write(f"  {entry['name']}: {entry['family']}, {entry['bytes']:,} bytes moved\n")
            out.writelines(f"      {line}\n" for line in entry["sources"])
        for entry in self._library():
            out.write(f"  library: {entry['op']} {entry['value']}: {entry['why']}\n")
        out.write(f"\nforward\n{_indented(self.program.forward.lines())}\n")
        out.write(f"\nbytes read {work.bytes_read:,}, written {work.bytes_written:,}")
        out.write("".join(f", {count:,} {dtype} flops in products" for dtype, count in work.flops.items()) + "\n")
        if self.floor is not None and self.floor.seconds:
            out.write(f"floor {self.floor.seconds * 1e3:.3g} ms ({self.floor.bound}) at the rates measured here\n")
        if self.with_source:
            out.write("\n" + "\n".join(render_kernel(kernel) for kernel in self.program.kernels))
        return out.getvalue()

    def as_dict(self) -> dict[str, Any]:
        """schema "modelnew.explain/1": kernels, library calls with the reason, forward, bytes, flops, floor."""
        work = work_of(self.program)
        document: dict[str, Any] = {
            "schema": "modelnew.explain/1",
            "kernels": self._kernels(),
            "library": self._library(),
            "forward": self.program.forward.lines(),
            "bytes_read": work.bytes_read,
            "bytes_written": work.bytes_written,
            "flops": dict(work.flops),
            "dtypes": [str(dtype).removeprefix("torch.") for dtype in self.program.working],
            "floor": self.floor.as_dict() if self.floor is not None else None,
        }
        if self.with_source:
            document["source"] = {kernel.name: render_kernel(kernel) for kernel in self.program.kernels}
        return document

    def _kernels(self) -> list[dict[str, Any]]:
        entries = []
        for kernel in self.program.kernels:
            region = next(r for r in self.program.called if r.name == kernel.name)
            entry: dict[str, Any] = {
                "name": kernel.name,
                "family": kernel.family,
                "bytes": moved({*region.reads, *region.stores}),
                "sources": list(kernel.sources),
            }
            if kernel.reduced:
                entry["passes"] = schedule(kernel).passes
            entries.append(entry)
        return entries

    def _library(self) -> list[dict[str, str]]:
        """Calls that stay PyTorch's own, and why; views that only rename dims are none."""
        entries = []
        for node in self.program.forward.library:
            if isinstance(node.target, torch._ops.OpOverload) and not is_axes_view(node):
                why = self.program.partition.left.get(node, "no kernel of ours computes it")
                op = node.target._schema.name.split("::")[1]
                entries.append({"op": op, "value": _described(node), "why": why, "source": source_line(node)})
        return entries


def _described(node: fx.Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_shape, value))
    return _shape(value)


def _shape(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return str(value) if value is not None else ""


def _indented(lines: list[str]) -> str:
    return "\n".join("  " + line for line in lines)
