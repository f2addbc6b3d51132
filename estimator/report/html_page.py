"""What the HTML page of a plan shows: its texts and tables as jinja2 takes them, its figures as its scripts do."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from estimator.report.plan_text import setting_value, settings_text
from estimator.units import format_bytes

_FACTS = (
    "status", "fits", "unlimited", "max_batch_size", "max_batch_size_low", "max_batch_size_without_retries",
    "device_bytes", "device_low_bytes", "device_high_bytes", "capacity_bytes", "peak_allocated_bytes",
    "peak_reserved_bytes", "peak_phase", "peak_module", "peak_op", "limited_by", "confirmed_at", "lines", "curve",
    "modules",
)  # fmt: skip
_MOST_NAMED = 30
"""Cells that are named beside a warning."""
_CHOSEN = (
    "Of each job with its settings, the device on which the global batch costs least, or else whose cards hold most "
    "for the price. "
)
_DATA_PARALLEL = (
    "Cards are taken to hold a copy of the model each (data parallelism); what a process group takes besides is not in "
    "these figures, and memory says nothing of speed."
)


class Column(NamedTuple):
    """A column of the table of cells."""

    label: str
    number: bool = False
    help: str = ""


class Value(NamedTuple):
    """A field of that table; `sort` is a number to sort by ("" for none at all), None to sort by the text."""

    text: str
    number: bool = False
    sort: Any = None
    title: str = ""
    show: bool = False


def data_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The figures, for the scripts. Timelines are changes from point to point, in KiB, which takes less room."""
    codes: dict[str, int] = {}
    cells = []
    for index, cell in enumerate(document["cells"]):
        known = {
            "index": index,
            "job": cell["job"],
            "settings": settings_text(cell["options"]),
            "device": cell["device"],
        }
        known |= {name: cell.get(name) for name in _FACTS if name in cell}
        known["warn"] = [
            codes.setdefault(code, len(codes)) for code in dict.fromkeys(w["code"] for w in cell["warnings"])
        ]
        if "timeline" in cell:
            line = cell["timeline"]
            changes = {name: list(_changes(values)) for name, values in line["by_category"].items()}
            known["timeline"] = {**{k: v for k, v in line.items() if k != "by_category"}, "changes": changes}
        cells.append(known)
    devices = {
        d["name"]: {"name": d["name"], "title": d["title"] or d["name"], "kind": d["kind"]} for d in document["devices"]
    }
    return {"cells": cells, "devices": devices, "order": list(devices), "warnings": list(codes)}


def _changes(values: Iterable[int]) -> Iterator[int]:
    last = 0
    for value in values:
        kib = round(value / 1024)
        yield kib - last
        last = kib


