"""What a transformers model is fed: which inputs, of which shapes, and its loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from estimator.errors import SourceError
from estimator.sources.huggingface_images import ImageInputs, image_inputs
from estimator.sources.huggingface_tasks import BASE, Task
from estimator.sources.options import JobOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

SEQUENCE = 512
"""Tokens of an input that says nothing: enough for most fine-tuning, and the positions of the first BERTs."""
TRANSCRIPT = 128
"""Tokens of the text of a sample that is heard: a few sentences."""
DETECTION_SIDE = 800
"""Source: shortest_edge=800 of `DetrImageProcessor.size`, transformers 4.57."""
AUDIO_SAMPLES = 80_000
"""Five seconds at 16 kHz, the rate of the speech models of transformers."""
AUDIO_FRAMES = 500
"""Five seconds of 100 feature vectors each, the rate of the feature extractors of transformers."""
_BOXES = 8
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_target_positions", "max_source_positions")


@dataclass
class Shapes:
    """Sizes of one sample."""

    tokens: int = SEQUENCE
    vocabulary: int = 0
    image: tuple[int, int, int] = (3, 224, 224)
    frames: int = 0
    classes: int = 2
    audio: int | None = None
    """Samples or feature vectors of sound, where they were given."""
    among: ImageInputs = field(default_factory=ImageInputs)
    """Images among the text."""
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, kind: type, config: Any, task: Task, options: JobOptions, where: str) -> Shapes:
        """Read the sizes from a config, the options first; the image size is written into the config.

        Raises:
            SourceError: the sequence is longer than the model's positions.
        """
        text = config.get_text_config()
        vision = getattr(config, "vision_config", None) or config
        shapes = cls(vocabulary=getattr(text, "vocab_size", 0) or 0, classes=options.num_classes or config.num_labels)
        names = set(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
        if names & {"pixel_values", "pixel_values_videos"}:
            shapes.image = _image(vision, options, DETECTION_SIDE if task.labels == "boxes" else 224)
            shapes.frames = options.frames or getattr(config, "num_frames", None) or 0
            if options.image_size is None:
                shapes.notes.append(f"image_size was not given: {shapes.image[1]} x {shapes.image[2]} is assumed")
        elif options.image_size is not None:
            raise SourceError("this model takes no images", got=f"image_size={options.image_size}", where=where)
        hears = bool(names & {"input_values", "input_features"})
        if hears:
            shapes.audio = options.sequence_length
        if {"input_ids", "labels"} & names and shapes.vocabulary:
            asked = None if hears else options.sequence_length
            shapes.tokens = _tokens(kind, text, asked, TRANSCRIPT if hears else SEQUENCE, shapes.notes, where)
        elif options.sequence_length is not None and not hears:
            raise SourceError(
                "this model takes no sequences", got=f"sequence_length={options.sequence_length}", where=where
            )
        if "pixel_values" in names and "input_ids" in names:
            shapes.among = image_inputs(kind, config, shapes.image, where)
            if shapes.tokens <= shapes.among.tokens:
                shapes.tokens += shapes.among.tokens
            if shapes.among.tokens:
                shapes.notes.append(
                    f"each sample is {shapes.tokens} tokens, of which one image takes the first {shapes.among.tokens}"
                )
        return shapes


def _image(vision: Any, options: JobOptions, usual: int) -> tuple[int, int, int]:
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    own = getattr(vision, "image_size", None)
    if options.image_size is not None:
        if own is not None:
            vision.image_size = [options.image_size] * 2 if isinstance(own, (list, tuple)) else options.image_size
        return channels, options.image_size, options.image_size
    if isinstance(own, dict):
        own = (own.get("height"), own.get("width"))
    height, width = own if isinstance(own, (list, tuple)) else (own or usual, own or usual)
    return channels, height, width


def _tokens(kind: type, text: Any, asked: int | None, usual: int, notes: list[str], where: str) -> int:
    """Tokens of one sample, no more than the positions that the model has."""
    most, name = positions(kind, text)
    if asked is None:
        tokens = min(usual, most) if most else usual
        notes.append(f"how many tokens a sample has was not given: {tokens} are assumed")
        return tokens
    if most and asked > most:
        if _is_rotary(text):
            notes.append(f"sequence_length {asked} is beyond the {most} positions that the config names")
            return asked
        raise SourceError(
            "the sequence is longer than the model's positions",
            got=f"sequence_length={asked}",
            allowed=f"up to {most} ({name} of the config)",
            where=where,
            hint=f"--sequence-length {most}",
        )
    return asked


def positions(kind: type, text: Any) -> tuple[int | None, str]:
    """How many positions a text model has, and the config's name for it; None where they are relative."""
    # T5 and its kin name positions that no table has; MPNet has a table beside its relative ones.
    relative = getattr(text, "relative_attention_num_buckets", None)
    for name in _POSITIONS[:1] if relative else _POSITIONS:
        most = getattr(text, name, None)
        if isinstance(most, int) and most > 1:
            # RoBERTa and its kin count positions from the padding id on.
            offset = text.pad_token_id + 1 if _counts_from_padding(kind) and text.pad_token_id is not None else 0
            return most - offset, getattr(text, "attribute_map", {}).get(name, name)
    return None, ""


