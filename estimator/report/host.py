"""Memory of the host as a table."""

from __future__ import annotations

from estimator.host_memory import HostMemory
from estimator.report.page import Page
from estimator.units import format_bytes

HOST_COLUMNS = [("", False), ("least", True), ("most", True), ("", False)]


def host_rows(memory: HostMemory) -> list[list[str]]:
    """One row a line of the record, in the order of its moments."""
    return [
        [
            f"{moment}: {line.name}" if moment else line.name,
            format_bytes(line.low_bytes),
            format_bytes(line.high_bytes),
            line.note,
        ]
        for moment, line in memory.moments()
    ]


def write_host(page: Page, memory: HostMemory) -> None:
    """Write the table and what its moments come to: the process, and the larger of loading and the rest."""
    page.heading(f"RAM of the host at batch {memory.batch_size}")
    total = ["at most at once", format_bytes(memory.low_bytes), format_bytes(memory.high_bytes), ""]
    page.table(HOST_COLUMNS, [*host_rows(memory), total], totals=1)
    page.line("What the dataset itself keeps in memory is not counted.", indent=2, hang=0)
