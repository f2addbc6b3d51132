"""`torchvision:NAME`: any model that `torchvision.models.get_model` knows, with fresh weights and a batch for it.

Classification and its quantizable twins, segmentation, detection, video and optical flow; sizes are those that the
default weights were evaluated at.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.options import JobOptions
from estimator.sources.words import did_you_mean

if TYPE_CHECKING:
    from torch import nn

OPTIMIZER = "adamw"
_DETECTION_SIDE = 800
_DETECTION_SIDES = {
    "ssd300_vgg16": 300,
    "ssdlite320_mobilenet_v3_large": 320,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 320,
}
"""What detectors resize images to: the shorter side, or for SSD both.

Source: `min_size` and `size` of the builders in torchvision/models/detection, 0.28.
"""
_TAKES_IMAGE_SIZE = ("vit_",)
_FIXED = ("mvit", "ssd")
"""Families whose builders take no other size than their own.

Source: torchvision/models/video/mvit.py and torchvision/models/detection/{ssd,ssdlite}.py, 0.28.
"""
_CLIP_FRAMES = 16
"""Source: clips of 16 frames for the ResNets of video, references/video_classification (`--clip-len 16`)."""


def load(name: str, options: JobOptions) -> TrainingJob:
    """Make the job of a torchvision model.

    Raises:
        SourceError: torchvision is absent or does not import, it has no such model, or an option does not apply.
    """
    from estimator.sources import torchvision_batches as batches
    from estimator.sources.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

    if name not in list_models():
        close = (
            did_you_mean(name, list_models())
            or "python -c 'import torchvision; print(torchvision.models.list_models())'"
        )
        raise SourceError("torchvision has no such model", got=name, where="torchvision:", hint=close)
    if unused := options.given("sequence_length", "task", "attn"):
        raise SourceError(f"torchvision models take no {', '.join(unused)}", got=f"torchvision:{name}")
    builder = get_model_builder(name)
    kind = batches.kind_of(builder.__module__)
    weights = get_model_weights(name).DEFAULT
    size, frames = _sizes(name, kind, weights, options)
    kwargs = _arguments(name, builder, size, options)

    def build() -> nn.Module:
        from estimator.sources.edits import apply

        with _sizes_on_host():
            model: nn.Module = get_model(name, weights=None, **kwargs)
        return apply(model, options)

    loss = batches.loss(kind) if options.mode != "inference" else batches.forward(kind)
    if kind == "detection":
        from estimator.sources.torchvision_detection import full_of_boxes

        loss = full_of_boxes(loss)
    classes = options.num_classes or len(weights.meta.get("categories", ())) or None
    return TrainingJob(
        model=build,
        batch=batches.batch(kind, size, frames, classes, name),
        loss=loss,
        optimizer=options.optimizer or OPTIMIZER,
        name=f"torchvision:{name}",
        notes=_notes(kind, size, options),
    )


def _sizes(name: str, kind: str, weights: Any, options: JobOptions) -> tuple[int, int]:
    """Side of the image and frames of the clip: as given, or as the default weights were evaluated."""
    keywords = getattr(weights.transforms, "keywords", {})
    evaluated = keywords.get("crop_size") or (keywords.get("resize_size") if kind == "segmentation" else None)
    evaluated = evaluated[0] if isinstance(evaluated, tuple) else evaluated
    if kind == "detection":
        evaluated = _DETECTION_SIDES.get(name, _DETECTION_SIDE)
    elif kind == "optical_flow":
        evaluated = (
            368  # Source: shorter side of `--image_size 368 496`, train_standard.sh of RAFT (Teed and Deng 2020).
        )
    least = max(weights.meta.get("min_size", (1, 1)))
    size = options.image_size or evaluated or least
    if name.startswith(_TAKES_IMAGE_SIZE):
        return size, 0
    if size < least:
        raise SourceError(
            f"{name} takes no image this small",
            got=f"image_size={size}",
            allowed=f"image_size >= {least}",
            where=f"torchvision:{name}",
        )
    frames = weights.meta.get("min_temporal_size") or _CLIP_FRAMES
    if name.startswith(_FIXED) and (size, options.frames or frames) != (evaluated, frames):
        raise SourceError(
            f"{name} takes no other size than its own",
            got=f"image_size={size}, frames={options.frames or frames}",
            allowed=f"image_size={evaluated}, frames={frames}",
            where=f"torchvision:{name}",
        )
    return size, options.frames or frames


def _arguments(name: str, builder: Any, size: int, options: JobOptions) -> dict[str, Any]:
    taken = inspect.signature(builder).parameters
    kwargs: dict[str, Any] = {}
    if "weights_backbone" in taken:
        kwargs["weights_backbone"] = None  # Its default would download.
    if options.num_classes is not None:
        kwargs["num_classes"] = options.num_classes
    if name.startswith(_TAKES_IMAGE_SIZE):
        kwargs["image_size"] = size
    if ".detection" in builder.__module__ and not name.startswith(_FIXED):
        kwargs |= {"min_size": size, "max_size": size}
    if name.startswith("maxvit"):
        kwargs["input_size"] = (size, size)
    return kwargs


@contextmanager
def _sizes_on_host() -> Iterator[None]:
    """Let RegNet compute the sizes of its blocks, which it does with tensors, where tensors have values."""
    import torch
    from torchvision.models.regnet import BlockParams

    compute = BlockParams.__dict__["from_init_params"]

    def on_host(cls: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.device("cpu"):
            return compute.__func__(cls, *args, **kwargs)

    BlockParams.from_init_params = classmethod(on_host)
    try:
        yield
    finally:
        BlockParams.from_init_params = compute


def _notes(kind: str, size: int, options: JobOptions) -> tuple[str, ...]:
    notes = []
    if options.image_size is None:
        notes.append(
            f"image_size was not given: {size}, at which torchvision evaluates the default weights, is assumed"
        )
    if options.optimizer is None and options.mode != "inference":
        notes.append(f"optimizer was not given: {OPTIMIZER} is assumed")
    if kind == "detection":
        from estimator.sources.torchvision_detection import NOTE

        notes.append(NOTE)
    return tuple(notes)
