"""The step's graph as lines of text, one an op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch.fx


def graph_lines(graph: torch.fx.Graph) -> Iterator[str]:
    """Write the graph: a heading, then of each node its name, op, arguments, phase, module, and its bytes.

    Columns are separated by tabs, so that `cut`, `awk` and a spreadsheet can take the file as it is.
    """
    yield "\t".join(("node", "op", "arguments", *_META))
    for node in graph.nodes:
        arguments = [*map(str, node.args), *(f"{name}={value}" for name, value in node.kwargs.items())]
        cells = (node.name, str(node.target), ", ".join(arguments), *(_text(node.meta.get(name)) for name in _META))
        yield "\t".join(" ".join(cell.split()) for cell in cells)


_META = ("phase", "module", "bytes_born", "bytes_freed")


def _text(value: Any) -> str:
    return "" if value is None else str(value)
