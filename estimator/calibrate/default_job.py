"""The job that calibrates where none is named: small, with an op of each library that keeps memory of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator.job import TrainingJob

BATCH_SIZE = 64
CHANNELS, PIXELS, CLASSES = 32, 32, 100


class Net(nn.Module):
    """Images (batch, 3, 32, 32) to logits (batch, 100): convolutions, attention over the pixels' rows, products."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.outer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.channels = nn.BatchNorm2d(CHANNELS)
        width = CHANNELS * PIXELS
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.channels(self.outer(F.relu(self.inner(images)))))
        rows = self.norm(x.transpose(1, 2).flatten(2))  # (batch, row, channels * column)
        q, k, v = self.qkv(rows).unflatten(-1, (3, CHANNELS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)  # (batch, head, row, width of a head)
        logits: Tensor = self.head((rows + attended.transpose(1, 2).flatten(2)).mean(1))
        return logits


def _loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def job() -> TrainingJob:
    """3.3 million parameters, AdamW."""
    return TrainingJob(
        name="calibration",
        model=Net,
        batch=lambda n: (torch.randn(n, 3, PIXELS, PIXELS), torch.randint(CLASSES, (n,))),
        loss=_loss,
        optimizer="adamw",
    )
