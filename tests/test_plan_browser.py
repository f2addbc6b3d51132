"""The report opens from disk in a real browser: figures drawn, the table sorted and filtered, nothing on the console."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from made_up_plan import document

pytestmark = pytest.mark.pure

HARM = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"
FIGURES = ("curve", "timeline", "modules")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def opened(window: Browser, folder: Path, made_up: Any) -> Browser:
    pytest.importorskip("jinja2")
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


def test_every_figure_is_drawn_and_nothing_is_on_the_console(page: Browser) -> None:
    for name in FIGURES:
        box = page.run(
            f"const box = document.querySelector('#{name} svg').getBoundingClientRect(); return [box.width, box.height]"
        )
        assert box[0] > 250, (name, box)
        assert box[1] > 50, (name, box)
    assert page.run("return document.querySelectorAll('#curve .dot').length") == 4  # points of the made-up curve
    assert page.run("return document.querySelectorAll('#curve .limit').length") == 1
    assert "Small Card: 24.00 GiB" in page.run("return document.getElementById('curve').textContent")
    assert page.run("return document.querySelectorAll('#timeline .area').length") == 3  # categories
    for phase in ("forward", "backward", "optimizer"):
        assert phase in page.run("return document.getElementById('timeline').textContent")
    assert page.run("return document.querySelectorAll('#modules .bar').length") == 2  # parameters and activations
    assert page.console() == []


def test_the_heatmap_has_a_box_a_cell_and_chooses_it(page: Browser) -> None:
    rows = page.run(
        "return [...document.querySelectorAll('.heat tbody tr')]"
        ".map(row => [...row.querySelectorAll('button')].map(button => button.textContent))"
    )
    assert rows == [["100", "1,200"], ["180", "any"], ["0", "9"], ["\u2013", "\u2026"]]
    page.click(".heat button[data-index='1']")
    assert "Large Card" in page.run("return document.getElementById('verdict').textContent")
    assert "1,200" in page.run("return document.getElementById('verdict').textContent")
    assert "Large Card: 80.00 GiB" in page.run("return document.getElementById('curve').textContent")
    assert page.run("return document.querySelector('.heat [aria-pressed=true]').dataset.index") == "1"
    page.click(".heat button[data-index='3']")  # one that memory does not limit
    assert "does not limit" in page.run("return document.getElementById('verdict').textContent")
    page.click(".heat button[data-index='4']")  # one that does not fit at all
    assert "Not even one sample" in page.run("return document.getElementById('verdict').textContent")
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
    page.run(
        "const over = document.querySelector('#timeline .hit'), box = over.getBoundingClientRect();"
        "over.dispatchEvent(new PointerEvent('pointermove', { clientX: box.x + box.width / 2, clientY: box.y + 9 }));"
    )
    assert page.run("return document.getElementById('tip').hidden") is False
    assert "activations" in page.run("return document.getElementById('tip').textContent")


def test_names_that_would_do_harm_are_shown_and_not_run(window: Browser, tmp_path: Path) -> None:
    page = opened(window, tmp_path, document(job=HARM, module=HARM, title=HARM))
    page.click(".heat button[data-index='0']")
    assert page.run("return document.title") == HARM
    assert page.run("return document.querySelectorAll('img').length") == 0
    assert page.run("return document.querySelector('h1').textContent") == HARM
    assert HARM in column(page, "Job")
    assert page.run("return document.querySelector('.heat th.job').textContent") == HARM
    assert page.console() == []


def test_a_narrow_window_and_a_dark_one_draw_too(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    with chromium(tmp_path, "420,900", "--force-dark-mode") as narrow:
        page = opened(narrow, tmp_path, document())
        over = page.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, "the page is wider than the window"
        assert page.run("return document.querySelector('#curve svg').getBoundingClientRect().right - innerWidth") <= 0
        assert page.console() == []
