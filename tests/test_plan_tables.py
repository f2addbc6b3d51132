"""Cards and prices, and the plan as CSV, JSON and text."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from made_up_plan import document, failed, solved

from estimator.plan.cells import groups_of
from estimator.plan.config import read_plan
from estimator.plan.money import money_of
from estimator.plan.tables import csv_text, document_of, json_text
from estimator.report.page import Page
from estimator.report.plan_text import setting_value, settings_text, write_plan

pytestmark = pytest.mark.pure

PRICED = """
devices = ["l4", "a100-80gb"]
budget = 2.1
global_batch = 1000
[prices]
l4 = 0.7
[[jobs]]
name = "gpt"
job = "torchvision:resnet18"
"""


def plan_of(folder: Path, text: str = PRICED) -> Any:
    path = folder / "plan.toml"
    path.write_text(text)
    return read_plan(path)


def test_cards_and_costs(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    # 2.1 / 0.7 is 3 cards (in binary floating point it is a little less); 3 x 64 samples x 2 accumulated = 384 a step;
    # ceil(1000 / 384) = 3 steps' worth; ceil(1000 / 128) = 8 cards, 8 x 0.7 = 5.6.
    assert money_of(plan, "l4", 64, 2) == {
        "price": 0.7,
        "cards_for_budget": 3,
        "batch_for_budget": 384,
        "steps_for_global_batch": 3,
        "cards_for_global_batch": 8,
        "cost_for_global_batch": 5.6,
    }


def test_without_a_price_or_a_fit_there_are_no_cards(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert money_of(plan, "a100-80gb", 64)["cards_for_global_batch"] == 16  # ceil(1000 / 64)
    assert money_of(plan, "a100-80gb", 64)["cost_for_global_batch"] is None
    assert money_of(plan, "l4", 0)["cards_for_global_batch"] is None
    assert money_of(plan, "l4", None)["batch_for_budget"] == 0


def test_the_document_has_a_row_a_cell_with_its_status(tmp_path: Path) -> None:
    text = PRICED + 'precision = ["fp32", "bf16"]\n'
    plan = plan_of(tmp_path, text)
    groups = groups_of(plan)
    keys = [cell.key for group in groups for cell in group.cells]
    results = {keys[0]: solved(64, 24 << 30), keys[1]: solved(0, 24 << 30), keys[2]: failed("no")}
    cells = document_of(plan, groups, results)["cells"]
    assert [c["status"] for c in cells] == ["ok", "does not fit", "error", "pending"]
    assert [c["device"] for c in cells] == ["l4", "a100-80gb"] * 2
    assert [c["options"] for c in cells] == [{"precision": "fp32"}] * 2 + [{"precision": "bf16"}] * 2
    assert cells[0]["money"]["cards_for_global_batch"] == 16


def test_csv_has_a_line_a_cell_and_runs_in_no_spreadsheet() -> None:
    made_up = document(job='=HYPERLINK("http://example.org","x")')
    rows = list(csv.DictReader(io.StringIO(csv_text(made_up))))
    assert len(rows) == len(made_up["cells"])
    assert rows[0]["job"] == '\'=HYPERLINK("http://example.org","x")'
    assert rows[0]["max_batch_size"] == "100"
    assert rows[0]["device_bytes"] == str(made_up["cells"][0]["device_bytes"])
    assert rows[6]["error"].count("\n") == 0
    assert "where: train.py:3" in rows[6]["error"]
    assert rows[7]["status"] == "pending"
    assert rows[7]["max_batch_size"] == ""


def test_json_is_the_document() -> None:
    import json

    assert json.loads(json_text(document())) == document()


def test_settings_in_words() -> None:
    options = {
        "precision": "bf16",
        "sequence_length": 512,
        "channels_last": True,
        "checkpointing": False,
        "alloc_conf": "",
    }
    assert settings_text(options) == "bf16, sequence length 512, channels last, no checkpointing, alloc conf default"
    assert setting_value({"r": 8, "targets": ["a", "b"]}) == "r=8 targets=a b"


def test_text_has_the_largest_batches_and_the_errors() -> None:
    page = Page(io.StringIO())
    write_plan(page, document(), found=3, solved=4, files=["out/report.html"])
    lines = [" ".join(line.split()) for line in page.text.splitlines()]
    assert "gpt fp32 100 1200" in lines
    assert "gpt amp-bf16 180 any" in lines
    assert "broken fp32 error ?" in lines
    assert any("the step of gpt reads values" in line for line in lines)
    assert "4 solved now, 3 before, 1 missing" in lines
