"""Convolutional cases, held apart from `cases.py` and `more_cases.py`: other families, image sizes and batch sizes.

The rules for convolutions were written before these were looked at; they show whether the rules hold elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from benchmarks.cases import ADAM, ADAMW, SGD, Batch, Case, UNet, classify, vision
except ImportError:  # beside cases.py, outside the package
    from cases import ADAM, ADAMW, SGD, Batch, Case, UNet, classify, vision


class Generator(nn.Module):
    """The generator of a DCGAN: 64 x 64 images from noise."""

    def __init__(self, noise: int = 100, width: int = 64) -> None:
        super().__init__()
        widths = [noise, 8 * width, 4 * width, 2 * width, width]
        layers: list[nn.Module] = []
        for i, (c, k) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [nn.ConvTranspose2d(c, k, 4, 2 if i else 1, 1 if i else 0, bias=False), nn.BatchNorm2d(k)]
            layers += [nn.ReLU(True)]
        self.body = nn.Sequential(*layers, nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class ResidualBlock(nn.Module):
    def __init__(self, c: int, k: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, c), nn.Conv2d(c, k, 3, padding=1)
        self.time = nn.Linear(time, k)
        self.norm2, self.conv2 = nn.GroupNorm(32, k), nn.Conv2d(k, k, 3, padding=1)
        self.skip = nn.Conv2d(c, k, 1) if c != k else nn.Identity()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialAttention(nn.Module):
    def __init__(self, c: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(32, c)
        self.qkv, self.proj = nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(3, 4).unbind(1)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj(y.transpose(2, 3).reshape(b, c, h, w))


class DiffusionUNet(nn.Module):
    """A denoiser in the manner of DDPM: group norm, SiLU, attention at the two lower resolutions."""

    def __init__(self, channels: int = 4, base: int = 128, widths: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        time = 4 * base
        self.time = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        self.base, self.enter = base, nn.Conv2d(channels, base, 3, padding=1)
        sizes, c = [base], base
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            for _ in range(2):
                self.down.append(
                    nn.ModuleList([ResidualBlock(c, base * width, time), self._attention(i, base * width)])
                )
                c = base * width
                sizes.append(c)
            if i + 1 < len(widths):
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                sizes.append(c)
        self.middle = nn.ModuleList([ResidualBlock(c, c, time), SpatialAttention(c), ResidualBlock(c, c, time)])
        for i, width in reversed(list(enumerate(widths))):
            for _ in range(3):
                block = ResidualBlock(c + sizes.pop(), base * width, time)
                self.up.append(nn.ModuleList([block, self._attention(i, base * width)]))
                c = base * width
            if i:
                self.up.append(nn.Conv2d(c, c, 3, padding=1))
        self.leave = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1))

    @staticmethod
    def _attention(level: int, c: int) -> nn.Module:
        return SpatialAttention(c) if level else nn.Identity()

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        angles = step[:, None].float() * torch.linspace(0, 1, self.base // 2, device=x.device)
        t = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        x = self.enter(x)
        skips = [x]
        for level in self.down:
            x = level(x) if isinstance(level, nn.Conv2d) else level[1](level[0](x, t))
            skips.append(x)
        x = self.middle[2](self.middle[1](self.middle[0](x, t)), t)
        for level in self.up:
            if isinstance(level, nn.Conv2d):
                x = level(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            else:
                x = level[1](level[0](torch.cat([x, skips.pop()], 1), t))
        return self.leave(x)


class DilatedAudio(nn.Module):
    """One-dimensional convolutions with growing dilation, gated, as in WaveNet."""

    def __init__(self, width: int = 64, layers: int = 10, classes: int = 256) -> None:
        super().__init__()
        self.enter = nn.Conv1d(1, width, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 2, dilation=1 << (i % 8), padding=1 << (i % 8)) for i in range(layers)
        )
        self.mixes = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.out = nn.Conv1d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for gate, mix in zip(self.gates, self.mixes, strict=True):
            a, b = gate(x)[..., : x.shape[-1]].chunk(2, 1)
            x = x + mix(a.tanh() * b.sigmoid())
        return self.out(x)


class SuperResolution(nn.Module):
    """Residual blocks without norm and a pixel shuffle, as in EDSR."""

    def __init__(self, width: int = 64, depth: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(True), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.up = nn.Sequential(nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2))
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(self.up(x))


class Autoencoder(nn.Module):
    """Strided convolutions down, transposed ones up."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        widths = [3, *(width << i for i in range(depth))]
        down = [m for c, k in zip(widths, widths[1:], strict=False) for m in (nn.Conv2d(c, k, 5, 2, 2), nn.GELU())]
        widths.reverse()
        up = [m for c, k in zip(widths, widths[1:], strict=False)
              for m in (nn.ConvTranspose2d(c, k, 3, 2, 1, output_padding=1), nn.GELU())]  # fmt: skip
        self.body = nn.Sequential(*down, *up[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def images(size: int, classes: int = 1000) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, 3, size, size), torch.randint(0, classes, (n,)))


