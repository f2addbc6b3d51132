"""Verdicts as text, Markdown, JUnit and annotations; names from the user's program are only ever shown."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_up_check import NET, made_up_answer
from markdown_it import MarkdownIt

from estimator.check.compare import compare
from estimator.check.document import CheckDocument, check_document
from estimator.check.footprint import footprint
from estimator.check.github import annotation_lines, is_github
from estimator.check.junit import junit_text
from estimator.check.markdown import MARKER, escaped, markdown_text
from estimator.check.text import write_verdicts
from estimator.check.verdict import Problem, Verdict
from estimator.report.page import Page
from estimator.result import Warning
from estimator.units import GIB, MIB

pytestmark = pytest.mark.pure

EVIL = "a|b`c*d_e<img src=x onerror=alert(1)>[l](http://x)@me #1 ]]>&amp;\x1b[31m\x00\ud800::error::x\r\n::x%0A, z"


def made_up_verdict(name: str = "small", *problems: Problem, module: str = "encoder.9") -> Verdict:
    """A job that grew by 50 MiB in one module."""
    before, now = (
        made_up_answer(),
        made_up_answer({**NET, (module, "aten.mm.default", "activations"): 50 * MIB}, largest=60),
    )
    batch = now.at(16)
    return Verdict(
        name=name, job="train.py:job", problems=problems, notes=("a note",), budget_bytes=1 * GIB, batch=batch,
        footprint=footprint(now, batch), difference=compare(footprint(before, before.at(16)), footprint(now, batch)),
        warnings=(Warning(code="context-assumed", message="a guess", where="conv1"),), seconds=1.5, line=7,
    )  # fmt: skip


OK = made_up_verdict("fine")
FAILED = made_up_verdict("grown", Problem(kind="grew", message="grew by 50 MiB"))
BROKEN = Verdict(
    name="broken", job="pkg.mod:job", line=3,
    problems=(Problem(kind="cannot-predict", message="no, never: 100 %", details="  got: x\n  do: y"),),
)  # fmt: skip
ALL = (OK, FAILED, BROKEN)


def text_of(*verdicts: Verdict, verbose: bool = False) -> str:
    page = Page(StringIO())
    write_verdicts(page, verdicts, verbose=verbose)
    return page.text


def test_text() -> None:
    text = text_of(*ALL)
    assert text.endswith("3 jobs: 1 ok, 1 failed, 1 cannot be predicted\n")
    for said in (
        "fine: ok", "grown: failed\n", "  grew by 50 MiB\n", "broken: cannot be predicted", "  no, never: 100 %\n",
        "do: y",
        "needs          659.00 MiB (high end: 679.00 MiB) of 4.00 GiB", "budget         1.00 GiB, 345.00 MiB left",
        "largest batch that fits: 64 -> 60", "note: a note", "warning: context-assumed: a guess [conv1]",
    ):  # fmt: skip
        assert said in text
    row = next(line for line in text.splitlines() if "encoder.9" in line)
    assert " ".join(row.split()) == "encoder.9 aten.mm.default activations 0 B 50.00 MiB +50.00 MiB +52,428,800"
    assert "cuda context" not in text
    assert "cuda context" in text_of(OK, verbose=True)


def test_text_shows_the_largest_parts_and_says_how_many_more() -> None:
    """12 of them unless --verbose: of 15 new parts, 3 are left out and counted."""
    before = made_up_answer()
    now = made_up_answer({**NET, **{(f"m{n}", "aten.mm.default", "activations"): MIB + n for n in range(15)}})
    difference = compare(footprint(before, before.at(16)), footprint(now, now.at(16)))
    wide = OK.model_copy(update={"difference": difference})
    assert "and 3 more (--verbose)" in text_of(wide)
    assert "m2 " not in text_of(wide)
    assert "m2 " in text_of(wide, verbose=True)
    assert "more (--verbose)" not in text_of(wide, verbose=True)


def test_nothing_changed() -> None:
    answer = made_up_answer()
    same = footprint(answer, answer.at(16))
    text = text_of(OK.model_copy(update={"difference": compare(same, same)}))
    assert "baseline       unchanged" in text
    assert "since the baseline" not in text


def test_junit() -> None:
    """Counts, a case a job, a failure with its message, an error, and the numbers as properties."""
    root = ElementTree.fromstring(junit_text(ALL))
    (suite,) = root
    for element in (root, suite):
        assert {k: element.get(k) for k in ("tests", "failures", "errors")} == {
            "tests": "3",
            "failures": "1",
            "errors": "1",
        }
    fine, grown, broken = suite
    assert [(c.get("classname"), c.get("name")) for c in suite] == [
        ("train.py:job", "fine"), ("train.py:job", "grown"), ("pkg.mod:job", "broken"),
    ]  # fmt: skip
    assert fine.find("failure") is None
    failure, error = grown.find("failure"), broken.find("error")
    assert failure is not None
    assert (failure.get("type"), failure.get("message"), failure.text) == ("grew", "grew by 50 MiB", "grew by 50 MiB")
    assert error is not None
    assert error.text == "no, never: 100 %\n  got: x\n  do: y"
    properties = {p.get("name"): p.get("value") for p in fine.iter("property")}
    assert properties["budget_bytes"] == str(GIB)
    assert properties["peak_requested_bytes"] == str(358 * MIB)
    assert (properties["batch_size"], properties["max_batch_size"]) == ("16", "60")
    out = grown.find("system-out")
    assert out is not None
    assert "encoder.9: aten.mm.default (activations) +52,428,800 bytes" in str(out.text)


def test_junit_with_names_that_xml_cannot_hold() -> None:
    evil = made_up_verdict(EVIL, Problem(kind="grew", message=EVIL), module=EVIL)
    (case,) = ElementTree.fromstring(junit_text([evil]))[0]
    assert str(case.get("name")).startswith("a|b`c*d_e<img src=x onerror=alert(1)>")
    assert "\x1b" not in str(case.get("name"))


def test_markdown_is_a_table_that_reads_back() -> None:
    """Rendered by a Markdown parser: the cells are the facts, whatever marks stand in them."""
    text = markdown_text(ALL)
    assert text.startswith(f"{MARKER}\n### ")
    cells = [
        t.children[0].content for t in MarkdownIt().enable("table").parse(text) if t.type == "inline" and t.children
    ]
    assert "fine" in cells
    assert "659.00 MiB (high end: 679.00 MiB) of 4.00 GiB" in cells
    assert text.count("| grown | ❌ failed |") == 1
    assert "| encoder.9 | aten.mm.default | activations | 0 B | 50.00 MiB | +50.00 MiB |" in text
    assert "no, never: 100 %" in text


def test_markdown_of_evil_names_holds_no_markup() -> None:
    """No tag, link, mention or code, one row of the right number of cells, and the name is still there to read."""
    evil = made_up_verdict(EVIL, Problem(kind="grew", message=EVIL, details=EVIL), module=EVIL)
    text = markdown_text([evil])
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for token in parser.parse(text):
        for child in token.children or []:
            assert child.type in ("text", "softbreak", "strong_open", "strong_close", "html_inline"), child
            assert child.type != "html_inline" or child.content == "<br>", child
        assert token.type != "html_block" or "img" not in token.content
    row = next(line for line in text.splitlines() if line.startswith("| ") and "aten.mm.default" in line)
    assert row.replace(r"\|", "").count("|") == 7
    assert "@me" not in text
    shown = "".join(c.content for t in parser.parse(escaped(EVIL)) for c in t.children or [])
    assert shown.startswith("a|b`c*d_e<img src=x onerror=alert(1)>[l](http://x)@me #1 ]]>&amp;")


def lines(*verdicts: Verdict, folder: Path) -> list[str]:
    return list(annotation_lines(verdicts, folder / "pyproject.toml", {"GITHUB_WORKSPACE": str(folder)}))


def test_annotations(tmp_path: Path) -> None:
    """At the job's own file where it is one that is there, else at the job's table; notes of what is ok are notices."""
    (tmp_path / "train.py").write_text("")
    assert lines(*ALL, folder=tmp_path) == [
        "::notice file=train.py,title=fine%3A ok::a note",
        "::error file=train.py,title=grown%3A failed::grew by 50 MiB",
        "::error file=pyproject.toml,line=3,title=broken%3A cannot be predicted::no, never: 100 %25",
    ]


def test_annotations_cannot_be_forged(tmp_path: Path) -> None:
    """One line each, whatever stands in a name; the runner's marks are escaped."""
    evil = made_up_verdict(EVIL, Problem(kind="grew", message=EVIL))
    (line,) = lines(evil, folder=tmp_path)
    assert "\n" not in line
    assert "\r" not in line
    properties, _, message = line.removeprefix("::error ").partition("::")
    assert [p.partition("=")[0] for p in properties.split(",")] == ["file", "line", "title"]
    assert message.endswith("%0D%0A::x%250A, z")
    assert "%3A%3Aerror%3A%3Ax" in properties


def test_annotations_of_files_outside_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (line,) = annotation_lines([BROKEN], tmp_path / "c,d.toml", {"GITHUB_WORKSPACE": str(tmp_path / "work")})
    assert f"file={tmp_path.as_posix()}/c%2Cd.toml,line=3" in line


def test_where_github_is() -> None:
    assert is_github({"GITHUB_ACTIONS": "true"})
    assert not is_github({"GITHUB_ACTIONS": "false"})
    assert not is_github({})


def test_json_reads_back() -> None:
    document = check_document(ALL, "pyproject.toml", "b.json", False)
    assert (document["check_version"], document["exit_code"]) == (1, 3)
    assert [job["exit_code"] for job in document["jobs"]] == [0, 1, 3]
    assert document["jobs"][1]["difference"]["parts"][0] == {
        "name": "activations", "before_bytes": 0, "now_bytes": 50 * MIB, "module": "encoder.9", "op": "aten.mm.default",
        "change_bytes": 50 * MIB,
    }  # fmt: skip
    assert CheckDocument.model_validate(document).jobs == ALL
