"""A DCGAN: two models with an optimizer each, and a loop body of its own (`step=`) that trains both.

batch-estimator predict benchmarks/zoo/gan.py:job --device a10g
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


def generator(noise: int, base: int, size: int) -> nn.Sequential:
    """Noise (batch, noise, 1, 1) to images (batch, 3, size, size); every layer after the first doubles the side."""
    width = base * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(noise, width, 4, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
    for _ in range(size.bit_length() - 4):
        layers += [
            nn.ConvTranspose2d(width, width // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.ReLU(True),
        ]
        width //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())


def discriminator(base: int, size: int) -> nn.Sequential:
    """Images (batch, 3, size, size) to logits (batch, 1, 1, 1); every layer but the last halves the side."""
    layers: list[nn.Module] = [nn.Conv2d(3, base, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    width = base
    for _ in range(size.bit_length() - 4):
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, True)]
        width *= 2
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 4))


class GAN(nn.Module):
    """Both models under one roof, so that both are placed on the device."""

    def __init__(self, noise: int, base: int, size: int) -> None:
        super().__init__()
        self.noise = noise
        self.generator, self.discriminator = generator(noise, base, size), discriminator(base, size)
        self.optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer] | None = None


def step(gan: GAN, _: Any, images: Tensor) -> Tensor:
    """Train the discriminator on real and generated images, then the generator against it."""
    if gan.optimizers is None:
        gan.optimizers = (
            torch.optim.Adam(gan.generator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
            torch.optim.Adam(gan.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999)),
        )
    for_generator, for_discriminator = gan.optimizers
    generated = gan.generator(torch.randn(len(images), gan.noise, 1, 1, device=images.device, dtype=images.dtype))

    for_discriminator.zero_grad()
    on_real, on_generated = gan.discriminator(images), gan.discriminator(generated.detach())
    told = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
    told = told + F.binary_cross_entropy_with_logits(on_generated, torch.zeros_like(on_generated))
    told.backward()
    for_discriminator.step()

    for_generator.zero_grad()
    judged = gan.discriminator(generated)
    fooled = F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
    fooled.backward()
    for_generator.step()
    return fooled


def _job(name: str, noise: int, base: int, size: int) -> TrainingJob:
    if size < 8 or size & (size - 1):
        raise ValueError(f"the side of the images must be a power of two and at least 8, got {size}")
    return TrainingJob(
        name=name, model=lambda: GAN(noise, base, size), batch=lambda n: torch.randn(n, 3, size, size), step=step
    )


def job(image_size: int = 64) -> TrainingJob:
    """DCGAN at 64 x 64: 6.3 million parameters."""
    return _job("dcgan", 100, 64, image_size)


def tiny(image_size: int = 8) -> TrainingJob:
    return _job("dcgan-tiny", 8, 4, image_size)
