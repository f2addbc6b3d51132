"""Hold a CPU's answers against real training steps of library models: torchvision, timm and transformers.

    python -m benchmarks.cpu_models [--only 'timm/*'] [--out FILE] [--report FILE]

Of each model, small (few pixels, few layers), two training steps of two samples are run on this machine under
torch.profiler, and the most bytes of PyTorch's CPU allocator that were live at once are held against the prediction of
the same steps by a trace of that batch. Each is done in a process of its own; every row is appended to `--out` at once,
and a row that stands there is not asked again. `--report` writes the table, with the cause of each difference that is
known (`CAUSES`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.children import in_child

SAMPLES, STEPS = 2, 2
TIME_LIMIT_SECONDS = 300.0
TOKENS = 32
CAUSES: dict[str, str] = {}
"""Why a model's answer is another than what was measured, by its name in the table."""

_WORDS = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 500, "max_position_embeddings": 64,
}  # fmt: skip
_GPT = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 500, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
_SEQ2SEQ = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 500, "max_position_embeddings": 64,
}  # fmt: skip
_PATCHES = {**_WORDS, "image_size": 64, "patch_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": _WORDS, "roberta": {**_WORDS, "max_position_embeddings": 80}, "electra": {**_WORDS, "embedding_size": 64},
    "albert": {**_WORDS, "embedding_size": 32}, "distilbert": {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "vocab_size": 500},
    "gpt2": _GPT, "gpt_neox": _WORDS, "llama": {**_WORDS, "num_key_value_heads": 2}, "mistral": {**_WORDS, "num_key_value_heads": 2},
    "qwen2": {**_WORDS, "num_key_value_heads": 2}, "phi": _WORDS, "bart": _SEQ2SEQ,
    "opt": {**_WORDS, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": 500},
    "vit": _PATCHES, "deit": _PATCHES,
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 500, "state_size": 8},
}  # fmt: skip
PIXELS: dict[str, dict[str, int | None]] = {
    "torchvision": {
        "resnet18": 64, "resnet50": 64, "vgg11_bn": 64, "mobilenet_v2": 64, "mobilenet_v3_small": 64, "densenet121": 64,
        "shufflenet_v2_x1_0": 64, "efficientnet_b0": 64, "regnet_y_400mf": 64, "squeezenet1_1": 64, "convnext_tiny": 64,
        "swin_t": None, "mnasnet0_5": 64,
    },
    "timm": {
        "resnet26": 64, "vit_tiny_patch16_224": None, "deit_tiny_patch16_224": None, "convnext_atto": 64,
        "efficientnet_lite0": 64, "mixer_s32_224": None, "resmlp_12_224": None, "poolformer_s12": 64,
        "ghostnet_050": 64, "rexnet_100": 64, "repvit_m0_9": 64, "volo_d1_224": None, "xcit_nano_12_p16_224": 64,
    },
}  # fmt: skip


def names() -> list[str]:
    """Every model of the sample, as `library/model`."""
    images = [f"{library}/{name}" for library, models in PIXELS.items() for name in models]
    return [*images, *(f"transformers/{kind}" for kind in CONFIGS)]


def job_named(name: str, folder: Path) -> Any:
    """The job of a model of the sample; `folder` is where its config is written."""
    from estimator.sources import JobOptions, load_job

    library, _, model = name.partition("/")
    if library != "transformers":
        return load_job(f"{library}:{model}", JobOptions(image_size=PIXELS[library][model], num_classes=10))
    place = folder / model
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps({"model_type": model, **CONFIGS[model]}), encoding="utf-8")
    images = "image_size" in CONFIGS[model]
    return load_job(f"hf:{place}", JobOptions(sequence_length=None if images else TOKENS))