def page_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The texts and tables."""
    cells = document["cells"]
    is_plan = document.get("is_plan", True)
    columns, rows = _table(document)
    solved = [cell for cell in cells if "curve" in cell]
    return {
        "title": document["title"],
        "lead": _lead(document),
        "is_plan": is_plan,
        "many": is_plan,
        "tiles": _tiles(cells) if is_plan else [],
        "has_heatmap": is_plan and bool(solved),
        "has_details": bool(solved),
        "columns": columns,
        "rows": rows,
        "filters": _filters(document, columns),
        "money": _money(document),
        "errors": _errors(cells),
        "warnings": _warnings(cells),
        "versions": f"Made by batch-estimator {document['batch_estimator']}, for PyTorch {_torch(document)}.",
    }


def _torch(document: Mapping[str, Any]) -> str:
    found = dict.fromkeys(cell["torch_version"] for cell in document["cells"] if "torch_version" in cell)
    return " and ".join(found) or document["torch_version"] or "as installed"


def _lead(document: Mapping[str, Any]) -> str:
    cells = document["cells"]
    if not document.get("is_plan", True):
        settings = cells[0].get("settings", {})
        said = [str(settings[name]) for name in ("precision", "mode", "optimizer") if settings.get(name)]
        return f"PyTorch {_torch(document)}, {', '.join(said)}"
    jobs = len({cell["job"] for cell in cells})
    pairs = len({(cell["job"], settings_text(cell["options"])) for cell in cells})
    return (
        f"{counted(jobs, 'job')}, {counted(pairs, 'job with its settings', 'jobs with their settings')}, "
        f"{counted(len(document['devices']), 'device')}; PyTorch {_torch(document)}."
    )


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _tiles(cells: list[dict[str, Any]]) -> list[dict[str, str]]:
    def count(status: str) -> int:
        return sum(cell["status"] == status for cell in cells)

    warnings = len({(w["code"], w["message"]) for cell in cells for w in cell["warnings"]})
    tiles = [
        ("cells", len(cells), ""),
        ("fit", count("ok"), "good"),
        ("do not fit at all", count("does not fit"), "bad"),
    ]
    tiles += [("not predicted", count("error"), "bad"), ("not solved yet", count("pending"), "bad")]
    tiles += [("warnings", warnings, "")]
    return [
        {"label": label, "value": f"{number:,}", "tone": tone if number else ""}
        for label, number, tone in tiles
        if number or label in ("cells", "fit")
    ]


def _table(document: Mapping[str, Any]) -> tuple[list[Column], list[dict[str, Any]]]:
    settings = list(document["varying"])
    has_prices = any(cell["money"].get("price") is not None for cell in document["cells"])
    columns = [Column("Job"), *(Column(name.replace("_", " ").capitalize()) for name in settings), Column("Device")]
    columns += [
        Column("Status"),
        Column("Largest batch", True, "Runs at the high end of the interval"),
        Column("If lucky", True, "May run if every guess is lucky"),
        Column("Needs", True, "Device memory at the largest batch, or at 1 where nothing fits"),
        Column("At most", True, "High end of the interval"),
        Column("Has", True, "What the device has"),
        Column("Peak at"),
    ]
    money = _money_columns(document, has_prices)
    columns += [Column(label, True, help) for label, _, help in money]
    columns += [Column("Warnings", True)]
    rows = []
    for index, cell in enumerate(document["cells"]):
        values = [Value(cell["job"], show="curve" in cell)]
        values += [Value(setting_value(cell["options"].get(name))) for name in settings]
        values += [Value(cell["device"]), _status(cell), *_sizes(cell)]
        values += [_number(cell["money"].get(name)) for _, name, _ in money]
        codes = dict.fromkeys(w["code"] for w in cell["warnings"])
        values.append(Value(str(len(codes) or ""), True, len(codes), ", ".join(codes)))
        rows.append({"index": index, "tone": "" if cell["status"] == "ok" else "bad", "fields": values})
    return columns, rows


def _status(cell: Mapping[str, Any]) -> Value:
    text = {"error": "not predicted", "pending": "not solved yet", "ok": "fits"}.get(cell["status"], cell["status"])
    return Value(text, title=cell["error"]["text"] if cell.get("error") else "")


def _sizes(cell: Mapping[str, Any]) -> list[Value]:
    if "device_bytes" not in cell:
        return [Value("", True, "")] * 5 + [Value("")]
    largest, low = cell["max_batch_size"], cell["max_batch_size_low"]
    first = Value("any", True, largest) if cell["unlimited"] else _number(largest)
    lucky = Value("", True, low) if low == largest else _number(low)
    names = ("device_bytes", "device_high_bytes", "capacity_bytes")
    sizes = [Value(format_bytes(cell[name]), True, cell[name]) for name in names]
    where = cell["peak_phase"].rpartition(".")[2]
    full = ", ".join(filter(None, (cell["peak_phase"], cell["peak_module"], cell["peak_op"])))
    return [first, lucky, *sizes, Value(f"{where} {cell['peak_module']}".strip(), title=full)]


def _number(value: float | int | None) -> Value:
    if value is None:
        return Value("", True, "")
    return Value(f"{value:,}" if isinstance(value, int) else f"{value:,.2f}", True, value)


def _money_columns(document: Mapping[str, Any], has_prices: bool) -> list[tuple[str, str, str]]:
    unit = f" {document['currency']}" if document["currency"] else ""
    found = []
    if has_prices:
        found.append((f"Price{unit}/h", "price", "An hour of one card"))
    if document["budget"] is not None:
        found.append(("Cards for budget", "cards_for_budget", "Whole cards that the budget pays for"))
        found.append(("Batch for budget", "batch_for_budget", "Samples a step on all of these cards"))
    if document["global_batch"] is not None:
        found.append(("Cards for global batch", "cards_for_global_batch", "Without further accumulation"))
        if has_prices:
            found.append((f"Cost{unit}/h", "cost_for_global_batch", "An hour of the cards for the global batch"))
    return found


def _filters(document: Mapping[str, Any], columns: list[Column]) -> list[dict[str, Any]]:
    cells = document["cells"]
    found = []
    for index, column in enumerate(columns):
        if column.label == "Job":
            values = dict.fromkeys(cell["job"] for cell in cells)
        elif column.label == "Device":
            values = dict.fromkeys(cell["device"] for cell in cells)
        elif column.label == "Status":
            values = dict.fromkeys(_status(cell).text for cell in cells)
            found.append({"label": column.label, "column": index, "choices": list(values)})
            break
        else:
            names = [name for name in document["varying"] if name.replace("_", " ").capitalize() == column.label]
            values = dict.fromkeys(setting_value(cell["options"].get(names[0])) for cell in cells) if names else {}
        if len(values) > 1:
            found.append({"label": column.label, "column": index, "choices": [v for v in values if v]})
    return found


def _money(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row a device: what it costs, and what a budget and a global batch come to there, over all jobs."""
    cells = [cell for cell in document["cells"] if cell["money"].get("price") is not None]
    if not cells and document["global_batch"] is None:
        return None
    unit = f" {document['currency']}" if document["currency"] else ""
    lines = []
    if document["budget"] is not None:
        lines.append(f"Budget: {document['budget']:,.2f}{unit} an hour.")
    if document["global_batch"] is not None:
        lines.append(f"Global batch: {document['global_batch']:,} samples a step over all cards.")
    columns = [(label, name) for label, name, _ in _money_columns(document, bool(cells)) if name != "price"]
    heads = [("Job, settings, device", False), *((label, True) for label, _ in columns)]
    rows = []
    for key, group in itertools.groupby(document["cells"], key=lambda c: (c["job"], settings_text(c["options"]))):
        fitting = [cell for cell in group if cell["status"] == "ok"]
        best = min(fitting, key=_cheapness, default=None)
        if best is not None and columns:
            name = ", ".join(filter(None, key))
            rows.append(
                [f"{name}: {best['device']}", *(_number(best["money"].get(column)).text for _, column in columns)]
            )
    return {"lines": lines, "heads": heads, "rows": rows, "note": (_CHOSEN if rows else "") + _DATA_PARALLEL}


