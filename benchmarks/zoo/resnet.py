"""ResNet-50: bottleneck residual blocks with batch normalisation, trained to classify images.

batch-estimator predict benchmarks/zoo/resnet.py:job --image-size 224 --device a100-80gb
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class Bottleneck(nn.Module):
    """Down to `width` channels, a 3x3 convolution, up to four times as many, added to what came in."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.reduce, self.spatial = conv_norm(inputs, width, 1), conv_norm(width, width, 3, stride)
        self.expand = conv_norm(width, outputs, 1)
        changes = stride != 1 or inputs != outputs
        self.shortcut = conv_norm(inputs, outputs, 1, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.reduce(x), inplace=True)
        y = F.relu(self.spatial(y), inplace=True)
        return F.relu(self.expand(y) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Images (batch, 3, height, width) to logits (batch, class)."""

    def __init__(self, depths: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1))
        stages: list[nn.Module] = []
        inputs = width
        for stage, depth in enumerate(depths):
            for block in range(depth):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(Bottleneck(inputs, width << stage, stride))
                inputs = 4 * (width << stage)
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images)).mean(dim=(2, 3))
        logits: Tensor = self.head(features)
        return logits


def classification_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


def _job(name: str, depths: tuple[int, ...], width: int, classes: int, size: int, precision: str) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: ResNet(depths, width, classes),
        batch=lambda n: (torch.randn(n, 3, size, size), torch.randint(classes, (n,))),
        loss=classification_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4),
        precision=precision,
    )


def job(image_size: int = 224, num_classes: int = 1000) -> TrainingJob:
    """ResNet-50: 25.6 million parameters."""
    return _job("resnet50", (3, 4, 6, 3), 64, num_classes, image_size, "amp-bf16")


def tiny(image_size: int = 32, num_classes: int = 10) -> TrainingJob:
    return _job("resnet-tiny", (1, 1), 8, num_classes, image_size, "fp32")
