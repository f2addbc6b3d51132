"""A plan as text: the largest batch of each job and setting on each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from estimator.report.page import Page

MOST_ROWS = 40
"""Lines on a terminal; the rest is in the report."""


def settings_text(options: Mapping[str, Any]) -> str:
    """Settings in a few words: `amp-bf16, sequence length 512`."""
    return ", ".join(_words(name, value) for name, value in options.items())


def setting_value(value: Any) -> str:
    """One value as a table shows it; nothing where a job does not name the setting."""
    if value is None:
        return ""
    if value == "":
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={setting_value(one)}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _words(name: str, value: Any) -> str:
    label = name.replace("_", " ")
    if isinstance(value, bool):
        return label if value else f"no {label}"
    return str(value) if name in ("precision", "optimizer", "mode") else f"{label} {setting_value(value)}".strip()


def write_plan(page: Page, document: Mapping[str, Any], *, found: int, solved: int, files: Sequence[str]) -> None:
    """Write the table, what could not be predicted, and where the files are."""
    cells = document["cells"]
    devices = list(dict.fromkeys(cell["device"] for cell in cells))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell in cells:
        row = rows.setdefault((cell["job"], settings_text(cell["options"])), {})
        row[cell["device"]] = _answer(cell)
    page.heading(f"Largest batch: {len(rows)} jobs and settings on {len(devices)} devices")
    shown = list(rows.items())[: MOST_ROWS if page.is_terminal else None]
    columns = [("job", False), ("settings", False), *((device, True) for device in devices)]
    page.table(columns, [[job, said, *(row.get(device, "") for device in devices)] for (job, said), row in shown])
    if len(shown) < len(rows):
        page.line(f"and {len(rows) - len(shown)} more in the report", indent=2)
    errors: dict[tuple[str, str], int] = {}
    for cell in cells:
        if cell.get("error"):
            key = (cell["job"], cell["error"]["text"])
            errors[key] = errors.get(key, 0) + 1
    if errors:
        page.heading("Not predicted", style="bold red")
        for (job, text), count in errors.items():
            page.line(f"{job} ({count} cells): {text}", indent=2)
    pending = sum(cell["status"] == "pending" for cell in cells)
    page.heading("Cells")
    page.line(f"{solved} solved now, {found} before" + (f", {pending} missing" if pending else ""), indent=2)
    for file in files:
        page.line(file, indent=2)


def _answer(cell: Mapping[str, Any]) -> str:
    if cell["status"] == "pending":
        return "?"
    if cell["status"] == "error":
        return "error"
    return "any" if cell.get("unlimited") else str(cell["max_batch_size"])
