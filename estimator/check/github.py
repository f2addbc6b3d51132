"""Verdicts as annotations of GitHub Actions: lines that its runner reads from a step's output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from estimator.check.verdict import OK, Verdict


def is_github(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a step of GitHub Actions.

    Source: GitHub Docs, "Variables reference", GITHUB_ACTIONS.
    """
    return environ.get("GITHUB_ACTIONS") == "true"


def annotation_lines(
    verdicts: Sequence[Verdict], config: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """An `::error` line for each problem, and a `::notice` for each note of a job that is ok.

    Args:
        verdicts: all of them.
        config: the file that names the jobs; a job that is a file itself is annotated there, others in this one.
        environ: GITHUB_WORKSPACE is the folder to which the files are relative.
    """
    top = Path(environ.get("GITHUB_WORKSPACE") or Path.cwd())
    for verdict in verdicts:
        place = _place(verdict, config, top)
        for problem in verdict.problems:
            yield _command("error", {**place, "title": f"{verdict.name}: {verdict.status}"}, problem.message)
        if verdict.exit_code == OK:
            for note in verdict.notes:
                yield _command("notice", {**place, "title": f"{verdict.name}: {verdict.status}"}, note)


def _place(verdict: Verdict, config: Path, top: Path) -> dict[str, str]:
    source = config.parent / verdict.job.rpartition(":")[0]
    if source.suffix == ".py" and source.is_file():
        return {"file": _below(source, top)}
    line = {} if verdict.line is None else {"line": str(verdict.line)}
    return {"file": _below(config, top), **line}


def _below(path: Path, top: Path) -> str:
    try:
        return path.resolve().relative_to(top.resolve()).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def _command(name: str, properties: Mapping[str, str], message: str) -> str:
    said = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {said}::{_data(message)}"


def _data(text: str) -> str:
    """Source: actions/toolkit, packages/core/src/command.ts, escapeData."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Source: actions/toolkit, packages/core/src/command.ts, escapeProperty."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")
