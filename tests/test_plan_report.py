"""The report is one file: nothing is fetched, every name is escaped, every warning and interval is there."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

import pytest
from made_up_plan import document

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

from estimator.report.html import json_for_html, report_html
from estimator.report.html_page import data_of, page_of

pytestmark = pytest.mark.pure


def parts(text: str) -> tuple[list[str], str]:
    """The scripts of a page, and the page without plotly.js, which comes first."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    return scripts, text.replace(scripts[0], "")


def test_nothing_is_fetched_from_anywhere() -> None:
    text = report_html(document())
    scripts, own = parts(text)
    assert scripts[0].lstrip().startswith("/**\n* plotly.js v")
    assert not re.search(r"https?://", own)
    assert not re.search(r"<link|<iframe|@import|url\(|src=", own)
    # What plotly.js would fetch for maps and formulas is refused too.
    assert "default-src &#39;none&#39;" in own
    assert "connect-src" not in own
    assert len(own.encode()) < 100_000


def test_the_policy_names_each_script_by_its_hash_and_lets_no_other_run() -> None:
    text = report_html(document())
    scripts, _ = parts(text)
    assert len(scripts) == 3
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(policy.group(1)).split(";"))
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"] == " ".join(f"'sha256-{value}'" for value in hashes)


def test_names_are_escaped_in_markup_and_in_data() -> None:
    harm = "</script><script>alert(1)</script><!-- <b>"
    text = report_html(document(job=harm, module=harm, title=harm))
    assert harm not in text
    assert "<script>alert" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data.group(1))["cells"][0]["job"] == harm


def test_json_in_a_script_element_cannot_end_it() -> None:
    value = {"a": "</script>", "b": "<!--", "c": "\u2028&"}
    text = json_for_html(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_every_warning_error_and_interval_is_in_the_page() -> None:
    page = page_of(document())
    assert [(w["code"], w["count"]) for w in page["warnings"]] == [("context-assumed", "6 cells")]
    assert [(e["what"], e["cells"]) for e in page["errors"]] == [
        ("the step of gpt reads values", ["broken (fp32) on small"])
    ]
    heads = [column.label for column in page["columns"]]
    first = [value.text for value in page["rows"][0]["fields"]]
    # 1 GiB + 100 x 8 MiB, and 32 MiB more at the high end.
    assert first[heads.index("Needs")] == "1.78 GiB"
    assert first[heads.index("At most")] == "1.81 GiB"
    assert first[heads.index("If lucky")] == "102"
    assert first[heads.index("Cards for budget")] == "3"


def test_timelines_are_kept_as_changes() -> None:
    made_up = document()
    line = data_of(made_up)["cells"][0]["timeline"]
    for name, values in made_up["cells"][0]["timeline"]["by_category"].items():
        kib = 0
        for change, value in zip(line["changes"][name], values, strict=True):
            kib += change
            assert kib == round(value / 1024)


def test_a_plan_without_any_answer_has_a_page_too() -> None:
    made_up = document()
    made_up["cells"] = made_up["cells"][6:]  # a failed cell and one that is missing
    page = page_of(made_up)
    assert (page["has_heatmap"], page["has_details"]) == (False, False)
    assert "not predicted" in report_html(made_up)
