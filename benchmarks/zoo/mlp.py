"""A plain multi-layer perceptron on vectors.

batch-estimator predict benchmarks/zoo/mlp.py:job --device t4
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def mlp(inputs: int, width: int, layers: int, classes: int) -> nn.Sequential:
    """Vectors (batch, inputs) to logits (batch, classes)."""
    sizes = [inputs, *[width] * layers]
    hidden = [nn.Sequential(nn.Linear(i, o), nn.ReLU()) for i, o in pairwise(sizes)]
    return nn.Sequential(*hidden, nn.Linear(width, classes))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    vectors, labels = batch
    return F.cross_entropy(model(vectors), labels)


def _job(name: str, inputs: int, width: int, layers: int, classes: int) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: mlp(inputs, width, layers, classes),
        batch=lambda n: (torch.randn(n, inputs), torch.randint(classes, (n,))),
        loss=loss,
        optimizer="adam",
    )


def job(num_classes: int = 10) -> TrainingJob:
    return _job("mlp", 1024, 4096, 2, num_classes)


def tiny(num_classes: int = 10) -> TrainingJob:
    return _job("mlp-tiny", 8, 16, 2, num_classes)
