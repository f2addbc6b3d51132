"""The pages of a frontier and of a data set's lengths: one file each, escaped, with every answer; drawn in a browser."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Browser, chromium
from made_up_sizes import SIZES, frontier, lengths
from test_plan_browser import HARMS, texts
from test_plan_report import parts

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

from estimator.report.sizes_html import frontier_html, lengths_html

pytestmark = pytest.mark.pure
PAGES = pytest.mark.parametrize(
    "made",
    [
        lambda text: lengths_html(lengths(text, text, text)),
        lambda text: frontier_html(frontier(text, (text, "b"), text)),
    ],
    ids=["lengths", "frontier"],
)
Made = Callable[[str], str]


def rows_under(text: str, title: str) -> list[list[str]]:
    """The texts of the table under a heading, its heads first."""
    table = re.search(rf"<h2[^>]*>{re.escape(title)}</h2>.*?</table>", text, re.DOTALL)
    assert table is not None, title
    rows = re.findall(r"<tr>(.*?)</tr>", table.group(), re.DOTALL)
    return [
        [html.unescape(value) for value in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows
    ]


@PAGES
def test_a_page_is_one_file_that_fetches_nothing(made: Made) -> None:
    scripts, own = parts(made("gpt"))
    assert len(scripts) == 3
    assert not re.search(r"https?://|<link|<iframe|@import|url\(|src=", own)
    assert "default-src &#39;none&#39;" in own
    assert len(own.encode()) < 100_000


@PAGES
def test_what_comes_from_the_user_is_escaped(made: Made) -> None:
    harm = "</script><script>alert(1)</script><!-- <b>"
    text = made(harm)
    assert harm not in text
    assert "<script>alert" not in text
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data.group(1))["cells"]
    assert html.escape(harm, quote=False) in text


def test_a_page_of_lengths_has_every_answer() -> None:
    text = lengths_html(lengths())
    rows = rows_under(text, "Largest batch by its longest sample")
    assert [row[:4] for row in rows[1:]] == [["99", "256", "256", "65,536"], ["longest", "512", "128", "65,536"]]
    assert [row[-1] for row in rows[1:]] == ["25 % to 50 %", "none"]
    batches = dict(rows_under(text, "Batches")[1:])
    assert batches["max_tokens"].startswith("64,000 padded")
    assert batches["worst batch"].endswith("150.00 MiB of 64.00 MiB, does not fit")  # 300 x 512 KiB, 64 Ki x 1 KiB
    # 64 Ki tokens over each length; a tenth more where every guess is lucky.
    assert [row[:3] for row in rows_under(text, "Traced lengths")[1:]] == [
        ["64", "1,024", "1,126"], ["128", "512", "563"], ["256", "256", "281"], ["512", "128", "140"],
    ]  # fmt: skip
    assert rows_under(text, "Samples by length")[1:] == [
        ["64", "191", "700"],
        ["192", "319", "295"],
        ["320", "512", "5"],
    ]
    assert "context-assumed" in text


def test_a_page_of_a_frontier_has_every_size_error_and_warning() -> None:
    text = frontier_html(frontier())
    assert [row[:3] for row in rows_under(text, "On large")[1:]] == [
        ["64", "4,096", "262,144"], ["128", "2,048", "262,144"], ["256", "1,024", "262,144"], ["512", "512", "262,144"],
        ["2048", "-", ""],
    ]  # fmt: skip
    assert rows_under(text, "On small")[-1][1] == "0"
    assert "a guess went wrong\n  got: x" in text
    assert "sequence length 2048 on large" in text
    assert re.search(r"context-assumed</code> a guess <span[^>]*>8 sizes", text)


# ------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def opened(window: Browser, folder: Path, text: str) -> Browser:
    path = folder / "page.html"
    path.write_text(text, encoding="utf-8")
    window.open(path)
    window.wait("document.documentElement.dataset.drawn")
    return window


def bars(page: Browser) -> list[float]:
    """Heights of the histogram's bars, on the screen."""
    return page.run(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll('#histogram .bars .point')].map(bar => bar.getBoundingClientRect().height)"
    )


def test_the_histogram_and_the_largest_batches_are_drawn(window: Browser, tmp_path: Path) -> None:
    page = opened(window, tmp_path, lengths_html(lengths()))
    heights = bars(page)
    assert len(heights) == 3
    assert heights[0] / heights[1] == pytest.approx(700 / 295, rel=0.05)
    assert page.run("return document.querySelectorAll('#histogram .shapelayer path').length") == 2  # of two lengths
    shown = texts(page, "histogram", ".annotation-text")
    assert shown == ["99 %: 256", "longest, holds max_tokens to 64,000: 512"]
    assert page.run(
        "return [...document.querySelectorAll('#largest .points')].map(g => g.children.length).filter(Boolean)"
    ) == [4]
    legend = [text.strip() for text in texts(page, "largest", ".legendtext")]
    assert legend == ["small", "max_tokens: 64,000 padded", "batch of 300"]
    assert page.run("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert page.console() == []


def test_the_frontier_has_curves_and_a_heatmap(window: Browser, tmp_path: Path) -> None:
    page = opened(window, tmp_path, frontier_html(frontier()))
    for name in ("largest", "sample"):
        drawn = f"return [...document.querySelectorAll('#{name} .points')].map(g => g.children.length).filter(Boolean)"
        assert page.run(drawn) == [4, 4], name
    assert texts(page, "heatmap", ".ytick text") == [f"sequence length {size}" for size in SIZES]
    boxes = [text for text in texts(page, "heatmap", ".heatmaplayer text") if text]
    assert sorted(boxes) == sorted(["1,024", "512", "256", "128", "0", "4,096", "2,048", "1,024", "512", "\u2013"])
    assert page.console() == []
    page = opened(window, tmp_path, frontier_html(frontier(devices=("small",))))
    assert page.run("return document.getElementById('heatmap')") is None
    assert page.console() == []


def test_a_page_without_any_answer_opens_too(window: Browser, tmp_path: Path) -> None:
    made = frontier()
    none = tuple(one.model_copy(update={"max_batch_size": None, "error": "no", "warnings": ()}) for one in made.points)
    page = opened(window, tmp_path, frontier_html(made.model_copy(update={"points": none})))
    assert page.run("return document.getElementById('largest')") is None
    assert page.console() == []


@pytest.mark.parametrize("harm", HARMS)
@PAGES
def test_names_that_would_do_harm_are_shown_and_not_run(window: Browser, tmp_path: Path, made: Made, harm: str) -> None:
    page = opened(window, tmp_path, made(harm))
    title = page.run("return document.title")
    assert harm in title
    assert page.run("return document.querySelectorAll('img, a:not(.skip):not(.modebar-btn)').length") == 0
    assert harm in page.run("return document.querySelector('h1').textContent")
    assert harm in page.run("return document.body.textContent")
    assert page.run("return document.title") == title
    assert page.console() == []
