"""`timm:NAME`: any image model that timm can make, without its weights, at its default input size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.offline import offline
from estimator.sources.options import JobOptions
from estimator.sources.words import did_you_mean, require

if TYPE_CHECKING:
    from torch import Tensor, nn

OPTIMIZER = "adamw"


def load(name: str, options: JobOptions) -> TrainingJob:
    """Make the job of a timm model: images and labels, cross entropy.

    Raises:
        SourceError: timm is absent, it has no such model, or an option does not apply.
    """
    from estimator.sources.edits import apply, prepare_torchvision

    prepare_torchvision()
    timm = require("timm", "timm", "timm:")
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise SourceError(
            "timm has no such model", got=name, where="timm:", hint=did_you_mean(base, timm.list_models())
        )
    if unused := options.given("sequence_length", "task", "attn", "frames"):
        raise SourceError(f"timm models take no {', '.join(unused)}", got=f"timm:{name}")
    config = _config(timm, name)
    kwargs: dict[str, Any] = {}
    if options.num_classes is not None:
        kwargs["num_classes"] = options.num_classes
    if options.image_size is not None and config.get("fixed_input_size"):
        kwargs["img_size"] = options.image_size

    def build() -> nn.Module:
        with offline():
            model: nn.Module = timm.create_model(name, pretrained=False, **kwargs)
        return apply(model, options)

    return _job(build, config, options, f"timm:{name}")


def _config(timm: Any, name: str) -> dict[str, Any]:
    """What timm says of a model's data; of a model by a former name, what it says once it is made (without memory)."""
    found = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if found is not None:
        return dict(found.to_dict())
    import warnings

    import torch

    with torch.device("meta"), offline(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = timm.create_model(name, pretrained=False)
    return {**(getattr(made, "pretrained_cfg", None) or {}), "num_classes": getattr(made, "num_classes", 1000)}


def job_of_module(model: nn.Module, options: JobOptions, name: str) -> TrainingJob:
    """Make the job of a live timm model."""
    if unused := options.given("sequence_length", "task", "attn", "frames", "num_classes"):
        raise SourceError(f"a timm model that is made already takes no {', '.join(unused)}", got=name)
    config: dict[str, Any] = dict(model.pretrained_cfg)  # type: ignore[arg-type]
    config["num_classes"] = getattr(model, "num_classes", config.get("num_classes", 1000))
    return _job(model, config, options, name)


def _job(model: Any, config: dict[str, Any], options: JobOptions, name: str) -> TrainingJob:
    channels, height, width = config.get("input_size") or (3, 224, 224)
    notes = []
    if options.image_size is not None:
        height = width = options.image_size
    else:
        notes.append(f"image_size was not given: timm's default for this model, {height} x {width}, is assumed")
    if options.optimizer is None and options.mode != "inference":
        notes.append(f"optimizer was not given: {OPTIMIZER} is assumed")
    classes = options.num_classes or config.get("num_classes") or 0
    return TrainingJob(
        model=model,
        batch=images(channels, height, width, classes),
        loss=(lambda model, batch: model(batch[0])) if options.mode == "inference" else class_loss,
        optimizer=options.optimizer or OPTIMIZER,
        name=name,
        notes=tuple(notes),
    )


def images(channels: int, height: int, width: int, classes: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Batches of images and their labels."""
    import torch

    return lambda n: (torch.randn(n, channels, height, width), torch.randint(max(classes, 1), (n,)))


def class_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy; with several heads in training (distillation) their mean; of features, the mean square."""
    import torch.nn.functional as F
    from torch import Tensor

    images, labels = batch
    output = model(images)
    heads: list[Tensor] = [output] if isinstance(output, Tensor) else list(output)
    losses = [F.cross_entropy(h, labels) if h.dim() == 2 and h.shape[1] > 1 else h.square().mean() for h in heads]
    return sum(losses[1:], losses[0]) / len(losses)
