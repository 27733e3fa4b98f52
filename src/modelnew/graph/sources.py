"""Where a node came from: the line of the model, and the name of the op as its author knows it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from torch import fx

FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)')
SILENT = frozenset(
    {"to_copy", "to", "view", "unsqueeze", "squeeze", "permute", "transpose", "t", "alias", "detach", "expand"}
)
SILENT_DIMS = frozenset({"getitem", "arange", "clone"})
LONGEST = 5  # ops named in a kernel's name


def source_line(node: fx.Node) -> str:
    """`file.py:12: y = torch.sigmoid(x)`: the innermost line that is not PyTorch's own; empty where there is none."""
    frames = FRAME.findall(node.meta.get("stack_trace") or "")
    users = [frame for frame in frames if "/torch/" not in frame[0]]
    if not users:
        return ""
    path, number, code = users[-1]
    return f"{os.path.basename(path)}:{number}: {code.strip()}"


def op_name(node: fx.Node) -> str:
    """The op that the model called: `softmax` for each of the pieces it was made of."""
    origin = node.meta.get("from_node") or ()
    text = str(origin[0].target) if origin else str(node.target)
    match = re.match(r"aten\.(\w+)", text) or re.match(r"aten\.(\w+)", str(node.target))
    return match.group(1).strip("_") if match else node.name


def kernel_name(nodes: Iterable[fx.Node]) -> str:
    """The ops that a kernel computes, each once, in order: `linear_sigmoid_sum`."""
    names = list(dict.fromkeys(name for node in nodes if (name := op_name(node)) not in SILENT | SILENT_DIMS))
    if len(names) > LONGEST:
        names = [*names[: LONGEST - 2], "etc", names[-1]]
    return "_".join(names) or "copy"
