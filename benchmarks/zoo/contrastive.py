"""A CLIP: an image tower and a text tower, trained so that the pairs of a batch find each other.

The logits are (batch, batch): memory that grows with the square of the batch size.

    batch-estimator predict benchmarks/zoo/contrastive.py:job --device h100-sxm
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def encoder(width: int, layers: int, heads: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


class CLIP(nn.Module):
    """Images (batch, 3, size, size) and token ids (batch, token) to logits (image, text)."""

    def __init__(
        self, size: int, patch: int, vocabulary: int, tokens: int, width: int, layers: int, heads: int
    ) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, width, patch, stride=patch), nn.Embedding(vocabulary, width)
        self.image_position = nn.Parameter(torch.zeros((size // patch) ** 2, width))
        self.text_position = nn.Parameter(torch.zeros(tokens, width))
        self.image, self.text = encoder(width, layers, heads), encoder(width, layers, heads)
        self.image_out, self.text_out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.full((), math.log(1 / 0.07)))

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2) + self.image_position
        seen = F.normalize(self.image_out(self.image(patches).mean(dim=1)), dim=-1)
        read = F.normalize(self.text_out(self.text(self.token(ids) + self.text_position)[:, -1]), dim=-1)
        return self.log_scale.exp() * seen @ read.T


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross entropy of finding the text of each image and the image of each text."""
    logits = model(*batch)
    pair = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, pair) + F.cross_entropy(logits.T, pair)) / 2


def _job(
    name: str, size: int, patch: int, vocabulary: int, tokens: int, width: int, layers: int, heads: int, precision: str
) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: CLIP(size, patch, vocabulary, tokens, width, layers, heads),
        batch=lambda n: (torch.randn(n, 3, size, size), torch.randint(vocabulary, (n, tokens))),
        loss=loss,
        optimizer="adamw",
        precision=precision,
    )


def job(image_size: int = 224, sequence_length: int = 77) -> TrainingJob:
    return _job("clip", image_size, 32, 49408, sequence_length, 512, 12, 8, "amp-bf16")


def tiny(image_size: int = 8, sequence_length: int = 5) -> TrainingJob:
    return _job("clip-tiny", image_size, 4, 50, sequence_length, 16, 1, 2, "fp32")
