"""Options that several commands take, each with its help, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

MODEL = "What is built"
RUN = "How it is trained (each overrides the job's own)"
DEVICE = "What it runs on"
ANSWER = "What is answered"
WORK = "How the answer is found"


def _option(*names: str, panel: str, help: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, help=help, metavar=metavar, show_default=False, **more)


Job = Annotated[
    str,
    typer.Argument(
        metavar="JOB",
        show_default=False,
        help="package.module:attr or path/to/file.py:attr (a TrainingJob, or a function that returns one), "
        "torchvision:NAME, timm:NAME, or hf:PATH (a folder or config.json).",
    ),
]

ImageSize = Annotated[
    int | None, _option("--image-size", panel=MODEL, metavar="PIXELS", min=1, help="Height and width of an image.")
]
SequenceLength = Annotated[
    int | None, _option("--sequence-length", panel=MODEL, metavar="TOKENS", min=1, help="Tokens of one input.")
]
NumClasses = Annotated[
    int | None, _option("--num-classes", panel=MODEL, metavar="N", min=1, help="Classes of a classifier.")
]
Frames = Annotated[int | None, _option("--frames", panel=MODEL, metavar="N", min=1, help="Frames of a video clip.")]
Task = Annotated[
    str | None, _option("--task", panel=MODEL, metavar="TASK", help="Head of an hf: model, such as causal-lm.")
]
Attention = Annotated[
    str | None, _option("--attn", panel=MODEL, metavar="sdpa|eager|flash", help="Attention of an hf: model.")
]
Lora = Annotated[
    str | None,
    _option("--lora", panel=MODEL, metavar="SPEC", help="Low-rank adapters: r=16,alpha=32,targets=q_proj+v_proj."),
]
Freeze = Annotated[
    list[str] | None,
    _option(
        "--freeze", panel=MODEL, metavar="PATTERN", help="Parameters that get no gradient, by name; may be repeated."
    ),
]
Checkpointing = Annotated[
    bool | None,
    _option("--checkpointing/--no-checkpointing", panel=MODEL, help="Activation checkpointing."),
]

Config = Annotated[
    list[Path] | None,
    _option(
        "--config",
        panel=RUN,
        metavar="FILE",
        help="transformers' TrainingArguments (json, yaml) or a DeepSpeed json: its settings, and its batch size as "
        "--batch-size. Options given here come first; may be repeated.",
    ),
]
Precision = Annotated[
    str | None, _option("--precision", panel=RUN, metavar="P", help="fp32, amp-bf16, amp-fp16, bf16 or fp16.")
]
Optimizer = Annotated[str | None, _option("--optimizer", panel=RUN, metavar="NAME", help="adamw, adam, sgd, ...")]
Mode = Annotated[str | None, _option("--mode", panel=RUN, metavar="MODE", help="train or inference.")]
AccumulationSteps = Annotated[
    int | None,
    _option(
        "--accumulation-steps",
        panel=RUN,
        metavar="N",
        min=1,
        help="Batches whose gradients are added up before a step.",
    ),
]
GradClip = Annotated[
    float | None, _option("--grad-clip", panel=RUN, metavar="NORM", help="Clip the gradients' norm to this.")
]
GradScaler = Annotated[
    bool | None, _option("--grad-scaler/--no-grad-scaler", panel=RUN, help="Scale the loss (goes with amp-fp16).")
]
ChannelsLast = Annotated[
    bool | None,
    _option("--channels-last/--no-channels-last", panel=RUN, help="Model and images in channels_last layout."),
]
Build = Annotated[
    str | None,
    _option(
        "--build",
        panel=RUN,
        metavar="device|host",
        help="Where the model is built: on the device, or on the host and moved.",
    ),
]
CudnnBenchmark = Annotated[
    bool | None,
    _option("--cudnn-benchmark/--no-cudnn-benchmark", panel=RUN, help="torch.backends.cudnn.benchmark = True."),
]
Deterministic = Annotated[
    bool | None,
    _option("--deterministic/--no-deterministic", panel=RUN, help="torch.use_deterministic_algorithms(True)."),
]
BatchDim = Annotated[
    str | None,
    _option("--batch-dim", panel=RUN, metavar="DIM", help="Batch dimension of an example batch (found if not given)."),
]

Phases = Annotated[
    list[str] | None,
    _option(
        "--phase",
        panel=RUN,
        metavar="train|validation|generate|checkpoint|all",
        help="What is done besides training steps; may be repeated. The answer is the most that any of it takes.",
    ),
]
ValidationBatchSize = Annotated[
    int | None,
    _option("--validation-batch-size", panel=RUN, metavar="N", min=1, help="Samples of a validation batch."),
]
NewTokens = Annotated[
    int | None, _option("--new-tokens", panel=RUN, metavar="N", min=1, help="Tokens that are generated.")
]
PromptLength = Annotated[
    int | None, _option("--prompt-length", panel=RUN, metavar="TOKENS", min=1, help="Tokens of a prompt.")
]
KvCache = Annotated[
    str | None,
    _option("--kv-cache", panel=RUN, metavar="growing|static", help="Keys and values of the tokens generated so far."),
]
CheckpointCopy = Annotated[
    str | None,
    _option(
        "--checkpoint-copy", panel=RUN, metavar="nowhere|device|host", help="Where the state is copied before a save."
    ),
]
CheckpointWriter = Annotated[
    str | None, _option("--checkpoint-writer", panel=RUN, metavar="torch.save|safetensors", help="What saves it.")
]

HOST = "What the host's RAM holds"
Workers = Annotated[
    int | None,
    _option(
        "--workers", panel=HOST, metavar="N", min=0, help="num_workers of the DataLoader (the job's own if it has one)."
    ),
]
PrefetchFactor = Annotated[
    int | None, _option("--prefetch-factor", panel=HOST, metavar="N", min=1, help="Batches each worker reads ahead.")
]
PinMemory = Annotated[
    bool | None, _option("--pin-memory/--no-pin-memory", panel=HOST, help="Batches go through pinned memory.")
]
StateLoad = Annotated[
    str | None,
    _option(
        "--state-load",
        panel=HOST,
        metavar="none|weights|checkpoint",
        help="What is loaded to the host at the start: nothing, weights, or a checkpoint with optimizer state.",
    ),
]

Device = Annotated[
    str | None,
    _option(
        "--device",
        "-d",
        panel=DEVICE,
        metavar="NAME",
        help="A name that `batch-estimator devices` lists. Default: this machine.",
    ),
]
Memory = Annotated[
    str | None,
    _option("--memory", panel=DEVICE, metavar="SIZE", help="Free bytes of the device: 24GiB, 512MiB or a number."),
]
Profiles = Annotated[
    Path | None,
    _option(
        "--profiles", panel=DEVICE, metavar="PATH", help="A TOML file, or a folder of them, with devices of your own."
    ),
]
TorchVersion = Annotated[
    str | None,
    _option(
        "--torch-version",
        panel=DEVICE,
        metavar="X.Y.Z",
        help="torch that will run the job. Default: the installed one.",
    ),
]
AllocConf = Annotated[
    str | None,
    _option(
        "--alloc-conf",
        panel=DEVICE,
        metavar="CONF",
        help="PYTORCH_ALLOC_CONF of the job: expandable_segments:True, ...",
    ),
]

Environment = Annotated[
    list[str] | None,
    _option(
        "--env",
        panel=DEVICE,
        metavar="NAME=VALUE",
        help="Variable of the run that changes memory: CUBLAS_WORKSPACE_CONFIG, CUDA_MODULE_LOADING, ...; repeatable.",
    ),
]
ProcessGroup = Annotated[
    int | None,
    _option("--process-group", panel=DEVICE, metavar="RANKS", min=1, help="The job joins an NCCL group of so many."),
]

AllowRealRun = Annotated[
    bool,
    _option("--allow-real-run", panel=WORK, help="If the model reads values, run it on tiny real batches on the CPU."),
]
Isolate = Annotated[
    bool | None,
    _option(
        "--isolate/--no-isolate", panel=WORK, help="Trace in a process of its own (or not), which may crash alone."
    ),
]
TimeLimit = Annotated[
    float | None, _option("--time-limit", panel=WORK, metavar="SECONDS", min=0, help="Give up after this long.")
]
SizeWorkers = Annotated[
    int,
    _option(
        "--workers",
        "-j",
        panel=WORK,
        metavar="N",
        min=1,
        help="Sizes that are solved at a time, by joblib. Default: 1.",
    ),
]
Quiet = Annotated[bool, _option("--quiet", "-q", panel=WORK, help="No progress on stderr.")]
Debug = Annotated[bool, _option("--debug", panel=WORK, help="Show the traceback of an error.")]

Html = Annotated[
    Path | None,
    _option("--html", panel=ANSWER, metavar="FILE", help="Write a page that opens from disk, with figures and tables."),
]
Plot = Annotated[Path | None, _option("--plot", panel=ANSWER, metavar="FILE", help="Draw it into a .svg or .png.")]
AsJson = Annotated[bool, _option("--json", panel=ANSWER, help="Print JSON.")]
Verbose = Annotated[bool, _option("--verbose", "-v", panel=ANSWER, help="More of the same facts.")]
