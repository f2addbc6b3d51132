"""Verdicts as JUnit XML: a test case a job.

Source: the elements that Jenkins' JUnit plugin and GitLab read (testsuites, testsuite, testcase, failure, error,
properties, system-out), as pytest's `--junitxml` writes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from estimator.check.text import facts
from estimator.check.verdict import FAILED, OK, Verdict, figures

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML cannot hold at all. Source: XML 1.0, production 2, Char."""


def junit_text(verdicts: Sequence[Verdict], name: str = "batch-estimator check") -> str:
    """The document. A job that failed has a `failure`; one without an answer or not well put has an `error`."""
    counts = {
        "tests": len(verdicts),
        "failures": sum(v.exit_code == FAILED for v in verdicts),
        "errors": sum(v.exit_code > FAILED for v in verdicts),
        "skipped": 0,
    }
    attributes = {
        **{key: str(value) for key, value in counts.items()},
        "time": f"{sum(v.seconds for v in verdicts):.3f}",
    }
    suites = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **attributes})
    for verdict in verdicts:
        _case(suite, verdict)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, verdict: Verdict) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {"classname": _xml(verdict.job), "name": _xml(verdict.name), "time": f"{verdict.seconds:.3f}"},
    )
    properties = ElementTree.SubElement(case, "properties")
    found, batch = verdict.footprint, verdict.batch
    known = {} if found is None or batch is None else figures(batch, found.max_batch_size, verdict.budget_bytes)
    for key, value in known.items():
        ElementTree.SubElement(properties, "property", {"name": key, "value": str(value)})
    if verdict.exit_code != OK:
        kind = "failure" if verdict.exit_code == FAILED else "error"
        attributes = {"type": verdict.problems[0].kind, "message": _xml("; ".join(p.message for p in verdict.problems))}
        element = ElementTree.SubElement(case, kind, attributes)
        element.text = _xml("\n".join(line for p in verdict.problems for line in (p.message, p.details) if line))
    said = [f"{label}: {value}" for label, value in facts(verdict)]
    said += [f"note: {note}" for note in verdict.notes]
    said += [f"warning: {w.code}: {w.message}" for w in verdict.warnings]
    if verdict.difference is not None:
        said += [f"{c.place} {c.change_bytes:+,} bytes" for c in verdict.difference.parts]
    ElementTree.SubElement(case, "system-out").text = _xml("\n".join(said))


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)