def measured(name: str, folder: Path) -> dict[str, Any]:
    """Peak of real steps; the work of a child process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from estimator.devices.process import live_peak_bytes
    from estimator.trace.optimizers import optimizer_maker

    job = job_named(name, folder)
    make = optimizer_maker(job.optimizer)
    assert make is not None
    torch.manual_seed(0)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model = job.model().train()
        optimizer = make([p for p in model.parameters() if p.requires_grad])
        batch = loss = None
        for _ in range(STEPS):
            batch = job.batch(SAMPLES)
            optimizer.zero_grad()
            loss = job.loss(model, batch)
            loss.backward()
            optimizer.step()
    ran = {e.name() for e in recorded.profiler.kineto_results.events()}
    return {"measured": live_peak_bytes(recorded), "convolution": "aten::convolution" in ran}


def predicted(name: str, folder: Path) -> dict[str, Any]:
    """Peak of the same steps, from one trace of them; the work of a child process."""
    import torch

    from estimator import pipeline, stages
    from estimator.device import Target
    from estimator.devices import resolve_device
    from estimator.traces import Clock, Traces

    stages.TOTAL_STEPS = STEPS
    job = job_named(name, folder)
    target = Target(device=resolve_device("cpu"), torch_version=torch.__version__.split("+")[0])
    run = pipeline._Run(job, target, Clock(), lambda text: None, Traces(job, isolate=False), "", False)
    (graph,) = run.trace(SAMPLES, steps=(STEPS,))
    at = run.evaluator(run.fitted([graph, graph])).at(SAMPLES)
    loose = [line.name for line in at.lines if line.confidence != "exact" and line.size_bytes and line.name != "cuda_context"]
    return {"predicted": at.peak_requested_bytes, "peak_phase": at.peak_phase, "not_exact": sorted(loose)}


def row_of(name: str, folder: Path, time_limit: float) -> dict[str, Any]:
    """One row of the table."""
    row: dict[str, Any] = {"model": name}
    tasks: tuple[tuple[str, Callable[[str, Path], dict[str, Any]]], ...] = (("prediction", predicted), ("measurement", measured))
    for what, work in tasks:
        said = in_child(partial(work, name, folder), time_limit)
        if "error" in said:
            return {**row, "error": f"{what}: {said['error']}"}
        row |= said
    return {**row, "difference": row["predicted"] - row["measured"]}


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The report: sums, then every row."""
    return "\n".join(_lines(rows)) + "\n"


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    held = [r for r in rows if "difference" in r]
    exact = [r for r in held if r["difference"] == 0]
    under = min((r["difference"] / r["measured"] for r in held), default=0.0)
    over = max((r["difference"] / r["measured"] for r in held), default=0.0)
    packages = ", ".join(f"{p} {version(p)}" for p in ("torch", "torchvision", "timm", "transformers"))
    yield "# Library models on a CPU"
    yield ""
    yield f"Made by `python -m benchmarks.cpu_models` with {packages} on {date.today()}, {os.cpu_count()} cores: {SAMPLES} samples,"
    yield f"{STEPS} training steps, requested bytes at their peak, predicted and as torch.profiler saw them."
    yield ""
    yield f"{len(exact)} of {len(held)} exact to the byte; largest under-estimate {100 * min(0.0, under):.3f} %, largest over-estimate"
    yield f"{100 * max(0.0, over):.3f} %. {len(rows) - len(held)} of {len(rows)} could not be compared."
    if left := [name for name in names() if name not in {r["model"] for r in rows}]:
        yield ""
        yield f"Not run, and counted nowhere above: {', '.join(left)}."
    yield ""
    yield "| model | predicted | measured | difference | error % | cause |"
    yield "|---|---|---|---|---|---|"
    for r in rows:
        if "error" in r:
            yield f"| {r['model']} | | | | | {' '.join(r['error'].split()).replace('|', '/')[:160]} |"
            continue
        cause = CAUSES.get(r["model"], "not known") if r["difference"] else ""
        yield (
            f"| {r['model']} | {r['predicted']:,} | {r['measured']:,} | {r['difference']:+,} |"
            f" {100 * r['difference'] / r['measured']:+.3f} | {cause} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="shell patterns over the models' names")
    parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "cpu-models.jsonl", metavar="FILE")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--time-limit", type=float, default=TIME_LIMIT_SECONDS, metavar="SECONDS")
    options = parser.parse_args()
    from benchmarks.coverage import read_by, warm_up

    warm_up(["timm", "transformers"])
    done = read_by(options.out, lambda row: str(row["model"]))
    for name in names():
        if name in done or (options.only and not any(fnmatchcase(name, pattern) for pattern in options.only)):
            continue
        done[name] = row_of(name, Path(gettempdir()) / "cpu-models-configs", options.time_limit)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[name]) + "\n")
        said = done[name]
        print(f"{name:40} {said.get('error') or format(said['difference'], '+,')}", flush=True)
    if options.report:
        options.report.write_text(markdown([done[n] for n in names() if n in done]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
