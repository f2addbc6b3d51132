"""`batch-estimator predict JOB`: the largest batch that fits, and where the memory goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estimator.commands import options as o
from estimator.commands.job_options import takes_job_options
from estimator.commands.jobs import check_torch_version, read_job
from estimator.commands.run import (
    DOES_NOT_FIT,
    FITS,
    answer_alone_on_stdout,
    check_html,
    check_writable,
    guarded,
    write_json,
)
from estimator.errors import UsageError

if TYPE_CHECKING:
    from estimator.job import TrainingJob
    from estimator.result import BatchEstimate, Estimate

BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        "-b",
        rich_help_panel=o.ANSWER,
        metavar="N",
        min=1,
        show_default=False,
        help="Report this batch size too, and exit 1 if it does not fit.",
    ),
]
Timeline = Annotated[
    Path | None,
    typer.Option(
        "--timeline",
        rich_help_panel=o.ANSWER,
        metavar="FILE",
        show_default=False,
        help="Write the predicted allocations as a snapshot for pytorch.org/memory_viz.",
    ),
]
Graph = Annotated[
    Path | None,
    typer.Option(
        "--graph",
        rich_help_panel=o.ANSWER,
        metavar="FILE",
        show_default=False,
        help="Write the step's graph, a line an op with its phase, module and bytes.",
    ),
]


@guarded
@takes_job_options
def predict(
    job: o.Job,
    *,
    device: o.Device = None,
    memory: o.Memory = None,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    job_options: dict[str, Any],
    workers: o.Workers = None,
    prefetch_factor: o.PrefetchFactor = None,
    pin_memory: o.PinMemory = None,
    state_load: o.StateLoad = None,
    batch_size: BatchSize = None,
    timeline: Timeline = None,
    graph: Graph = None,
    html: o.Html = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
    allow_real_run: o.AllowRealRun = False,
    isolate: o.Isolate = None,
    time_limit: o.TimeLimit = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> int:
    """Predict the largest batch that fits, and where the memory goes.

    Exit code: 0 it fits, 1 it does not, 2 the question is not well put, 3 no honest number can be given.
    """
    check_writable(timeline, "--timeline")
    check_writable(graph, "--graph")
    check_html(html)
    check_torch_version(torch_version)
    from estimator.report.progress import Progress

    limits: dict[str, Any] = {} if time_limit is None else {"time_limit_seconds": time_limit}
    with answer_alone_on_stdout(), Progress(quiet=quiet) as progress:
        progress("looking up the device")
        from estimator.devices import is_card, is_this_machine, resolve_device

        # This machine after the job: what the job imports is part of what an interpreter takes of its memory.
        profile = None if is_this_machine(device) else resolve_device(device, memory, profiles)
        progress("loading the job")
        files = job_options.pop("config") or ()
        on_card = is_card(profile or device, profiles)
        loaded, wanted = read_job(job, files, on_card=on_card, **job_options, batch_size=batch_size)
        profile = profile or resolve_device(device, memory, profiles)
        if timeline is not None and profile.kind != "cuda":
            raise UsageError(
                "a snapshot shows the CUDA caching allocator, which a CPU does not have",
                got=f"--timeline {timeline}",
                where=f"--device {profile.name}",
                hint="name a card with --device",
            )
        from estimator.pipeline import estimate

        answer = estimate(
            loaded,
            profile,
            torch_version=torch_version,
            allow_real_run=allow_real_run,
            isolate=isolate,
            progress=progress,
            **limits,
        )
        requested = None if wanted is None else answer.at(wanted)
        loading = {"workers": workers, "prefetch_factor": prefetch_factor, "pin_memory": pin_memory}
        answer = with_host(answer, loaded, wanted, loading, state_load)
        progress("writing")
        write_files(answer, requested, timeline, graph)
        if html is not None:
            from estimator.report.html import estimate_html

            html.write_text(estimate_html(answer), encoding="utf-8")
    show(answer, requested, as_json=as_json, verbose=verbose)
    fits = answer.max_batch_size > 0 if requested is None else requested.fits
    return FITS if fits else DOES_NOT_FIT


def with_host(
    answer: Estimate, job: TrainingJob, batch_size: int | None, said: dict[str, Any], state_load: str | None
) -> Estimate:
    """The answer with the job's memory of the host: its DataLoader's settings, and what the options say over them.

    Without a word of either, and on a GPU, nothing is known of how its data comes, and nothing is said.
    """
    from estimator.host import Loading, host_memory

    own = Loading(state_load="none").over(job)
    given = {name: value for name, value in said.items() if value is not None}
    if own == Loading(state_load="none") and not given and state_load is None and job.checkpoint is None:
        return answer
    loading = replace(own, **{"state_load": state_load or "none", **given})
    size = batch_size or answer.best.batch_size
    on_host = job.build == "host"
    return answer.with_host(host_memory(answer, size, loading, on_host=on_host, checkpoint=job.checkpoint))


def write_files(answer: Estimate, batch: BatchEstimate | None, timeline: Path | None, graph: Path | None) -> None:
    """Write the snapshot (at the batch asked about, else at the largest) and the graph, where they are wanted."""
    if graph is not None:
        from estimator.report.graph import graph_lines

        graph.write_text("".join(f"{line}\n" for line in graph_lines(answer.graph)), encoding="utf-8")
    if timeline is not None:
        from estimator.allocator.config import AllocatorConfig
        from estimator.allocator.snapshot import frames_of_ops, snapshot, write_snapshot

        chosen = batch or answer.best
        conf = answer.settings.get("alloc_conf") or ""
        limit = max(0, answer.device.capacity_bytes - answer.device.context_bytes)
        content = snapshot(
            answer.ledger(chosen.batch_size),
            AllocatorConfig.from_string(conf) if conf else None,
            limit,
            total_bytes=answer.device.total_bytes,
            frames=frames_of_ops(answer.model.ops),
        )
        write_snapshot(timeline, content)


def show(answer: Estimate, requested: BatchEstimate | None, *, as_json: bool, verbose: bool) -> None:
    """Print the answer to stdout, as JSON or as text."""
    if as_json:
        from estimator.report.json import to_json

        write_json(to_json(answer, requested))
        return
    from estimator.report.page import page_on_stdout
    from estimator.report.text import write_estimate

    with page_on_stdout() as page:
        write_estimate(page, answer, requested, verbose=verbose)
