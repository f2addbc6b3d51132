"""Options read from files of other tools: transformers' `TrainingArguments` and DeepSpeed's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from estimator.errors import SourceError
from estimator.sources.options import JobOptions
from estimator.sources.words import did_you_mean

OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_hf": "adamw",
    "adamw_torch_fused": "adamw_fused",
    "adafactor": "adafactor",
    "sgd": "sgd",
    "adagrad": "adagrad",
    "rmsprop": "rmsprop",
    "adamw_8bit": "adamw_bnb_8bit",
    "adamw_bnb_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "adamw_bnb_8bit",
    "lion_8bit": "lion_8bit",
    "paged_lion_8bit": "lion_8bit",
    "rmsprop_bnb_8bit": "rmsprop_8bit",
    "adamw": "adamw",
    "adam": "adam",
}
"""The `optim` of TrainingArguments, or the type of DeepSpeed's optimizer, to our name.

Source: `OptimizerNames` in transformers/training_args.py, 4.57; "Optimizer Parameters" of DeepSpeed's documentation.
"""
_PAGED = "the optimizer's state is paged to host memory as needed; here it is counted on the device"
_TRAINER_KEYS = {
    "per_device_train_batch_size",
    "output_dir",
    "optim",
    "max_grad_norm",
    "bf16",
    "fp16",
}
_DEEPSPEED_KEYS = {"train_micro_batch_size_per_gpu", "train_batch_size", "zero_optimization", "gradient_clipping"}
_MAX_GRAD_NORM = 1.0
_OPTIM = "adamw_torch_fused"
"""Source: defaults of `TrainingArguments.max_grad_norm` and, with torch 2.8 or newer, `.optim`; transformers 4.57."""


def options_from_file(path: str | Path) -> JobOptions:
    """Read the options in a file of TrainingArguments (json or yaml) or a DeepSpeed configuration (json).

    What the file says and a trace of one step cannot follow is said in the options' notes.

    Raises:
        SourceError: the file is absent or does not parse, is neither of the two, or says what cannot be.
    """
    file = Path(path).expanduser()
    fields = _read(file)
    if _DEEPSPEED_KEYS & fields.keys():
        return _deepspeed(fields, file)
    if _TRAINER_KEYS & fields.keys():
        return _training_arguments(fields, file)
    raise SourceError(
        "the file is neither a set of TrainingArguments nor a DeepSpeed configuration",
        got=", ".join(map(str, list(fields)[:6])) or "nothing",
        where=str(file),
        allowed=f"one of {', '.join(sorted(_TRAINER_KEYS))}; or one of {', '.join(sorted(_DEEPSPEED_KEYS))}",
    )


def options_of_arguments(fields: dict[str, Any], name: str) -> JobOptions:
    """The options that the fields of a `TrainingArguments` say; `name` is what notes and errors call it.

    Raises:
        SourceError: as `options_from_file`.
    """
    return _training_arguments(fields, Path(name))


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        near = did_you_mean(file.name, [p.name for p in file.parent.glob("*")]) if file.parent.is_dir() else None
        raise SourceError("there is no such file", got=str(file), hint=near)
    text = file.read_text()
    try:
        if file.suffix in (".yaml", ".yml"):
            from estimator.sources.words import require

            fields = require("yaml", "transformers", file.name).safe_load(text)
        else:
            fields = json.loads(text)
    except SourceError:
        raise
    except Exception as error:  # yaml's errors share no base with json's
        raise SourceError("the file does not parse", got=str(error).replace("\n", " "), where=str(file)) from None
    if not isinstance(fields, dict):
        raise SourceError("the file holds no mapping", got=type(fields).__name__, where=str(file))
    return fields


def _training_arguments(fields: dict[str, Any], file: Path) -> JobOptions:
    notes: list[str] = []
    given: dict[str, Any] = {
        "batch_size": fields.get("per_device_train_batch_size", 8),  # 8: its default in transformers 4.57
        "accumulation_steps": fields.get("gradient_accumulation_steps"),
        "optimizer": _optimizer(fields.get("optim", _OPTIM), file, notes),
        "checkpointing": fields.get("gradient_checkpointing"),
    }
    clip = fields.get("max_grad_norm", _MAX_GRAD_NORM)
    given["grad_clip"] = clip if clip else None
    if fields.get("bf16") and fields.get("fp16"):
        raise SourceError("bf16 and fp16 are both on", where=str(file), allowed="at most one of them")
    if fields.get("bf16"):
        given["precision"] = "amp-bf16"
    elif fields.get("fp16"):
        given |= {"precision": "amp-fp16", "grad_scaler": True}
    for key in ("fsdp", "torch_compile", "auto_find_batch_size"):
        if fields.get(key):
            notes.append(f"{key} of {file.name} is not modelled")
    options = JobOptions(**_known(given), notes=tuple(notes))
    inner = fields.get("deepspeed")
    if isinstance(inner, str):
        place = file.parent / inner
        inner = _read(place if place.is_file() else Path(inner))
    return options.over(_deepspeed(inner, file)) if inner else options


def _deepspeed(fields: dict[str, Any], file: Path) -> JobOptions:
    """Batch, precision, accumulation and clipping; "auto" means that somebody else says it."""
    notes = []
    given: dict[str, Any] = {
        "batch_size": fields.get("train_micro_batch_size_per_gpu"),
        "accumulation_steps": fields.get("gradient_accumulation_steps"),
        "grad_clip": fields.get("gradient_clipping") or None,
    }
    for name, precision in (("bf16", "amp-bf16"), ("fp16", "amp-fp16")):
        if (fields.get(name) or {}).get("enabled") is True:
            given["precision"] = precision
            notes.append(
                f"DeepSpeed keeps {name} weights beside fp32 masters; {precision} is traced (fp32 weights, casts)"
            )
            if precision == "amp-fp16":
                given["grad_scaler"] = True
    kind = (fields.get("optimizer") or {}).get("type")
    if kind:
        given["optimizer"] = _optimizer(kind.lower(), file, notes)
    zero = fields.get("zero_optimization") or {}
    if stage := zero.get("stage"):
        notes.append(f"ZeRO stage {stage} is not modelled: every state is counted in full on one device")
    for part in ("offload_optimizer", "offload_param"):
        if (zero.get(part) or {}).get("device", "none") != "none":
            notes.append(f"{part} is not modelled: it is counted on the device")
    return JobOptions(**_known(given), notes=tuple(notes))


def _known(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None and value != "auto"}


def _optimizer(name: Any, file: Path, notes: list[str]) -> str:
    text = str(name).lower()
    if text not in OPTIMIZERS:
        raise SourceError(
            "this optimizer is not known here",
            got=str(name),
            where=str(file),
            allowed=", ".join(sorted(OPTIMIZERS)),
            hint=did_you_mean(text, OPTIMIZERS) or "give a TrainingJob with the optimizer itself",
        )
    if text.startswith("paged"):
        notes.append(_PAGED)
    return OPTIMIZERS[text]