def _cheapness(cell: Mapping[str, Any]) -> tuple[float, float]:
    money = cell["money"]
    cost = money.get("cost_for_global_batch") or money.get("cards_for_global_batch") or float("inf")
    return cost, (money.get("price") or 0.0) / cell["max_batch_size"]


def _errors(cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.get("error"):
            entry = found.setdefault(cell["error"]["text"], {**cell["error"], "cells": []})
            entry["cells"].append(_name(cell))
    return [shortened(entry) for entry in found.values()]


def _warnings(cells: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells:
        for warning in cell["warnings"]:
            entry = found.setdefault((warning["code"], warning["message"], warning["where"]), {**warning, "cells": []})
            entry["cells"].append(_name(cell))
    return [shortened(entry) for entry in found.values()]


def shortened(entry: dict[str, Any]) -> dict[str, Any]:
    """A warning or error with the first of its cells, and how many there are."""
    names = entry["cells"]
    rest = len(names) - _MOST_NAMED
    shown = [*names[:_MOST_NAMED], f"and {rest} more"] if rest > 1 else names
    return {**entry, "cells": shown, "count": counted(len(names), "cell")}


def _name(cell: Mapping[str, Any]) -> str:
    settings = settings_text(cell["options"])
    return f"{cell['job']}{f' ({settings})' if settings else ''} on {cell['device']}"
