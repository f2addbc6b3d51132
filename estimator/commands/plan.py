"""`batch-estimator plan PLAN`: jobs and settings on many devices, as a report, CSV and JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.run import answer_alone_on_stdout, guarded, write_json
from estimator.errors import CannotPredictError, UsageError

if TYPE_CHECKING:
    from estimator.plan.run import Outcome

PlanFile = Annotated[
    Path,
    typer.Argument(metavar="PLAN", show_default=False, help="A TOML file with devices and [[jobs]]; see the README."),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        rich_help_panel=o.ANSWER,
        metavar="DIR",
        show_default=False,
        help="Where report.html, plan.csv and plan.json go, and cells.jsonl, from which a later run goes on.",
    ),
]
Plots = Annotated[
    str | None,
    typer.Option(
        "--plots",
        rich_help_panel=o.ANSWER,
        metavar="svg|png",
        show_default=False,
        help="Write the plots as files too, in DIR/plots.",
    ),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        rich_help_panel=o.WORK,
        metavar="ENGINE",
        help="local (default), dask://HOST:PORT, ray://HOST:PORT or slurm:PARTITION.",
        show_default=False,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        "-j",
        rich_help_panel=o.WORK,
        metavar="N",
        min=1,
        show_default=False,
        help="Processes (or jobs of Slurm) at a time. Default: one a core.",
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", rich_help_panel=o.WORK, help="Try again what could not be predicted before."),
]


@guarded
def plan(
    file: PlanFile,
    output: Output,
    plots: Plots = None,
    engine: EngineName = "local",
    workers: Workers = None,
    retry_failed: RetryFailed = False,
    as_json: o.AsJson = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Plan capacity: solve every job and setting on every device, in parallel, and write a report.

    Killed or interrupted, the same command goes on where it was.

    Exit code: 0 every cell has an answer, 2 the plan is not well put, 3 some cell has none.
    """
    if plots not in (None, "svg", "png"):
        raise UsageError("no such format of plots", got=repr(plots), allowed="svg or png", where="--plots")
    with answer_alone_on_stdout():
        from estimator.plan.config import read_plan
        from estimator.plan.run import run_plan
        from estimator.plan.tables import document_of
        from estimator.report.bar import Bar

        read = read_plan(file)
        check_extras(plots)
        with Bar("cells", quiet=quiet) as bar:
            outcome = run_plan(read, output, engine=engine, workers=workers, retry_failed=retry_failed, advance=bar)
        document = document_of(read, outcome.groups, outcome.results)
        written = write_files(document, output, plots)
    if as_json:
        write_json(document)
    else:
        show(document, outcome, written)
    if outcome.failure is not None:
        raise outcome.failure
    failed = sum(cell["status"] == "error" for cell in document["cells"])
    return CannotPredictError.exit_code if failed else 0


def check_extras(plots: str | None) -> None:
    """Refuse, before any work is done, what the report needs and is not installed.

    Raises:
        UsageError: with the line that installs it.
    """
    from estimator.plan.failures import needed

    needed("jinja2", "plan", "the report")
    needed("plotly", "plan", "the report")
    if plots is not None:
        needed("matplotlib", "plots", "--plots")


def write_files(document: dict[str, Any], folder: Path, plots: str | None) -> list[Path]:
    """Write what comes of the plan; gives the paths."""
    from estimator.plan.tables import csv_text, json_text
    from estimator.report.html import report_html

    texts = {"report.html": report_html(document), "plan.csv": csv_text(document), "plan.json": json_text(document)}
    written = []
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)
    if plots is not None:
        from estimator.report.plots import write_plots

        written += write_plots(document, folder / "plots", plots)
    return written


def show(document: dict[str, Any], outcome: Outcome, written: list[Path]) -> None:
    """Print the largest batches, a line a job and its settings, and where the rest is."""
    from estimator.report.page import page_on_stdout
    from estimator.report.plan_text import write_plan

    with page_on_stdout() as page:
        write_plan(page, document, found=outcome.found, solved=outcome.solved, files=[str(path) for path in written])
