"""An answer as a single HTML file that opens from disk: styles, scripts and figures are inside it.

The figures are drawn by plotly.js, which is in the file too, as the package `plotly` brings it.

What comes from the user's program (names, errors) is escaped wherever it stands: in the markup by jinja2, in the
figures' JSON here; the scripts set it as text only. A Content-Security-Policy names the scripts by their hashes, so
that even text which slipped through would not run, and nothing is fetched from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.errors import UsageError
from estimator.report.html_page import data_of, page_of

if TYPE_CHECKING:
    from estimator.result import Estimate

_TEMPLATES = Path(__file__).parent / "templates"


def report_html(document: Mapping[str, Any]) -> str:
    """The page of a plan, from the document that `estimator.plan.tables.document_of` makes.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    return rendered("report.html.j2", page_of(document), data_of(document), "page.js")


def rendered(template: str, page: Mapping[str, Any], data: Mapping[str, Any], script: str) -> str:
    """A page with everything in it.

    Args:
        template: its name in `templates`.
        page: texts and tables.
        data: figures, for the scripts.
        script: the one of this kind of page, which draws them with `figures.js`.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UsageError(
            "an HTML report needs jinja2 and plotly", got=str(error), hint="pip install 'batch-estimator[plan]'"
        ) from None

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    scripts = [_with_browsers_line_ends(get_plotlyjs())]
    scripts += [
        _with_browsers_line_ends((_TEMPLATES / name).read_text(encoding="utf-8")) for name in ("figures.js", script)
    ]
    return environment.get_template(template).render(
        page=page,
        policy=_policy(scripts),
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        data=Markup(json_for_html(data)),
        scripts=[Markup(script) for script in scripts],
    )


def estimate_html(estimate: Estimate) -> str:
    """The page of one estimate.

    Raises:
        UsageError: jinja2 or plotly is not installed.
    """
    return report_html(estimate_document(estimate))


def estimate_document(estimate: Estimate) -> dict[str, Any]:
    """One estimate as a plan of one cell."""
    from estimator import __version__
    from estimator.report.cell import result_of

    result = result_of(estimate)
    device = estimate.device.title or estimate.device.name
    return {
        "batch_estimator": __version__,
        "title": f"{estimate.job} on {device}",
        "is_plan": False,
        "torch_version": estimate.torch_version,
        "currency": "",
        "budget": None,
        "global_batch": None,
        "varying": [],
        "devices": [estimate.device.model_dump(mode="json")],
        "cells": [
            {
                "job": estimate.job,
                "spec": "",
                "options": {},
                "device": estimate.device.name,
                "status": "ok" if result["fits"] else "does not fit",
                "money": {},
                **result,
            }
        ],
    }


def json_for_html(value: Any) -> str:
    """JSON that neither ends the script element it stands in nor opens a comment.

    Source: HTML standard, "Restrictions for contents of script elements": only `<` followed by `!--`, `script` or
    `/script` matters there; every `<` is written as its escape.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for mark in "<>&\u2028\u2029":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text


def _with_browsers_line_ends(script: str) -> str:
    """A script as a browser sees it in a page: the policy's hashes are of that.

    Source: HTML standard, "Preprocessing the input stream".
    """
    return script.replace("\r\n", "\n").replace("\r", "\n")


def _policy(scripts: list[str]) -> str:
    """Content-Security-Policy: these scripts, styles of the page itself, and nothing from elsewhere."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'", "img-src data: blob:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))
