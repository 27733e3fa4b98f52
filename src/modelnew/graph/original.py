"""The calls that a kernel stands for, as forward made them: to time the kernel against, and to put back where it loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import fx

from modelnew.graph.capture import Captured
from modelnew.graph.partition import Region, is_position
from modelnew.graph.views import is_axes_view

PUT_BACK = "measured: PyTorch's own call was faster"


@dataclass(frozen=True)
class Original:
    """calls: nodes of the graph before decomposition, in order.

    given: every value from outside that they take → the node of the decomposed graph that has it.
    gives: node of the decomposed graph, which the kernel stores → the call that gives the same value.
    """

    region: Region
    calls: tuple[fx.Node, ...]
    given: dict[fx.Node, fx.Node]
    gives: dict[fx.Node, fx.Node]


def original(captured: Captured, region: Region, stores: Sequence[fx.Node]) -> Original | None:
    """None where the region is only part of a call, or where no single call gives what it stores.

    None too where forward writes to a tensor anywhere: its calls then do not say by themselves what they read.
    """
    exported = {node.name: node for node in captured.exported.graph.nodes}
    if captured.mutations or any(_writes(call) for call in exported.values()):
        return None
    owner = {node: _call(node, exported) for node in captured.graph.nodes}
    wanted = {owner[node] for node in region.axes}
    if None in wanted or any(not _is_plain(call) for call in wanted):
        return None
    last = {call: node for node, call in owner.items() if call is not None and _same_value(node, call)}
    for node, call in owner.items():
        if call in wanted and node.op == "call_function" and not _only_for(node, region):
            return None
    gives = {store: call for store in stores if (call := owner[store]) is not None and last.get(call) is store}
    if len(gives) != len(stores):
        return None
    calls = tuple(node for node in exported.values() if node in wanted)
    given: dict[fx.Node, fx.Node] = {}
    inputs = {node.name: node for node in captured.graph.nodes if node.op == "placeholder"}
    for source in (arg for call in calls for arg in call.all_input_nodes if arg not in wanted):
        found = inputs.get(source.name) if source.op == "placeholder" else last.get(source)
        if found is None:
            return None
        given[source] = found
    return Original(region, calls, given, gives)


def calls_of(captured: Captured, region: Region) -> set[fx.Node]:
    """The calls of forward that a region's nodes are pieces of."""
    exported = {node.name: node for node in captured.exported.graph.nodes}
    return {call for node in region.axes if (call := _call(node, exported)) is not None}


def put_back(captured: Captured, originals: Sequence[Original]) -> list[Original]:
    """Replaces the nodes of these regions by the calls, in place, and returns those for which that was possible.

    It is not where no place in the graph comes after all that the calls need and before all that needs them. Kernels leave what
    was put back to PyTorch.
    """
    graph = captured.graph
    now: dict[fx.Node, fx.Node] = {}
    done = []
    for one in originals:
        position = {node: place for place, node in enumerate(graph.nodes)}
        given = {call: now.get(node, node) for call, node in one.given.items()}
        users = [user for store in one.gives for user in store.users if user not in one.region.axes]
        first = min(users, key=position.__getitem__)
        if any(position[node] >= position[first] for node in given.values()):
            continue
        with graph.inserting_before(first):
            for call in one.calls:
                given[call] = graph.node_copy(call, given.__getitem__)
                given[call].meta["put_back"] = True
        for store, call in one.gives.items():
            now[store] = given[call]
            store.replace_all_uses_with(given[call], delete_user_cb=partial(_outside, one.region))
        done.append(one)
    graph.eliminate_dead_code()
    return done


def _outside(region: Region, node: fx.Node) -> bool:
    return node not in region.axes


def stays(node: fx.Node) -> str | None:
    """Why a node that was put back stays PyTorch's own call; None for every other node."""
    return PUT_BACK if node.meta.get("put_back") else None


def _call(node: fx.Node, exported: dict[str, fx.Node]) -> fx.Node | None:
    """The call of forward that a node is a piece of."""
    for source in node.meta.get("from_node") or ():
        if source.name in exported:
            return exported[source.name]
    return None


def _writes(call: fx.Node) -> bool:
    return isinstance(call.target, torch._ops.OpOverload) and call.target._schema.is_mutable


def _is_plain(call: fx.Node | None) -> bool:
    """One op that gives one tensor."""
    one_tensor = call is not None and isinstance(call.meta.get("val"), torch.Tensor)
    return one_tensor and call is not None and isinstance(call.target, torch._ops.OpOverload)


def _same_value(node: fx.Node, call: fx.Node) -> bool:
    mine, theirs = node.meta.get("val"), call.meta.get("val")
    if node.op != "call_function" or not (isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)):
        return False
    return mine.dtype == theirs.dtype and [str(s) for s in mine.shape] == [str(s) for s in theirs.shape]


def _only_for(node: fx.Node, region: Region) -> bool:
    """Whether a node is in the region, or only leads there and costs nothing: a view or a position that the kernel takes in."""
    if node in region.axes or not node.users:
        return True
    return (is_axes_view(node) or is_position(node)) and all(_only_for(user, region) for user in node.users)
