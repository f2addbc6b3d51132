"""Give a command all options that describe a job, and what they say as one mapping."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from estimator.commands import options as o

Command = TypeVar("Command", bound=Callable[..., int])

JOB_OPTIONS: dict[str, Any] = {
    "image_size": o.ImageSize,
    "sequence_length": o.SequenceLength,
    "num_classes": o.NumClasses,
    "frames": o.Frames,
    "task": o.Task,
    "attn": o.Attention,
    "lora": o.Lora,
    "freeze": o.Freeze,
    "checkpointing": o.Checkpointing,
    "config": o.Config,
    "precision": o.Precision,
    "optimizer": o.Optimizer,
    "mode": o.Mode,
    "accumulation_steps": o.AccumulationSteps,
    "grad_clip": o.GradClip,
    "grad_scaler": o.GradScaler,
    "channels_last": o.ChannelsLast,
    "build": o.Build,
    "cudnn_benchmark": o.CudnnBenchmark,
    "deterministic": o.Deterministic,
    "batch_dim": o.BatchDim,
    "alloc_conf": o.AllocConf,
    "environment": o.Environment,
    "process_group": o.ProcessGroup,
    "phases": o.Phases,
    "validation_batch_size": o.ValidationBatchSize,
    "new_tokens": o.NewTokens,
    "prompt_length": o.PromptLength,
    "kv_cache": o.KvCache,
    "checkpoint_copy": o.CheckpointCopy,
    "checkpoint_writer": o.CheckpointWriter,
}
"""Options by the name that `read_job` knows them by (`config` is its `files`)."""


def takes_job_options(function: Command) -> Command:
    """Put `JOB_OPTIONS` in the place of a command's parameter `job_options`, which gets those as a mapping.

    All that the command takes besides JOB is by keyword.
    """

    @functools.wraps(function)
    def command(*args: Any, **kwargs: Any) -> int:
        said = {name: kwargs.pop(name, None) for name in JOB_OPTIONS}
        return function(*args, **kwargs, job_options=said)

    hints = typing.get_type_hints(function, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "job_options":
            parameters += [inspect.Parameter(n, kind, default=None, annotation=a) for n, a in JOB_OPTIONS.items()]
        else:
            parameters.append(parameter.replace(annotation=hints[name]))
    # What typer reads: the signature, and the annotations by name.
    command.__signature__ = inspect.Signature(parameters, return_annotation=int)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
    return command  # type: ignore[return-value]
