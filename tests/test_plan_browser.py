"""The report opens from disk in a real browser: figures drawn, the table sorted and filtered, nothing on the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from made_up_plan import document

pytestmark = pytest.mark.pure

HARMS = (
    "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>",
    "<a href=\"javascript:document.title='harmed'\">a</a> <b>b</b> &lt; $x$ %{y}",
)
FIGURES = ("heatmap", "curve", "timeline", "modules")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def opened(window: Browser, folder: Path, made_up: Any) -> Browser:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    from estimator.report.html import report_html

    path = folder / "report.html"
    path.write_text(report_html(made_up), encoding="utf-8")
    window.open(path)
    window.wait("document.documentElement.dataset.drawn")
    return window


@pytest.fixture
def page(window: Browser, tmp_path: Path) -> Browser:
    return opened(window, tmp_path, document())


def column(page: Browser, title: str) -> list[str]:
    """Texts of a column of the table, in the rows that are shown."""
    return page.run(  # type: ignore[no-any-return]
        "const table = document.getElementById('table'), heads = [...table.tHead.rows[0].cells];"
        "const at = heads.findIndex(head => head.textContent.trim() === arguments[0]);"
        "return [...table.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[at].textContent.trim());",
        title,
    )


def sort_by(page: Browser, title: str) -> None:
    page.run(
        "[...document.querySelectorAll('#table thead button')]"
        ".find(button => button.textContent.trim() === arguments[0]).click()",
        title,
    )


def texts(page: Browser, figure: str, selector: str = "text") -> list[str]:
    """Texts that a figure shows, as a person reads them."""
    return page.run(  # type: ignore[no-any-return]
        "return [...document.querySelectorAll(arguments[0])].map(text => text.textContent.replaceAll('\u00a0', ' '))",
        f"#{figure} {selector}",
    )


def point_at(page: Browser, figure: str, x: float, y: float) -> None:
    """Move the pointer to a place of a figure's plane, in parts of its width and height."""
    page.run(
        "const box = document.querySelector(arguments[0] + ' .nsewdrag').getBoundingClientRect();"
        "const at = { bubbles: true, clientX: box.x + box.width * arguments[1], clientY: box.y + box.height * arguments[2] };"
        "const over = document.querySelector(arguments[0] + ' .nsewdrag');"
        "for (const kind of ['mouseover', 'mousemove']) over.dispatchEvent(new MouseEvent(kind, at));",
        f"#{figure}",
        x,
        y,
    )


def choose_cell(page: Browser, column: int, row: int, columns: int, rows: int) -> None:
    """Click a box of the heatmap, where it is shown."""
    page.click_at("#heatmap .nsewdrag", (column + 0.5) / columns, (row + 0.5) / rows)


def test_every_figure_is_drawn_and_nothing_is_on_the_console_or_fetched(page: Browser) -> None:
    for name in FIGURES:
        box = page.run(
            f"const box = document.querySelector('#{name} svg').getBoundingClientRect(); return [box.width, box.height]"
        )
        assert box[0] > 250, (name, box)
        assert box[1] > 50, (name, box)
    # Three sizes of the made-up curve fit; beyond, the largest of them and the one that does not.
    assert page.run(
        "return [...document.querySelectorAll('#curve .points')].map(g => g.children.length).filter(Boolean)"
    ) == [3, 2]
    assert "Small Card: 24.00 GiB" in texts(page, "curve")
    assert [text.strip() for text in texts(page, "curve", ".legendtext")] == ["interval", "fits", "would need"]
    assert page.run("return document.querySelectorAll('#curve .shapelayer path').length") == 2  # too much; the largest
    assert texts(page, "timeline", ".legendtext") == ["parameters", "activations", "temporaries"]
    assert (
        page.run(
            "return [...document.querySelectorAll('#timeline .fills path')].filter(p => p.getAttribute('d')).length"
        )
        == 3
    )
    shown = texts(page, "timeline")
    assert {"forward", "backward"} <= set(shown)
    assert any(text.startswith("peak ") for text in shown)
    assert page.run("return document.querySelectorAll('#modules .bars .point').length") == 3  # of one module
    assert "blocks.3.mlp" in texts(page, "modules")
    assert page.run("return performance.getEntriesByType('resource').map(entry => entry.name)") == []
    assert page.console() == []


def test_the_heatmap_has_a_box_a_cell_and_chooses_it(page: Browser) -> None:
    assert texts(page, "heatmap", ".ytick text") == ["gpt · fp32", "gpt · amp-bf16", "wide · fp32", "broken · fp32"]
    boxes = [text for text in texts(page, "heatmap", ".heatmaplayer text") if text]
    assert sorted(boxes) == sorted(["100", "1,200", "180", "any", "0", "9", "\u2013", "\u2026"])
    for column, row, said in (
        (1, 0, ("Large Card", "1,200")),
        (1, 1, ("does not limit",)),
        (0, 2, ("Not even one sample",)),
    ):
        page.run("document.getElementById('heatmap').scrollIntoView()")
        choose_cell(page, column, row, 2, 4)
        for words in said:
            page.wait(f"document.getElementById('verdict').textContent.includes('{words}')")
    assert page.run("return document.getElementById('choose-job').value") == "wide"
    page.run("document.getElementById('heatmap').scrollIntoView()")
    choose_cell(page, 0, 3, 2, 4)  # one that was not predicted: there is nothing to show
    assert page.run("return document.getElementById('choose-job').value") == "wide"
    assert page.console() == []


