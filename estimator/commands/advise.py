"""`batch-estimator advise JOB`: which changes to a job buy a larger batch, and what they cost."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import check_torch_version, read_job
from estimator.commands.run import DOES_NOT_FIT, FITS, answer_alone_on_stdout, guarded, write_json

GlobalBatch = Annotated[
    int | None,
    typer.Option(
        "--global-batch",
        "-g",
        rich_help_panel=o.ANSWER,
        metavar="N",
        min=1,
        show_default=False,
        help="Samples of one optimizer step that are wanted; exit 1 if nothing brings them.",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--change",
        "-c",
        rich_help_panel=o.ANSWER,
        metavar="NAME",
        show_default=False,
        help="Try this change alone; may be repeated. Default: all.",
    ),
]


@guarded
@takes_job_options
def advise(
    job: o.Job,
    *,
    device: o.Device = None,
    memory: o.Memory = None,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    job_options: dict[str, Any],
    global_batch: GlobalBatch = None,
    change: Changes = None,
    as_json: o.AsJson = False,
    allow_real_run: o.AllowRealRun = False,
    isolate: o.Isolate = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Rank changes to a job by the batch they buy, with their cost in flops.

    Each is traced, none is scaled.

    Exit code: 0 the job or a change reaches the batch that is wanted, 1 nothing does, 2 the question is not well put,
    3 no honest number can be given.
    """
    check_torch_version(torch_version)
    from estimator.report.progress import Progress

    limits: dict[str, Any] = {} if time_limit is None else {"time_limit_seconds": time_limit}
    with answer_alone_on_stdout(), Progress(quiet=quiet) as progress:
        progress("loading the job")
        from estimator.devices import is_card

        files = job_options.pop("config") or ()
        loaded, _ = read_job(job, files, on_card=is_card(device, profiles), **job_options)
        from estimator.advice.run import advise as find_changes

        advice = find_changes(
            loaded,
            device,
            global_batch=global_batch,
            changes=change,
            torch_version=torch_version,
            memory=memory,
            profiles=profiles,
            allow_real_run=allow_real_run,
            isolate=isolate,
            progress=progress,
            **limits,
        )
    if as_json:
        write_json(advice.model_dump(mode="json"))
    else:
        from estimator.report.advice_text import write_advice
        from estimator.report.page import page_on_stdout

        with page_on_stdout() as page:
            write_advice(page, advice)
    fits = advice.reached and max(o.effective_batch_size for o in (advice.base, *advice.changes)) > 0
    return FITS if fits else DOES_NOT_FIT
