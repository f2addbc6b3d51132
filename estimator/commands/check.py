"""`batch-estimator check [FILE]`: jobs held to their budgets and to a committed baseline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estimator.commands import options as o
from estimator.commands.run import answer_alone_on_stdout, check_writable, guarded, write_json
from estimator.errors import ConfigError

if TYPE_CHECKING:
    from estimator.check.baseline import Baseline
    from estimator.check.config import CheckConfig, JobEntry
    from estimator.check.verdict import Verdict

_WHAT = "What is checked"

File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        show_default=False,
        help="pyproject.toml with [tool.batch-estimator.jobs.NAME], or a TOML file with [jobs.NAME]. "
        "Default: ./pyproject.toml if it has jobs, else ./batch-estimator.toml.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--job",
        metavar="NAME",
        show_default=False,
        rich_help_panel=_WHAT,
        help="Check this job alone; may be repeated.",
    ),
]
BaselinePath = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        rich_help_panel=_WHAT,
        metavar="PATH",
        show_default=False,
        help="The baseline, instead of the one FILE names (or .batch-estimator.json beside it).",
    ),
]
Update = Annotated[
    bool,
    typer.Option(
        "--update-baseline",
        rich_help_panel=o.ANSWER,
        help="Accept today's figures: write them to the baseline, to be committed.",
    ),
]
Junit = Annotated[
    Path | None,
    typer.Option(
        "--junit",
        rich_help_panel=o.ANSWER,
        metavar="FILE",
        show_default=False,
        help="Write JUnit XML, a test case a job.",
    ),
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        "--markdown",
        rich_help_panel=o.ANSWER,
        metavar="FILE",
        show_default=False,
        help="Write Markdown, for a pull request.",
    ),
]
Github = Annotated[
    bool | None,
    typer.Option(
        "--github/--no-github",
        rich_help_panel=o.ANSWER,
        show_default=False,
        help="Annotations of GitHub Actions. Default: where GITHUB_ACTIONS is true.",
    ),
]


@guarded
def check(
    file: File = None,
    only: Only = None,
    baseline: BaselinePath = None,
    update_baseline: Update = False,
    junit: Junit = None,
    markdown: Markdown = None,
    github: Github = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Hold jobs to budgets and to a committed baseline, and say what grew.

    Exit code: 0 all is well, 1 over budget, grown or not fitting, 2 not well put, 3 a job cannot be predicted; the
    highest of all jobs.
    """
    check_writable(junit, "--junit")
    check_writable(markdown, "--markdown")
    from estimator.report.progress import Progress

    with answer_alone_on_stdout(), Progress(quiet=quiet) as progress:
        progress("reading the jobs")
        from estimator.check.config import find_config, read_config
        from estimator.check.run import check_jobs

        config = read_config(file or find_config(Path()))
        entries = _chosen(config, only)
        place = baseline or config.baseline
        held = _held(
            place, must_be=baseline is not None or config.baseline_is_named, update=update_baseline, all_jobs=not only
        )
        jobs = None if held is None else held.jobs
        verdicts = check_jobs(config, entries, jobs, accept=update_baseline, progress=progress, debug=debug)
        progress("writing")
        updated = update_baseline and _update(place, held, verdicts, config)
        _write_files(verdicts, junit, markdown)
    _show(verdicts, config, place, held, updated, update_baseline=update_baseline, as_json=as_json, verbose=verbose)
    _annotate(verdicts, config, github, as_json=as_json)
    from estimator.check.verdict import worst

    return worst(verdicts)


def _chosen(config: CheckConfig, only: list[str] | None) -> tuple[JobEntry, ...]:
    if not only:
        return config.jobs
    from estimator.sources.words import did_you_mean

    names = [entry.name for entry in config.jobs]
    problems = [f"{name}: {did_you_mean(name, names) or 'unknown'}" for name in only if name not in names]
    if problems:
        raise ConfigError("no job has that name", allowed=", ".join(names), where="--job", problems=problems)
    return tuple(entry for entry in config.jobs if entry.name in only)


def _held(place: Path, *, must_be: bool, update: bool, all_jobs: bool) -> Baseline | None:
    """The baseline, or None where there is none and none is asked for, or where it is replaced whole.

    Raises:
        ConfigError: it cannot be read, or was named and is not there.
    """
    from estimator.check.baseline import UPDATE, read_baseline

    if not place.exists():
        if must_be and not update:
            raise ConfigError("the baseline is not there", got=str(place), hint=f"make it and commit it: {UPDATE}")
        return None
    try:
        return read_baseline(place)
    except ConfigError:
        # Its error says to make it anew; with all jobs at hand, that is what this run does.
        if update and all_jobs:
            return None
        raise


def _update(place: Path, held: Baseline | None, verdicts: list[Verdict], config: CheckConfig) -> bool:
    """Put the new figures into the baseline; jobs without new ones keep theirs, jobs that are no more go."""
    from estimator.check.baseline import write_baseline

    local = {verdict.name for verdict in verdicts if not verdict.is_portable}
    kept = {entry.name for entry in config.jobs if not entry.is_local} - local
    old = {} if held is None else {name: found for name, found in held.jobs.items() if name in kept}
    new = {v.name: v.footprint for v in verdicts if v.footprint is not None and v.name in kept}
    return bool(new) and write_baseline(place, {**old, **new})


def _write_files(verdicts: list[Verdict], junit: Path | None, markdown: Path | None) -> None:
    if junit is not None:
        from estimator.check.junit import junit_text

        junit.write_text(junit_text(verdicts), encoding="utf-8")
    if markdown is not None:
        from estimator.check.markdown import markdown_text

        markdown.write_text(markdown_text(verdicts), encoding="utf-8")


def _show(
    verdicts: list[Verdict],
    config: CheckConfig,
    place: Path,
    held: Baseline | None,
    updated: bool,
    *,
    update_baseline: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    if as_json:
        from estimator.check.document import check_document

        write_json(check_document(verdicts, str(config.path), str(place), updated))
        return
    from estimator.check.text import write_verdicts
    from estimator.report.page import page_on_stdout

    with page_on_stdout() as page:
        write_verdicts(page, verdicts, verbose=verbose)
        gone = sorted(set(held.jobs if held else ()) - {entry.name for entry in config.jobs})
        if gone:
            page.line(f"{'left out of' if updated else 'still in'} the baseline, though no job any more: {', '.join(gone)}")
        if update_baseline:
            page.line(f"wrote {place}; commit it" if updated else f"nothing new for {place}")


def _annotate(verdicts: list[Verdict], config: CheckConfig, github: bool | None, *, as_json: bool) -> None:
    from estimator.check.github import annotation_lines, is_github
    from estimator.report.page import write_out

    if github or (github is None and is_github()):
        # GitHub's runner reads both streams; JSON has stdout to itself.
        text = "".join(f"{line}\n" for line in annotation_lines(verdicts, config.path))
        write_out(text, sys.stderr if as_json else sys.stdout)