def test_a_cell_is_chosen_by_name_too(page: Browser) -> None:
    page.run(
        "const select = document.getElementById('choose-device'); select.value = 'large';"
        "select.dispatchEvent(new Event('change', { bubbles: true }));"
    )
    page.wait("document.getElementById('curve').textContent.includes('Large Card: 80.00')")
    page.click("#table tbody tr[data-index='5'] button.show")
    page.wait("document.getElementById('choose-job').value === 'wide'")
    assert page.console() == []


def test_the_table_sorts_by_numbers_both_ways_with_what_is_missing_last(page: Browser) -> None:
    sort_by(page, "Largest batch")
    assert column(page, "Largest batch") == ["0", "9", "100", "180", "1,200", "any", "", ""]
    sort_by(page, "Largest batch")
    assert column(page, "Largest batch") == ["any", "1,200", "180", "100", "9", "0", "", ""]
    assert page.run("return document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "descending"
    sort_by(page, "Job")
    assert column(page, "Job") == ["broken", "broken", "gpt", "gpt", "gpt", "gpt", "wide", "wide"]
    assert page.console() == []


def test_the_table_filters_by_words_and_by_choice(page: Browser) -> None:
    page.type("#filter-text", "amp large")
    assert column(page, "Largest batch") == ["any"]
    assert page.run("return document.getElementById('count').textContent") == "1 of 8 cells"
    page.run(
        "const text = document.getElementById('filter-text'); text.value = '';"
        "const select = [...document.querySelectorAll('#filters select')].find(s => s.labels[0].textContent.startsWith('Status'));"
        "select.value = 'not predicted'; select.dispatchEvent(new Event('input', { bubbles: true }));"
    )
    assert column(page, "Job") == ["broken"]
    assert page.console() == []


def test_pointing_at_a_figure_says_what_is_there(page: Browser) -> None:
    page.run("document.getElementById('timeline').scrollIntoView()")
    point_at(page, "timeline", 0.7, 0.5)
    page.wait("document.querySelector('#timeline .hoverlayer').textContent.includes('activations')")
    said = page.run("return document.querySelector('#timeline .hoverlayer').textContent")
    assert "backward" in said
    assert "GiB" in said


def test_a_figure_is_saved_as_svg(page: Browser) -> None:
    text = page.run(
        "window.made = null;"
        "Plotly.toImage(document.getElementById('curve'), { format: 'svg' }).then(url => { window.made = url; });"
    )
    page.wait("window.made")
    text = page.run("return decodeURIComponent(window.made)")
    assert text.startswith("data:image/svg+xml,<svg")
    assert "Small Card" in text
    assert page.run("return [...document.querySelectorAll('#curve .modebar-btn')].map(b => b.dataset.title)")[:2] == [
        "Save as SVG",
        "Save as PNG",
    ]
    assert page.console() == []


def test_one_estimate_and_a_plan_without_answers_have_pages_too(window: Browser, tmp_path: Path) -> None:
    made_up = document()
    made_up["cells"] = made_up["cells"][:1]
    page = opened(window, tmp_path, {**made_up, "is_plan": False})
    assert page.run("return document.getElementById('heatmap')") is None
    assert "Small Card: 24.00 GiB" in texts(page, "curve")
    assert page.console() == []
    made_up["cells"] = document()["cells"][6:]
    page = opened(window, tmp_path, made_up)
    assert column(page, "Status") == ["not predicted", "not solved yet"]
    assert page.console() == []


@pytest.mark.parametrize("harm", HARMS)
def test_names_that_would_do_harm_are_shown_and_not_run(window: Browser, tmp_path: Path, harm: str) -> None:
    page = opened(window, tmp_path, document(job=harm, module=harm, title=harm))
    assert page.run("return document.title") == harm
    assert page.run("return document.querySelectorAll('img, a:not(.skip):not(.modebar-btn)').length") == 0
    assert page.run("return document.querySelector('h1').textContent") == harm
    assert harm in column(page, "Job")
    assert f"{harm} · fp32"[-12:] in texts(page, "heatmap", ".ytick text")[0]
    point_at(page, "heatmap", 0.25, 0.125)
    page.wait("document.querySelector('#heatmap .hoverlayer text')")
    assert harm in "".join(texts(page, "heatmap", ".hoverlayer text"))
    point_at(page, "modules", 0.1, 0.5)
    page.wait("document.querySelector('#modules .hoverlayer text')")
    assert harm in "".join(texts(page, "modules", ".hoverlayer text"))
    assert page.run("return document.title") == harm
    assert page.console() == []


@pytest.mark.parametrize("options", [("800,900",), ("420,900", "--force-dark-mode")], ids=["light", "dark"])
def test_a_narrow_window_and_a_dark_one_draw_too(tmp_path: Path, options: tuple[str, ...]) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("plotly")
    with chromium(tmp_path, *options) as narrow:
        page = opened(narrow, tmp_path, document())
        assert page.run("return matchMedia('(prefers-color-scheme: dark)').matches") is (len(options) > 1)
        over = page.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, "the page is wider than the window"
        for name in ("curve", "timeline", "modules"):
            beyond = f"return document.querySelector('#{name} svg').getBoundingClientRect().right - innerWidth"
            assert page.run(beyond) <= 0, name
        ink = page.run("return getComputedStyle(document.querySelector('#curve .xtick text')).fill")
        quiet = page.run("return getComputedStyle(document.querySelector('.lead')).color")
        assert ink == quiet
        assert page.console() == []
