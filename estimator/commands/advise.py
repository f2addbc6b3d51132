"""`batch-estimator advise JOB`: which changes to a job buy a larger batch, and what they cost."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from estimator.commands import options as o
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
def advise(
    job: o.Job,
    device: o.Device = None,
    memory: o.Memory = None,
    profiles: o.Profiles = None,
    torch_version: o.TorchVersion = None,
    alloc_conf: o.AllocConf = None,
    image_size: o.ImageSize = None,
    sequence_length: o.SequenceLength = None,
    num_classes: o.NumClasses = None,
    frames: o.Frames = None,
    task: o.Task = None,
    attn: o.Attention = None,
    lora: o.Lora = None,
    freeze: o.Freeze = None,
    checkpointing: o.Checkpointing = None,
    config: o.Config = None,
    precision: o.Precision = None,
    optimizer: o.Optimizer = None,
    mode: o.Mode = None,
    accumulation_steps: o.AccumulationSteps = None,
    grad_clip: o.GradClip = None,
    grad_scaler: o.GradScaler = None,
    channels_last: o.ChannelsLast = None,
    build: o.Build = None,
    cudnn_benchmark: o.CudnnBenchmark = None,
    deterministic: o.Deterministic = None,
    batch_dim: o.BatchDim = None,
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
        loaded, _ = read_job(
            job,
            config or (),
            image_size=image_size,
            sequence_length=sequence_length,
            num_classes=num_classes,
            frames=frames,
            task=task,
            attn=attn,
            lora=lora,
            freeze=tuple(freeze) if freeze else None,
            checkpointing=checkpointing,
            precision=precision,
            optimizer=optimizer,
            mode=mode,
            accumulation_steps=accumulation_steps,
            grad_clip=grad_clip,
            grad_scaler=grad_scaler,
            channels_last=channels_last,
            build=build,
            cudnn_benchmark=cudnn_benchmark,
            deterministic=deterministic,
            alloc_conf=alloc_conf,
            batch_dim=batch_dim,
        )
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
        from estimator.report.page import Page, write_out

        page = Page(sys.stdout)
        write_advice(page, advice)
        write_out(page.text)
    fits = advice.reached and max(o.effective_batch_size for o in (advice.base, *advice.changes)) > 0
    return FITS if fits else DOES_NOT_FIT