def _counts_from_padding(kind: type) -> bool:
    import sys

    module = sys.modules[kind.__module__]
    return any(
        "create_position_ids_from_input_ids" in vars(c) for c in vars(module).values() if isinstance(c, type)
    ) or hasattr(module, "create_position_ids_from_input_ids")


def _is_rotary(text: Any) -> bool:
    return getattr(text, "rope_theta", None) is not None or getattr(text, "rope_parameters", None) is not None


def inputs(kind: Any, config: Any, task: Task, shapes: Shapes, *, inference: bool) -> Callable[[int], dict[str, Any]]:
    """A function of the number of samples that makes the keyword arguments of the model's forward.

    Raises:
        SourceError: the model requires an input of which nothing is known.
    """
    parameters = inspect.signature(kind.forward).parameters
    makers = _makers(kind, config, task, shapes)
    wanted = [kind.main_input_name] if kind.main_input_name in makers else []
    if {"input_ids", "pixel_values"} <= set(parameters):
        wanted += [n for n in ("input_ids", "pixel_values", *shapes.among.makers) if n not in wanted]
    required = [
        n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and n != "self"
    ]
    wanted += [n for n in required if n not in wanted]
    if not wanted or any(n not in makers for n in wanted):
        raise SourceError(
            f"what {kind.__name__} is fed is not known",
            got=", ".join(n for n in wanted if n not in makers) or kind.main_input_name,
            allowed=", ".join(makers),
            hint="give a TrainingJob of your own whose batch makes it",
        )
    labels = {} if inference else _labels(task, shapes, parameters)
    if getattr(config, "is_encoder_decoder", False) and "labels" not in labels and "decoder_input_ids" in parameters:
        labels = {"decoder_input_ids": lambda n: torch.randint(shapes.vocabulary, (n, shapes.tokens)), **labels}

    def batch(n: int) -> dict[str, Any]:
        made = {name: makers[name](n) for name in wanted}
        copied = not getattr(config, "is_encoder_decoder", False) and task.labels == "tokens" and "input_ids" in made
        if copied and "labels" in labels:
            return {**made, "labels": made["input_ids"].clone()}
        return {**made, **{name: make(n) for name, make in labels.items()}}

    return batch


def _makers(kind: Any, config: Any, task: Task, s: Shapes) -> dict[str, Callable[[int], Any]]:
    """How each kind of input is made, by the name it has in the signatures of transformers."""
    choices = (4,) if task.name == "multiple-choice" else ()
    frames = (s.frames,) if s.frames and (task.name == "video-classification" or "Video" in kind.__name__) else ()
    mels = getattr(config, "num_mel_bins", None) or getattr(config, "input_feat_per_channel", None)
    width = getattr(config, "feature_projection_input_dim", None)
    if getattr(config, "max_source_positions", None) and getattr(config, "model_type", "") == "whisper":
        features: tuple[int, ...] = (
            mels or 80,
            2 * config.max_source_positions,
        )  # two frames a position: a stride of 2
    else:
        features = (s.audio or AUDIO_FRAMES, width or mels or 80)
    spectrogram = (
        (config.max_length, mels) if mels and hasattr(config, "max_length") and task.labels == "class" else None
    )

    def text(n: int) -> Tensor:
        # No other token than the placeholders may have their id.
        below = min(s.vocabulary, s.among.token or s.vocabulary)
        ids = torch.randint(below, (n, *choices, s.tokens - s.among.tokens))
        if not s.among.tokens:
            return ids
        return torch.cat([torch.full((n, s.among.tokens), s.among.token or 0), ids], dim=1)

    makers: dict[str, Callable[[int], Any]] = {
        "pixel_values": lambda n: torch.randn(n, *frames, *s.image),
        "input_features": lambda n: torch.randn(n, *features),
        "input_values": lambda n: torch.randn(n, *(spectrogram or (s.audio or AUDIO_SAMPLES,))),
        "attention_mask": lambda n: torch.ones(n, *choices, s.tokens, dtype=torch.int64),
        "bbox": lambda n: torch.zeros(n, s.tokens, 4, dtype=torch.int64),
        "bool_masked_pos": lambda n: torch.zeros(n, _patches(config, s), dtype=torch.bool),
    }
    if vision := getattr(config, "vision_config", None):
        # Pix2Struct: row, column and colours of each patch.
        flat = (getattr(vision, "seq_len", 0), 2 + getattr(vision, "patch_embed_hidden_size", 0))
        makers["flattened_patches"] = lambda n: torch.randn(n, *flat)
    if s.vocabulary:
        makers |= {"input_ids": text, "decoder_input_ids": lambda n: torch.randint(s.vocabulary, (n, s.tokens))}
    own = dict(s.among.makers)
    if (mask := own.pop("image_embeds_position_mask", None)) is not None:
        own["image_embeds_position_mask"] = lambda n: torch.nn.functional.pad(mask(n), (0, s.tokens - s.among.tokens))
    return makers | own


