"""A `StepGraph` drawn as a `torch.fx.Graph`, to print, diff and run passes over."""

from __future__ import annotations

from typing import Any

import torch
import torch.fx

from estimator.graph import Op, StepGraph, TensorSpec


def draw(graph: StepGraph) -> torch.fx.Graph:
    """Make one `call_function` node an op, its inputs the nodes that made its tensors.

    Tensors that no op made are placeholders. `node.meta` holds `module`, `phase`, `shapes` and `dtypes` of the
    results, `born` and `freed` (storage to bytes) and `categories`.
    """
    drawing = torch.fx.Graph()
    born, freed = _lives(graph)
    placeholders = _Placeholders(drawing, graph)
    nodes: list[torch.fx.Node] = []
    for index, op in enumerate(graph.ops):

        def node_of(spec: TensorSpec) -> torch.fx.Node:
            return nodes[spec.source] if 0 <= spec.source < len(nodes) else placeholders.of(spec)

        args = _with_nodes(op.args, node_of)
        kwargs = {name: _with_nodes(value, node_of) for name, value in op.kwargs.items()}
        node = drawing.create_node("call_function", _target(op.name), args, kwargs)
        node.meta.update(_facts(graph, op))
        node.meta["born"], node.meta["freed"] = born.get(index, {}), freed.get(index, {})
        nodes.append(node)
    drawing.output(nodes[-1] if nodes else None)
    return drawing


class _Placeholders:
    """One placeholder a storage that no op made; all of them stand at the top of the graph."""

    def __init__(self, drawing: torch.fx.Graph, graph: StepGraph) -> None:
        self._drawing, self._graph = drawing, graph
        self._made: dict[Any, torch.fx.Node] = {}
        self._last: torch.fx.Node | None = None

    def of(self, spec: TensorSpec) -> torch.fx.Node:
        key = spec.storage if spec.storage >= 0 else (spec.dtype, spec.shape)
        if key not in self._made:
            name = self._graph.names.get(spec.storage, "host" if spec.storage < 0 else f"storage_{spec.storage}")
            first = next(iter(self._drawing.nodes), None)
            place = (
                self._drawing.inserting_after(self._last)
                if self._last is not None
                else self._drawing.inserting_before(first)
            )
            with place:
                node = self._drawing.placeholder(name.replace(".", "_"))
            node.meta.update(shapes=[spec.shape], dtypes=[spec.dtype], module=name.rpartition(".")[0], phase="model")
            self._made[key] = self._last = node
        return self._made[key]


def _lives(graph: StepGraph) -> tuple[dict[int, dict[int, int]], dict[int, dict[int, int]]]:
    born: dict[int, dict[int, int]] = {}
    freed: dict[int, dict[int, int]] = {}
    for e in graph.events:
        (born if e.is_alloc else freed).setdefault(e.op, {})[e.storage] = e.size_bytes
    return born, freed


def _facts(graph: StepGraph, op: Op) -> dict[str, Any]:
    labels = {
        spec.storage: graph.categories[spec.storage].value for spec in op.outputs if spec.storage in graph.categories
    }
    return {
        "module": op.module,
        "phase": op.phase,
        "backward_thread": op.backward_thread,
        "shapes": [spec.shape for spec in op.outputs],
        "dtypes": [spec.dtype for spec in op.outputs],
        "categories": labels,
    }


def _target(name: str) -> Any:
    """The op overload itself where this torch knows it, else a stand-in of that name."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            break
    if callable(found):
        return found

    def unknown(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(name)

    unknown.__name__ = name.replace(".", "_").replace("::", "_")
    return unknown


def _with_nodes(value: Any, node_of: Any) -> Any:
    if isinstance(value, TensorSpec):
        return node_of(value)
    return tuple(_with_nodes(v, node_of) for v in value) if isinstance(value, tuple) else value
