"""`batch-estimator lengths JOB --lengths FILE:COLUMN`: what samples of different lengths leave of the batch."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import check_torch_version, job_by_size, read_job
from estimator.commands.run import (
    DOES_NOT_FIT,
    FITS,
    answer_alone_on_stdout,
    check_html,
    check_plot,
    guarded,
    write_json,
)
from estimator.errors import SourceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from estimator.job import TrainingJob

DATA = "Its lengths"


def _data(*names: str, metavar: str | None = None, help: str, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=DATA, metavar=metavar, help=help, show_default=False, **more)


LengthsFile = Annotated[
    str | None,
    _data(
        "--lengths",
        metavar="FILE:COLUMN",
        help="A length of each sample (or a list to be counted): .csv, .tsv, .jsonl, .json or .txt. Default: one pass "
        "over the job's own Dataset or DataLoader.",
    ),
]
Column = Annotated[
    str | None, _data("--column", metavar="NAME", help="The part of a sample of the job's own data that counts.")
]
Over = Annotated[
    str, _data("--over", metavar="NAME", help="What the length is: sequence-length (default), image-size or frames.")
]
MaxLength = Annotated[int | None, _data("--max-length", metavar="N", min=1, help="Longer samples are cut to it.")]
Multiple = Annotated[
    int, _data("--pad-to-multiple-of", metavar="N", min=1, help="Batches are padded up to a multiple of it.")
]
MaxSamples = Annotated[
    int | None, _data("--max-samples", metavar="N", min=1, help="Look at the first N samples of the job's own data.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        rich_help_panel=o.ANSWER,
        metavar="N",
        min=1,
        show_default=False,
        help="Ask about batches of so many samples too; exit 1 if the worst does not fit.",
    ),
]
Percentiles = Annotated[
    list[float] | None,
    typer.Option(
        "--percentile",
        rich_help_panel=o.ANSWER,
        metavar="P",
        min=0,
        max=100,
        show_default=False,
        help="Give the largest batch at this percentile of the lengths; may be repeated. Default: 99.",
    ),
]
MostPoints = Annotated[
    int,
    typer.Option(
        "--points",
        rich_help_panel=o.WORK,
        metavar="N",
        min=1,
        show_default=False,
        help="Trace at most so many lengths. Default: 12.",
    ),
]


@guarded
@takes_job_options
def lengths(
    job: o.Job,
    lengths: LengthsFile = None,
    column: Column = None,
    over: Over = "sequence-length",
    max_length: MaxLength = None,
    pad_to_multiple_of: Multiple = 1,
    max_samples: MaxSamples = None,
    device: o.Device = None,
    memory: o.Memory = None,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    batch_size: BatchSize = None,
    percentile: Percentiles = None,
    plot: o.Plot = None,
    html: o.Html = None,
    as_json: o.AsJson = False,
    points: MostPoints = 12,
    workers: o.SizeWorkers = 1,
    allow_real_run: o.AllowRealRun = False,
    isolate: o.Isolate = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    job_options: dict[str, Any],
) -> int:
    """Find what data of different lengths leave of the batch.

    The largest batch at the longest and at percentiles, the share of random batches that would run out, the worst batch
    and the padded tokens that always fit.

    Exit code: 0 a batch at the longest fits (and the batches that were asked about), 1 not so, 2 the question is not
    well put, 3 no honest number can be given.
    """
    begun = time.perf_counter()
    check_torch_version(torch_version)
    check_plot(plot)
    check_html(html)
    percentiles = tuple(percentile or (99.0,))
    with answer_alone_on_stdout():
        from estimator.data.frontier import devices_of
        from estimator.data.gather import gathered
        from estimator.data.jobs import over_named
        from estimator.data.lengths import lengths_of_data
        from estimator.data.points import Settings
        from estimator.report.bar import Bar

        name = over_named(over)
        (profile,) = devices_of(device, memory, profiles)
        with Bar("samples", quiet=quiet) as bar:
            on_card = profile.kind == "cuda"
            asked = job_of(job, job_options, name, has_lengths=lengths is not None, on_card=on_card)
            data = gathered(
                asked, lengths, column=column, sampler=None, over=name, batch_size=batch_size, max_length=max_length,
                multiple=pad_to_multiple_of, max_samples=max_samples, advance=bar,
            )  # fmt: skip
        settings = Settings(data.over, torch_version, allow_real_run, isolate, time_limit, workers)
        with Bar("lengths", quiet=quiet) as bar:
            found = lengths_of_data(data, profile, settings, percentiles, points, bar, begun)
        if plot is not None:
            from estimator.report.size_plots import plot_lengths

            plot_lengths(found, plot)
        if html is not None:
            from estimator.report.sizes_html import lengths_html

            html.write_text(lengths_html(found), encoding="utf-8")
    if as_json:
        write_json(found.model_dump(mode="json"))
    else:
        from estimator.report.lengths_text import write_lengths
        from estimator.report.page import page_on_stdout

        with page_on_stdout() as page:
            write_lengths(page, found)
    return FITS if found.fits else DOES_NOT_FIT


def job_of(
    spec: str, said: dict[str, Any], over: str, *, has_lengths: bool, on_card: bool = False
) -> TrainingJob | Callable[[int], TrainingJob]:
    """The job where its own data tell the lengths, else the job as a function of the length.

    Raises:
        UsageError: the length is given as an option too.
        SourceError: see `estimator.sources.load_job`.
    """
    if said.get(over) is not None:
        option = over.replace("_", "-")
        raise UsageError(f"--{option} is one length, and the data have many", got=f"--{option} {said[over]}")
    options = dict(said)
    files = tuple(options.pop("config", None) or ())
    by_size = partial(job_by_size, spec, files, options, over, on_card)
    if not has_lengths:
        return read_job(spec, files, on_card=on_card, **options)[0]
    try:
        by_size(1 << 3)
    except SourceError as error:
        if "does not take" not in error.what:
            return by_size
        # It may be a job on its own data, whose lengths are in a file.
        loaded = read_job(spec, files, on_card=on_card, **options)[0]
        from estimator.data.gather import holds_samples

        if not holds_samples(loaded.batch):
            raise
        return loaded
    return by_size
