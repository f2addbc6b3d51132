"""Distillation: a small student learns from a frozen teacher, which takes memory but keeps nothing for a backward pass.

batch-estimator predict benchmarks/zoo/distill.py:job --device a100-40gb
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def convnet(width: int, blocks: int, classes: int) -> nn.Sequential:
    """Images (batch, 3, height, width) to logits (batch, class); every block but the first halves the sides."""
    layers: list[nn.Module] = []
    inputs = 3
    for block in range(blocks):
        outputs = width << block
        layers += [nn.Conv2d(inputs, outputs, 3, 2 if block else 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Distillation(nn.Module):
    """Images (batch, 3, size, size) to the student's and the teacher's logits."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            taught = self.teacher(images)
        return self.student(images), taught


def loss(model: nn.Module, images: Tensor) -> Tensor:
    """Divergence of the student's classes from the teacher's, both softened."""
    own, taught = model(images)
    return F.kl_div(F.log_softmax(own / 2, dim=-1), F.softmax(taught / 2, dim=-1), reduction="batchmean") * 4


def _job(name: str, size: int, student: tuple[int, int], teacher: tuple[int, int], precision: str) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: Distillation(convnet(*student, 1000), convnet(*teacher, 1000)),
        batch=lambda n: torch.randn(n, 3, size, size),
        loss=loss,
        optimizer="adamw",
        precision=precision,
    )


def job(image_size: int = 224) -> TrainingJob:
    """A student of 2.1 million parameters from a teacher of 27 million."""
    return _job("distill", image_size, (32, 5), (64, 6), "amp-bf16")


def tiny(image_size: int = 8) -> TrainingJob:
    return _job("distill-tiny", image_size, (4, 2), (8, 2), "fp32")