def _patches(config: Any, s: Shapes) -> int:
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
    return (s.image[1] // patch) * (s.image[2] // patch) * max(s.frames // getattr(config, "tubelet_size", 1), 1)


def _labels(task: Task, s: Shapes, parameters: Any) -> dict[str, Callable[[int], Any]]:
    height, width = s.image[1:]
    classes = max(s.classes, 1)
    tokens = lambda n: torch.randint(max(s.vocabulary, 1), (n, s.tokens))  # noqa: E731
    made: dict[str, dict[str, Callable[[int], Any]]] = {
        "none": {},
        "tokens": {"labels": tokens},
        "transcript": {"labels": lambda n: torch.randint(1, max(s.vocabulary, 2), (n, 32))},
        "class": {"labels": lambda n: torch.randint(classes, (n,)) if classes > 1 else torch.randn(n)},
        "token classes": {"labels": lambda n: torch.randint(classes, (n, s.tokens))},
        "span": {
            "start_positions": lambda n: torch.randint(s.tokens, (n,)),
            "end_positions": lambda n: torch.randint(s.tokens, (n,)),
        },
        "pixels": {"labels": lambda n: torch.randint(classes, (n, height, width))},
        "depth": {"labels": lambda n: torch.rand(n, height, width)},
        "contrastive": {"return_loss": lambda n: True},
        "boxes": {"labels": lambda n: [_boxes(classes) for _ in range(n)]},
        "masks": {
            "mask_labels": lambda n: [(torch.rand(_BOXES, height, width) > 0.5).float() for _ in range(n)],
            "class_labels": lambda n: [torch.randint(classes, (_BOXES,)) for _ in range(n)],
        },
        "image patches": {},
        "pretraining": {"labels": tokens, "next_sentence_label": lambda n: torch.randint(2, (n,))},
    }
    return {name: make for name, make in made[task.labels].items() if name in parameters}


def _boxes(classes: int) -> dict[str, Tensor]:
    """Boxes of one image as (centre, size), in fractions of its sides."""
    middle = torch.full((_BOXES, 2), 0.5)
    return {"class_labels": torch.randint(classes, (_BOXES,)), "boxes": torch.cat([middle, middle / 2], dim=1)}


@contextmanager
def _answers(task: Task) -> Iterator[None]:
    """Answer what a loss asks of the data: which box is matched to which query, which pixels have a depth."""
    from estimator.sources.huggingface_matching import matched_in_order
    from estimator.sources.masks import EveryElement

    if task.labels in ("boxes", "masks"):
        with matched_in_order(), EveryElement():
            yield
    elif task.labels == "depth":
        with EveryElement():
            yield
    else:
        yield


def losses(task: Task, *, inference: bool) -> Callable[[nn.Module, Any], Any]:
    """The model's own loss; of a model without a head the mean square of its features; in inference its output."""
    if inference:
        return lambda model, batch: model(**batch)

    def loss(model: nn.Module, batch: Any) -> Any:
        with _answers(task):
            output = model(**batch)
        if (found := output.get("loss")) is not None:
            return found
        if task is not BASE:
            raise SourceError(
                f"{type(model).__name__} gives no loss for its batch",
                got=", ".join(output),
                allowed="an output with .loss",
                hint="give a TrainingJob of your own with loss=",
            )
        first = next(value for value in output.values() if isinstance(value, torch.Tensor))
        return first.square().mean()

    return loss
