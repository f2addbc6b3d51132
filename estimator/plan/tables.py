"""The plan and what was found, as rows: for JSON, for CSV and for the report."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from estimator import __version__
from estimator.plan.cells import Group, varying
from estimator.plan.config import Plan
from estimator.plan.money import FIELDS as MONEY
from estimator.plan.money import money_of

PLAN_SCHEMA_VERSION = 1
OK, DOES_NOT_FIT, ERROR, PENDING = "ok", "does not fit", "error", "pending"
"""Status of a cell; pending where it was not solved yet, as after an engine's death."""
_FIGURES = (
    "max_batch_size", "max_batch_size_low", "max_batch_size_without_retries", "batch_size", "device_bytes",
    "device_low_bytes", "device_high_bytes", "capacity_bytes", "headroom_bytes", "peak_reserved_bytes",
    "peak_allocated_bytes", "peak_requested_bytes", "peak_phase", "peak_module", "peak_op", "limited_by",
    "confirmed_at", "torch_version",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A cell that begins so is run by a spreadsheet. Source: OWASP, "CSV Injection"."""


def document_of(plan: Plan, groups: Sequence[Group], results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The plan and every cell with its result: what `plan.json` holds."""
    return {
        "schema_version": PLAN_SCHEMA_VERSION,
        "batch_estimator": __version__,
        "title": plan.title,
        "torch_version": plan.torch_version,
        "currency": plan.currency,
        "budget": plan.budget,
        "global_batch": plan.global_batch,
        "varying": list(varying(plan)),
        "devices": [device.model_dump(mode="json") for device in plan.devices],
        "jobs": [{"name": job.name, "job": job.job, "settings": job.settings} for job in plan.jobs],
        "cells": [_row(plan, group, cell, results.get(cell.key)) for group in groups for cell in group.cells],
    }


def _row(plan: Plan, group: Group, cell: Any, result: dict[str, Any] | None) -> dict[str, Any]:
    largest = None if result is None else result.get("max_batch_size")
    steps = int(((result or {}).get("settings") or {}).get("accumulation_steps", 1))
    return {
        "job": cell.job,
        "spec": group.job.job,
        "options": cell.settings,
        "device": cell.device.name,
        "status": status_of(result),
        "money": money_of(plan, cell.device.name, largest, steps),
        **({"error": None, "warnings": [], "max_batch_size": None} if result is None else result),
    }


def status_of(result: Mapping[str, Any] | None) -> str:
    """Whether a cell has an answer, and which."""
    if result is None:
        return PENDING
    if result.get("error") is not None:
        return ERROR
    return OK if result["fits"] else DOES_NOT_FIT


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def csv_text(document: Mapping[str, Any]) -> str:
    """A line a cell: names, settings, figures in bytes, money, warnings and error."""
    settings = list(document["varying"])
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["job", "spec", *settings, "device", "status", *_FIGURES, *MONEY, "warnings", "error"]
    writer.writerow(map(_plain, columns))
    for row in document["cells"]:
        error = row.get("error")
        values = [
            row["job"],
            row["spec"],
            *(row["options"].get(name) for name in settings),
            row["device"],
            row["status"],
        ]
        values += [row.get(name) for name in _FIGURES] + [row["money"].get(name) for name in MONEY]
        values += [" ".join(dict.fromkeys(w["code"] for w in row["warnings"])), error and error["text"]]
        writer.writerow(map(_plain, values))
    return out.getvalue()


def _plain(value: Any) -> Any:
    """A value as a spreadsheet shows it and does not run it."""
    if value is None:
        return ""
    if isinstance(value, (dict, list, tuple)):
        value = json.dumps(value)
    if isinstance(value, str):
        value = " / ".join(value.splitlines())
        return f"'{value}" if value.startswith(_FORMULA) else value
    return value
