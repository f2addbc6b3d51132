"""`hf:PATH`: a transformers model from its config alone: no weights, no network, no code from elsewhere.

PATH is a folder with a `config.json`, such a file itself, or a model type (`hf:bert`: the default config of the type).
"""

from __future__ import annotations

import copy
import json
from contextlib import ExitStack, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.huggingface_tasks import BASE, TASK_NAMES, TASKS, Task, task_named
from estimator.sources.offline import offline
from estimator.sources.options import JobOptions
from estimator.sources.words import did_you_mean, require

if TYPE_CHECKING:
    from torch import nn

OPTIMIZER = "adamw"
_LETTERS = 32
"""Source: the vocabulary of the first English CTC model, `vocab_size=32` of `Wav2Vec2Config`, transformers 4.57."""
_ATTENTION = {"sdpa": "sdpa", "eager": "eager", "flash": "flash_attention_2"}


def load(path: str, options: JobOptions) -> TrainingJob:
    """Make the job of a transformers config.

    Raises:
        SourceError: transformers is absent; the config is missing, broken, without a model type or of an unknown one;
            no model class is known for it; the sequence is longer than its positions; an option does not apply.
    """
    with offline():
        from estimator.sources.edits import prepare_torchvision

        prepare_torchvision()
        require("transformers", "transformers", "hf:")
        config, notes = _config(path)
        kind, task = _class(config, options)
        return job_of_class(kind, config, options, name=f"hf:{path}", task=task, notes=notes)


def job_of_class(
    kind: type, config: Any, options: JobOptions, name: str, task: Task | None = None, notes: tuple[str, ...] = ()
) -> TrainingJob:
    """Make the job of a transformers model class and a config.

    Raises:
        SourceError: the batch of such a model is not known, or an option does not apply to it.
    """
    from estimator.sources.edits import apply
    from estimator.sources.huggingface_batches import Shapes, inputs, losses
    from estimator.sources.huggingface_experts import NOTE, experts_of, share_equally
    from estimator.sources.huggingface_images import know_places
    from estimator.sources.huggingface_matching import NOTE as MATCHING
    from estimator.sources.huggingface_matching import matched_in_order
    from estimator.sources.quantized import quantize, take_quantization

    task = task or _task_of(kind)
    config = copy.deepcopy(config)
    shapes = Shapes.of(kind, config, task, options, name)
    quantization, quantized = take_quantization(config)
    said = [*notes, *quantized, *shapes.notes, *_settings(config, task, options)]
    matches = task.labels in ("boxes", "masks")

    def build() -> nn.Module:
        import torch

        with ExitStack() as stack:
            stack.enter_context(offline())
            # Under the job's dtype, whatever the config says: so does `from_pretrained` unless told otherwise.
            try:
                stack.enter_context(matched_in_order() if matches else nullcontext())
                model: nn.Module = kind._from_config(copy.deepcopy(config), dtype=torch.get_default_dtype())  # type: ignore[attr-defined]
            except (ImportError, ValueError, TypeError, AssertionError) as error:
                said = " ".join(str(error).split())
                raise SourceError(f"transformers cannot build {kind.__name__}: {said}", where=name) from error
        if shapes.among.tokens:
            know_places(model, shapes.among.tokens)
        if quantization is not None:
            model = quantize(model, quantization)
        return apply(share_equally(model, *experts) if experts else model, options)

    if matches:
        said.append(MATCHING)
    if experts := experts_of(config):
        said.append(NOTE)
    if options.optimizer is None and options.mode != "inference":
        said.append(f"optimizer was not given: {OPTIMIZER} is assumed")
    return TrainingJob(
        model=build,
        batch=inputs(kind, config, task, shapes, inference=options.mode == "inference"),
        loss=losses(task, inference=options.mode == "inference"),
        optimizer=options.optimizer or OPTIMIZER,
        name=name,
        # Packed weights come from the host; the full ones they are made of never were on the device together.
        build="host" if quantization is not None else "device",
        notes=tuple(said),
    )