def masks(size: int, classes: int = 21) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, 3, size, size), torch.randint(0, classes, (n, size, size)))


def classify_with_aux(m: nn.Module, batch: Batch) -> Tensor:
    out = m(batch[0])
    return F.cross_entropy(out.logits, batch[1]) + 0.4 * F.cross_entropy(out.aux_logits, batch[1])


def segment(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0])["out"], batch[1])


def regress(m: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(m(*batch[:-1]), batch[-1])


def latents(n: int) -> Batch:
    return torch.randn(n, 4, 32, 32), torch.randint(0, 1000, (n,)), torch.randn(n, 4, 32, 32)


def vision_part(part: str, name: str, **options: Any) -> Callable[[], nn.Module]:
    """A model of `torchvision.models.segmentation` or `.video`."""

    def make() -> nn.Module:
        from benchmarks.vision import models

        return getattr(getattr(models(), part), name)(**options)

    return make


def inception() -> nn.Module:
    from benchmarks.vision import models

    return models().inception_v3(init_weights=False)


DCGAN = (Generator, lambda n: (torch.randn(n, 100, 1, 1), torch.randn(n, 3, 64, 64)), regress)
DIFFUSION = (DiffusionUNet, latents, regress)
SEGMENT = functools.partial(vision_part, "segmentation", weights_backbone=None, num_classes=21)
CLIPS = lambda n: (torch.randn(n, 3, 8, 112, 112), torch.randint(0, 400, (n,)))  # noqa: E731
SOUND = lambda n: (torch.randn(n, 1, 8000), torch.randint(0, 256, (n, 8000)))  # noqa: E731
PAIRS = lambda n: (torch.randn(n, 3, 48, 48), torch.randn(n, 3, 96, 96))  # noqa: E731

_ALL = [
    Case("resnext50-amp-sgd", vision("resnext50_32x4d"), images(224), classify, SGD, "amp-bf16", (12, 48)),
    Case("wide_resnet50-fp32-sgd", vision("wide_resnet50_2"), images(224), classify, SGD, "fp32", (6, 24)),
    Case("regnet_x-fp32-sgd", vision("regnet_x_1_6gf"), images(224), classify, SGD, "fp32", (10, 40)),
    Case("shufflenet-fp32-sgd", vision("shufflenet_v2_x1_0"), images(224), classify, SGD, "fp32", (24, 96)),
    Case("inception-fp32-sgd", inception, images(299), classify_with_aux, SGD, "fp32", (6, 20)),
    Case("mnasnet-amp-channels_last-sgd", vision("mnasnet1_0"), images(224), classify, SGD, "amp-bf16", (20, 80),
         channels_last=True),
    Case("deeplabv3-amp-sgd", SEGMENT("deeplabv3_resnet50"), masks(256), segment, SGD, "amp-bf16", (3, 10)),
    Case("fcn-fp32-sgd", SEGMENT("fcn_resnet50"), masks(320), segment, SGD, "fp32", (2, 6)),
    Case("maxvit-amp-adamw", vision("maxvit_t"), images(224), classify, ADAMW, "amp-bf16", (3, 12)),
    Case("r3d_18-fp32-sgd", vision_part("video", "r3d_18"), CLIPS, classify, SGD, "fp32", (1, 4)),
    Case("dcgan-fp32-adam", *DCGAN, ADAM, "fp32", (32, 150)),
    Case("diffusion-amp-adamw", *DIFFUSION, ADAMW, "amp-bf16", (5, 20)),
    Case("resnet18_160-fp16-channels_last-sgd", vision("resnet18"), images(160), classify, SGD, "amp-fp16", (30, 100),
         grad_scaler=True, channels_last=True),
    Case("squeezenet-bf16-sgd", vision("squeezenet1_1"), images(224), classify, SGD, "bf16", (10, 70)),
    Case("efficientnet_v2_s-fp32-adamw", vision("efficientnet_v2_s"), images(192), classify, ADAMW, "fp32", (3, 14)),
    Case("unet-amp-channels_last-adam", UNet, masks(192, 2), classify, ADAM, "amp-bf16", (2, 6), channels_last=True),
    Case("resnet34_160-fp32-sgd", vision("resnet34"), images(160), classify, SGD, "fp32", (20, 50)),
    Case("audio-fp32-adam", DilatedAudio, SOUND, classify, ADAM, "fp32", (2, 10)),
    Case("resnet101-amp-sgd", vision("resnet101"), images(224), classify, SGD, "amp-bf16", (7, 28)),
    Case("edsr-fp32-adam", SuperResolution, PAIRS, regress, ADAM, "fp32", (4, 14)),
]  # fmt: skip
_LATER = [  # recorded after the tables were made anew
    Case("densenet169-amp-sgd", vision("densenet169"), images(224), classify, SGD, "amp-bf16", (9, 30)),
    Case("vgg16_bn_192-fp32-sgd", vision("vgg16_bn"), images(192), classify, SGD, "fp32", (5, 24)),
    Case("efficientnet_b2-amp-adamw", vision("efficientnet_b2"), images(260), classify, ADAMW, "amp-bf16", (6, 22)),
    Case("lraspp-fp32-sgd", SEGMENT("lraspp_mobilenet_v3_large"), masks(256), segment, SGD, "fp32", (5, 18)),
    Case("convnext_small-amp-channels_last-adamw", vision("convnext_small"), images(224), classify, ADAMW, "amp-bf16",
         (5, 18), channels_last=True),
    Case("unet_small-fp32-adam", functools.partial(UNet, 32), masks(160, 2), classify, ADAM, "fp32", (3, 20)),
    Case("autoencoder-fp32-adam", Autoencoder, lambda n: (torch.randn(n, 3, 128, 128),) * 2, regress, ADAM, "fp32",
         (10, 60)),
]  # fmt: skip
_HALF = [  # recorded for the lines of float16
    Case(f"{name}-fp16{'-channels_last' if channels_last else ''}", model, batch, classify, ADAMW, "amp-fp16", batches,
         grad_scaler=True, channels_last=channels_last)
    for name, model, batch, batches in (
        ("resnet50", vision("resnet50"), images(224), (11, 32)),
        ("unet", UNet, masks(256, 2), (2, 7)),
        ("convnext_tiny", vision("convnext_tiny"), images(224), (9, 32)),
        ("efficientnet_b0", vision("efficientnet_b0"), images(224), (13, 48)),
    )
    for channels_last in (False, True)
]  # fmt: skip
_ALL += [*_LATER, *_HALF]
CASES: dict[str, Case] = {c.name: c for c in _ALL}
