"""A U-Net: down by pooling, up by transposed convolutions, with skip connections; one class for each pixel.

batch-estimator predict benchmarks/zoo/unet.py:job --image-size 512 --device rtx-4090
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions that keep height and width, each with batch normalisation and ReLU."""

    def one(i: int) -> list[nn.Module]:
        return [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    return nn.Sequential(*one(inputs), *one(outputs))


class UNet(nn.Module):
    """Images (batch, 3, height, width) to logits (batch, class, height, width)."""

    def __init__(self, base: int, depth: int, classes: int) -> None:
        super().__init__()
        widths = [base << level for level in range(depth + 1)]
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([3, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, stride=2) for w in widths[:0:-1])
        self.merge = nn.ModuleList(double_conv(w, w // 2) for w in widths[:0:-1])
        self.head = nn.Conv2d(base, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        x, skips = images, []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def _job(name: str, base: int, depth: int, classes: int, size: int, precision: str) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: UNet(base, depth, classes),
        batch=lambda n: (torch.randn(n, 3, size, size), torch.randint(classes, (n, size, size))),
        loss=loss,
        optimizer="adamw",
        precision=precision,
    )


def job(image_size: int = 256, num_classes: int = 2) -> TrainingJob:
    """31 million parameters."""
    return _job("unet", 64, 4, num_classes, image_size, "amp-bf16")


def tiny(image_size: int = 16, num_classes: int = 2) -> TrainingJob:
    return _job("unet-tiny", 4, 2, num_classes, image_size, "fp32")
