"""Batches and losses of torchvision's model families, as torchvision's reference scripts train them.

Source: the training scripts in `references/` of torchvision 0.28, one folder a family.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("segmentation", "detection", "video", "optical_flow")
_BOXES = 8
_KEYPOINTS = 17
"""Source: the default `num_keypoints=17` of `keypointrcnn_resnet50_fpn`."""


def kind_of(module: str) -> str:
    """The family of a model by the module of its builder; classification where no other is named."""
    return next((kind for kind in KINDS if f".models.{kind}" in module), "classification")


def batch(kind: str, size: int, frames: int, classes: int | None, name: str) -> Callable[[int], Any]:
    """A function of the number of samples that makes a batch of that family."""
    makers: dict[str, Callable[[int], Any]] = {
        "classification": lambda n: (torch.randn(n, 3, size, size), torch.randint(classes or 1000, (n,))),
        "segmentation": lambda n: (torch.randn(n, 3, size, size), torch.randint(classes or 21, (n, size, size))),
        "video": lambda n: (torch.randn(n, 3, frames, size, size), torch.randint(classes or 400, (n,))),
        "optical_flow": lambda n: (
            torch.randn(n, 3, size, size),
            torch.randn(n, 3, size, size),
            torch.randn(n, 2, size, size),
        ),
        "detection": lambda n: (
            [torch.rand(3, size, size) for _ in range(n)],
            [_target(size, name) for _ in range(n)],
        ),
    }
    return makers[kind]


def _target(size: int, name: str) -> dict[str, Tensor]:
    """Boxes of one image, each half as wide and high; of constants, so that checks of them can be followed."""
    corners = [[size * k / (2 * _BOXES), size * k / (2 * _BOXES)] for k in range(_BOXES)]
    corner = torch.tensor(corners)
    far = corner + size / 2
    target = {"boxes": torch.cat([corner, far], dim=1), "labels": torch.ones(_BOXES, dtype=torch.int64)}
    if name.startswith("maskrcnn"):
        target["masks"] = torch.ones(_BOXES, size, size, dtype=torch.uint8)
    if name.startswith("keypointrcnn"):
        visible = torch.ones(_BOXES, _KEYPOINTS, 1)
        target["keypoints"] = torch.cat([((corner + far) / 2)[:, None].expand(-1, _KEYPOINTS, -1), visible], dim=2)
    return target


def loss(kind: str) -> Callable[[nn.Module, Any], Tensor]:
    """The loss of a family: of a model and a batch."""
    return {
        "segmentation": _segmentation_loss, "detection": _detection_loss, "optical_flow": _flow_loss,
    }.get(kind, _class_loss)  # fmt: skip


def forward(kind: str) -> Callable[[nn.Module, Any], Any]:
    """What inference runs: the model on the inputs alone."""
    if kind == "optical_flow":
        return lambda model, batch: model(batch[0], batch[1])
    return lambda model, batch: model(batch[0])


def _class_loss(model: nn.Module, batch: Any) -> Tensor:
    images, labels = batch
    output = model(images)
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels)
    # Inception and GoogLeNet in training: logits and one or two auxiliary heads, weighted 0.4 and 0.3 in their papers.
    weight = 0.4 if hasattr(output, "_fields") and "aux_logits" in output._fields else 0.3
    logits, *auxiliary = (head for head in output if head is not None)
    return sum((weight * F.cross_entropy(head, labels) for head in auxiliary), F.cross_entropy(logits, labels))


def _segmentation_loss(model: nn.Module, batch: Any) -> Tensor:
    images, labels = batch
    output = model(images)
    total = F.cross_entropy(output["out"], labels, ignore_index=255)
    if "aux" in output:
        total = total + 0.5 * F.cross_entropy(output["aux"], labels, ignore_index=255)
    return total


def _detection_loss(model: nn.Module, batch: Any) -> Tensor:
    images, targets = batch
    losses: dict[str, Tensor] = model(images, targets)
    return torch.stack(list(losses.values())).sum()


def _flow_loss(model: nn.Module, batch: Any) -> Tensor:
    first, second, flow = batch
    predictions = model(first, second)
    weights = [0.8 ** (len(predictions) - 1 - i) for i in range(len(predictions))]
    return torch.stack([w * (p - flow).abs().mean() for w, p in zip(weights, predictions, strict=True)]).sum()
