"""The step's graph as lines of text, one an op."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch.fx

_COLUMNS = ("node", "op", "phase", "module", "born_bytes", "freed_bytes", "results", "arguments")


def graph_lines(graph: torch.fx.Graph) -> Iterator[str]:
    """Write the graph: a line of headings, then of each node where it belongs, its bytes, results and arguments.

    Columns are separated by tabs, so that `cut`, `awk` and a spreadsheet take the file as it is. `born_bytes` are the
    storages that the op makes, `freed_bytes` those that die after it. `results` are dtype and shape.
    """
    yield "\t".join(_COLUMNS)
    for node in graph.nodes:
        meta = node.meta
        shapes = zip(meta.get("dtypes", ()), meta.get("shapes", ()), strict=True)
        cells = (
            node.name,
            node.op if node.op != "call_function" else str(node.target),
            meta.get("phase", ""),
            meta.get("module", ""),
            str(sum(meta.get("born", {}).values())),
            str(sum(meta.get("freed", {}).values())),
            " ".join(f"{dtype}[{','.join(map(str, shape))}]" for dtype, shape in shapes),
            ", ".join([*map(str, node.args), *(f"{name}={value}" for name, value in node.kwargs.items())]),
        )
        yield "\t".join(" ".join(cell.split()) for cell in cells)
