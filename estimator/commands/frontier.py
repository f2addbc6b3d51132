"""`batch-estimator frontier JOB --over sequence-length=128,256,512`: the largest batch for each size of a sample."""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import check_torch_version, job_by_size
from estimator.commands.run import (
    DOES_NOT_FIT,
    FITS,
    answer_alone_on_stdout,
    check_html,
    check_plot,
    guarded,
    write_json,
)
from estimator.errors import CannotPredictError, UsageError

Over = Annotated[
    str,
    typer.Option(
        "--over",
        rich_help_panel=o.ANSWER,
        metavar="NAME=N,N,...",
        show_default=False,
        help="sequence-length, image-size or frames, and the sizes to trace: sequence-length=128,256,512.",
    ),
]
Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        rich_help_panel=o.DEVICE,
        metavar="NAME",
        show_default=False,
        help="A name that `batch-estimator devices` lists; may be repeated. Default: this machine.",
    ),
]


@guarded
@takes_job_options
def frontier(
    job: o.Job,
    over: Over,
    device: Devices = None,
    memory: o.Memory = None,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    plot: o.Plot = None,
    html: o.Html = None,
    as_json: o.AsJson = False,
    workers: o.SizeWorkers = 1,
    allow_real_run: o.AllowRealRun = False,
    isolate: o.Isolate = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
    *,
    job_options: dict[str, Any],
) -> int:
    """Find the largest batch for each sequence length or image size.

    The job is traced at each of them; nothing is extrapolated.

    Exit code: 0 at least one sample fits at every size, 1 at some size none does, 2 the question is not well put,
    3 some size cannot be predicted.
    """
    begun = time.perf_counter()
    check_torch_version(torch_version)
    check_plot(plot)
    check_html(html)
    name, sizes = read_over(over, job_options)
    with answer_alone_on_stdout():
        from estimator.data.frontier import checked_sizes, devices_of, found_frontier
        from estimator.data.points import Settings
        from estimator.report.bar import Bar

        wanted = checked_sizes(sizes)
        devices = devices_of(device, memory, profiles)
        settings = Settings(name, torch_version, allow_real_run, isolate, time_limit, workers)
        files = tuple(job_options.pop("config", None) or ())
        job_at = partial(job_by_size, job, files, job_options, name, all(d.kind == "cuda" for d in devices))
        with Bar("sizes", quiet=quiet) as bar:
            found = found_frontier(job_at, wanted, devices, settings, bar, begun)
        if plot is not None:
            from estimator.report.size_plots import plot_frontier

            plot_frontier(found, plot)
        if html is not None:
            from estimator.report.sizes_html import frontier_html

            html.write_text(frontier_html(found), encoding="utf-8")
    if as_json:
        write_json(found.model_dump(mode="json"))
    else:
        from estimator.report.frontier_text import write_frontier
        from estimator.report.page import page_on_stdout

        with page_on_stdout() as page:
            write_frontier(page, found)
    if any(point.error for point in found.points):
        return CannotPredictError.exit_code
    return FITS if all(point.max_batch_size for point in found.points) else DOES_NOT_FIT


def read_over(text: str, job_options: dict[str, Any]) -> tuple[str, list[int]]:
    """The option and the sizes of `sequence-length=128,256`.

    Raises:
        UsageError: not of that form, no such option, or the option is given besides.
    """
    from estimator.data.jobs import over_named

    word, equals, values = text.partition("=")
    name = over_named(word)
    if job_options.get(name) is not None:
        raise UsageError(f"--{word} is given twice: once, and over several sizes", got=f"--over {text}")
    numbers = [part.strip() for part in values.split(",") if part.strip()]
    if not equals or not numbers or not all(part.isdigit() for part in numbers):
        raise UsageError(
            "not sizes to trace", got=text, allowed="NAME=N,N,... of whole numbers", where="--over",
            hint=f"--over {word}=128,256,512",
        )  # fmt: skip
    return name, [int(part) for part in numbers]
