"""Detection without data: which boxes are good enough is a matter of values, so all of them are taken to be.

torchvision's detectors pick boxes by their scores, by what they overlap, and by the pyramid level that suits their
size. Here every proposal survives until a number in the model's settings cuts them (2000 after non-maximum suppression,
512 sampled for the second stage, a quarter of them with an object), and every pyramid level gets its equal share of the
boxes.

Bound: too high where proposals are few, by the second stage's part for those that are missing; what `nms` takes for
itself on the device (for n boxes n * n / 64 words, for the time of the call) is not counted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from estimator.sources.masks import EveryElement
from estimator.trace.values import known_value

if TYPE_CHECKING:
    from torch import nn

NOTE = (
    "detection: every image is square and has 8 boxes; which proposals are good is data, so as many as the model's "
    "settings allow are taken to be, shared equally among pyramid levels"
)


def full_of_boxes(function: Callable[[nn.Module, Any], Any]) -> Callable[[nn.Module, Any], Any]:
    """A loss (or forward) of a detector whose questions after the data are answered as this module says."""

    def call(model: nn.Module, batch: Any) -> Any:
        with _no_suppression(), _sharing(model), EveryElement():
            return function(model, batch)

    return call


@contextmanager
def _no_suppression() -> Iterator[None]:
    """Let non-maximum suppression keep every box."""
    from torchvision.ops import boxes as ops

    before = ops.batched_nms

    @functools.wraps(before)
    def keep(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
        if known_value(boxes) is not None:
            found: Tensor = before(boxes, scores, idxs, iou_threshold)
            return found
        return torch.arange(len(boxes), device=boxes.device)

    ops.batched_nms = keep
    try:
        yield
    finally:
        ops.batched_nms = before


@contextmanager
def _sharing(model: nn.Module) -> Iterator[None]:
    """While it is entered, pyramid levels share the boxes, and a quarter of the sampled ones (or so) have objects.

    Source: `MultiScaleRoIAlign` in torchvision/ops/poolers.py and `RoIHeads` in models/detection/roi_heads.py, 0.28.
    """
    from torchvision.models.detection.roi_heads import RoIHeads
    from torchvision.ops import MultiScaleRoIAlign

    wrapped: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, MultiScaleRoIAlign):
            module.forward = _over_levels(module.forward, frozenset(module.featmap_names))
        elif isinstance(module, RoIHeads):
            sampler = module.fg_bg_sampler
            share = functools.partial(_objects, sampler.batch_size_per_image, sampler.positive_fraction)
            module.forward = _within(module.forward, share)
        else:
            continue
        wrapped.append(module)
    try:
        yield
    finally:
        for module in wrapped:
            del module.forward


def _within(forward: Callable[..., Any], share: Callable[[Tensor], float]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        with EveryElement(share):
            return forward(*args, **kwargs)

    return call


def _over_levels(forward: Callable[..., Any], names: frozenset[str]) -> Callable[..., Any]:
    """The pooling of boxes with each of the levels that there are given its share; a model may name more than it has."""

    @functools.wraps(forward)
    def call(features: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        count = sum(name in names for name in features)
        with EveryElement(functools.partial(_level, max(1, count))):
            return forward(features, *args, **kwargs)

    return call


def _level(count: int, mask: Tensor) -> float:
    return 1 / count


def _objects(sampled: int, fraction: float, mask: Tensor) -> float:
    """Of a mask over the sampled boxes of one or all images, the share that has an object."""
    return fraction if mask.dim() == 1 and mask.numel() % sampled == 0 else 1.0
