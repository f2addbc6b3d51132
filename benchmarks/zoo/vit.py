"""A vision transformer: patches as tokens, a class token, bidirectional attention.

batch-estimator predict benchmarks/zoo/vit.py:job --image-size 384 --device a100-40gb
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


class ViT(nn.Module):
    """Images (batch, 3, size, size) to logits (batch, class)."""

    def __init__(self, size: int, patch: int, width: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position
        logits: Tensor = self.head(self.norm(self.encoder(tokens)[:, 0]))
        return logits


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels, label_smoothing=0.1)


def _job(
    name: str, size: int, patch: int, width: int, layers: int, heads: int, classes: int, precision: str
) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: ViT(size, patch, width, layers, heads, classes),
        batch=lambda n: (torch.randn(n, 3, size, size), torch.randint(classes, (n,))),
        loss=loss,
        optimizer="adamw",
        precision=precision,
    )


def job(image_size: int = 224, num_classes: int = 1000) -> TrainingJob:
    """ViT-B/16: 86.6 million parameters."""
    return _job("vit-b16", image_size, 16, 768, 12, 12, num_classes, "amp-bf16")


def tiny(image_size: int = 16, num_classes: int = 10) -> TrainingJob:
    return _job("vit-tiny", image_size, 4, 16, 2, 2, num_classes, "fp32")