def _config(path: str) -> tuple[Any, tuple[str, ...]]:
    """The config at a path, or the default config of a model type; and what must be said of it."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    place = Path(path).expanduser()
    if not place.exists():
        types = list(CONFIG_MAPPING.keys())
        if path in types:
            return CONFIG_MAPPING[path](), (f"no config was given: the default one of model type {path} is taken",)
        raise SourceError(
            "there is no such folder or file, and it is no model type",
            got=f"hf:{path}",
            allowed="a folder with config.json, such a file, or a model type of transformers; nothing is downloaded",
            hint=did_you_mean(path, types) or f"fetch its config first: hf download {path} config.json --local-dir DIR",
        )
    file = place / "config.json" if place.is_dir() else place
    if not file.is_file():
        adapter = (place / "adapter_config.json").is_file()
        raise SourceError(
            "the folder has no config.json",
            got=str(place),
            where="hf:",
            hint="it holds an adapter: give the base model's folder, and lora"
            if adapter
            else "save the model's config there",
        )
    try:
        fields = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise SourceError("the config is no JSON", got=str(error), where=str(file)) from None
    _check_type(fields, file, list(CONFIG_MAPPING.keys()))
    try:
        config = transformers.AutoConfig.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise SourceError(
            f"transformers cannot read the config: {str(error).partition(chr(10))[0]}", where=str(file)
        ) from error
    if "auto_map" in fields and not hasattr(transformers, str((fields.get("architectures") or [""])[0])):
        own = f"the config names code of its own (auto_map), which is never run: transformers' {fields['model_type']} is built"
        return config, (own,)
    return config, ()


def _check_type(fields: Any, file: Path, types: list[str]) -> None:
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind is None:
        arch = (fields.get("architectures") or [""])[0] if isinstance(fields, dict) else ""
        raise SourceError(
            "the config does not say its model_type",
            got=", ".join(list(fields)[:6]) if isinstance(fields, dict) else type(fields).__name__,
            where=str(file),
            allowed='"model_type": one of transformers\', such as "llama", "bert", "vit"',
            hint=did_you_mean(arch.lower().partition("for")[0], types) or 'add "model_type" to it',
        )
    if kind not in types:
        own = "auto_map" in fields
        raise SourceError(
            "the installed transformers does not know this model_type"
            + (", and code beside a config is never run" if own else ""),
            got=kind,
            where=str(file),
            hint=(None if own else did_you_mean(kind, types))
            or ("" if own else "upgrade transformers, or ") + "give a file of your own that builds the model: train.py:job",
        )


def _tables() -> dict[str, dict[str, Any]]:
    from transformers.models.auto import modeling_auto

    return {task.name: dict(getattr(modeling_auto, task.mapping, {})) for task in (*TASKS, BASE)}


def _names(entry: Any) -> tuple[str, ...]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def _class(config: Any, options: JobOptions) -> tuple[type, Task]:
    """The model class: of the task that was asked for, of `architectures`, or of the first task that fits."""
    import transformers

    tables, kind = _tables(), config.model_type
    offered = [task.name for task in TASKS if kind in tables[task.name]]
    if options.task is not None:
        task = task_named(options.task)
        if task is None or kind not in tables[task.name]:
            raise SourceError(
                f"transformers has no {kind} model for that task" if task else "no task has that name",
                got=options.task,
                allowed=", ".join(offered if task else TASK_NAMES),
                hint=None if task else did_you_mean(options.task, TASK_NAMES),
            )
        return getattr(transformers, _names(tables[task.name][kind])[0]), task
    for architecture in getattr(config, "architectures", None) or ():
        found = getattr(transformers, architecture, None)
        if found is not None and architecture not in map(str, _names(tables[BASE.name].get(kind, ()))):
            return found, _task_of(found)
    for name in (*offered, BASE.name):
        if kind in tables[name]:
            found = getattr(transformers, _names(tables[name][kind])[0])
            task = task_named(name)
            assert task is not None
            return found, task
    raise SourceError(
        "transformers has no model class for this config",
        got=kind,
        where="hf:",
        hint="give a file of your own that builds the model",
    )


def _task_of(kind: type) -> Task:
    """The task by the tables that a class stands in; by its name where it stands in none."""
    tables = _tables()
    for task in (*TASKS, BASE):
        if any(kind.__name__ in _names(entry) for entry in tables[task.name].values()):
            return task
    for ending, name in (("ForCausalLM", "causal-lm"), ("LMHeadModel", "causal-lm"), ("ForPreTraining", "pretraining")):
        if kind.__name__.endswith(ending):
            return task_named(name) or BASE
    return BASE


def _settings(config: Any, task: Task, options: JobOptions) -> list[str]:
    """Write the options into the config; what must be said of it comes back."""
    notes: list[str] = []
    if task.labels == "transcript" and getattr(config, "vocab_size", 0) is None:
        config.vocab_size = _LETTERS
        notes.append(f"the config has no vocab_size: {_LETTERS} is assumed")
    if options.num_classes is not None:
        config.num_labels = options.num_classes
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        # Any id will do: models that look for padding find none, and those that need an id get one.
        text.pad_token_id = 0
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = config.pad_token_id = 0
    for part in (config, getattr(config, "backbone_config", None)):
        if part is not None and getattr(part, "use_pretrained_backbone", False):
            part.use_pretrained_backbone = False
    if getattr(config, "languages", None) and getattr(config, "default_language", ...) is None:
        config.default_language = config.languages[0]
    if getattr(config, "use_mamba_kernels", False) and find_spec("mamba_ssm") is None:
        config.use_mamba_kernels = False
        notes.append("mamba_ssm is not installed here: the model's slow path, which needs more memory, is traced")
    if options.attn is not None:
        config._attn_implementation = _attention(options.attn, notes)
    if options.freeze is None and options.lora is None and options.precision is None:
        stored = getattr(config, "dtype", None)
        if stored is not None and "float32" not in str(stored):
            notes.append(
                f"precision was not given: fp32 is assumed; the config says {str(stored).removeprefix('torch.')}"
            )
    return notes


def _attention(asked: str, notes: list[str]) -> str:
    if asked == "flash" and find_spec("flash_attn") is None:
        notes.append(
            "flash_attention_2 is not installed here: PyTorch's own flash kernel (sdpa) is traced in its place"
        )
        return "sdpa"
    return _ATTENTION[asked]
