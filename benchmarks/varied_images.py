"""The models of `varied_cases.py` for images, points, rays and sound."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Wave(nn.Module):
    """Gated, dilated convolutions along time, with the next sample as a class of 256."""

    def __init__(self, d: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, d, 1)
        self.gates = nn.ModuleList(nn.Conv1d(d, 2 * d, 2, dilation=2**i) for i in range(8))
        self.mixes = nn.ModuleList(nn.Conv1d(d, d, 1) for _ in range(8))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(d, 256, 1))

    def forward(self, x: Tensor) -> Tensor:
        y, skip = self.first(x), torch.zeros((), device=x.device)
        for i, (gate, mix) in enumerate(zip(self.gates, self.mixes, strict=True)):
            a, b = gate(F.pad(y, (2**i, 0))).chunk(2, 1)
            z = mix(a.tanh() * b.sigmoid())
            y, skip = y + z, skip + z
        target = ((x.clamp(-1, 1) + 1) * 127.5).long().squeeze(1)
        return F.cross_entropy(self.last(skip)[..., :-1], target[:, 1:])


class FNO(nn.Module):
    """Layers that multiply the lowest frequencies of an image with complex weights."""

    def __init__(self, d: int = 32, modes: int = 12) -> None:
        super().__init__()
        self.modes = modes
        self.weights = nn.ParameterList(torch.randn(d, d, modes, modes, dtype=torch.complex64) / d for _ in range(3))
        self.around = nn.ModuleList(nn.Linear(d, d) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        m = self.modes
        for weight, around in zip(self.weights, self.around, strict=True):
            waves = torch.fft.rfft2(x)
            low = torch.einsum("nihw,iohw->nohw", waves[:, :, :m, :m], weight)
            full = F.pad(torch.view_as_real(low), (0, 0, 0, waves.shape[-1] - m, 0, waves.shape[-2] - m))
            y = torch.fft.irfft2(torch.view_as_complex(full.contiguous()), s=x.shape[-2:])
            x = F.gelu(y + around(x.movedim(1, -1)).movedim(-1, 1))
        return x.square().mean()


class NeRF(nn.Module):
    """Colours along rays: encoded places, a net, and what is seen through what lies before."""

    def __init__(self, d: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(39, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 4))

    def forward(self, places: Tensor, colours: Tensor) -> Tensor:
        waves = torch.cat([f(places * 2**i) for i in range(6) for f in (torch.sin, torch.cos)], -1)
        out = self.net(torch.cat([places, waves], -1))
        opacity = 1 - (-F.softplus(out[..., 3]) * 0.1).exp()
        through = torch.cat([torch.ones_like(opacity[:, :1]), (1 - opacity[:, :-1] + 1e-10)], 1).cumprod(1)
        seen = ((opacity * through).unsqueeze(-1) * out[..., :3].sigmoid()).sum(1)
        return F.mse_loss(seen, colours)


class PointNet(nn.Module):
    def __init__(self, classes: int = 40) -> None:
        super().__init__()
        wide = (3, 64, 128, 1024)
        self.points = nn.Sequential(
            *(nn.Sequential(nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()) for a, b in zip(wide, wide[1:], strict=False))
        )
        self.head = nn.Sequential(nn.Linear(1024, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.points(x).amax(-1))
        return out


class ConvLSTM(nn.Module):
    """Frames one after the other through convolutions with a memory."""

    def __init__(self, channels: int = 8, d: int = 32) -> None:
        super().__init__()
        self.d, self.gates, self.out = d, nn.Conv2d(channels + d, 4 * d, 3, padding=1), nn.Conv2d(d, channels, 1)

    def forward(self, frames: Tensor) -> Tensor:
        n, t, _, height, width = frames.shape
        hidden = memory = frames.new_zeros(n, self.d, height, width)
        loss = frames.new_zeros(())
        for step in range(t - 1):
            i, f, o, g = self.gates(torch.cat([frames[:, step], hidden], 1)).chunk(4, 1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * memory.tanh()
            loss = loss + F.smooth_l1_loss(self.out(hidden), frames[:, step + 1])
        return loss


class SuperResolution(nn.Module):
    """Residual convolutions, pixels shuffled to twice the size, and a bicubic enlargement beside them."""

    def __init__(self, d: int = 48) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, d, 3, padding=1)
        self.body = nn.ModuleList(nn.Sequential(nn.Conv2d(d, d, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(d, d, 3, padding=1)) for _ in range(4))
        self.last = nn.Sequential(nn.Conv2d(d, 4 * d, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(d, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        for block in self.body:
            y = y + 0.1 * block(y)
        large = F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
        return F.l1_loss(self.last(y).float(), large)


class Style(nn.Module):
    """Instance norms, mirrored borders, nearest-neighbour enlargement, and products of features as a loss."""

    def __init__(self, d: int = 32) -> None:
        super().__init__()

        def block(a: int, b: int, k: int, stride: int = 1) -> nn.Module:
            return nn.Sequential(
                nn.ReflectionPad2d(k // 2), nn.Conv2d(a, b, k, stride), nn.InstanceNorm2d(b, affine=True), nn.ReLU()
            )

        self.down = nn.Sequential(block(3, d, 9), block(d, 2 * d, 3, 2), block(2 * d, 2 * d, 3))
        self.up = nn.Sequential(nn.Upsample(scale_factor=2), block(2 * d, d, 3), nn.Conv2d(d, 3, 1), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        features = self.down(x)
        flat = features.flatten(2)
        gram = flat @ flat.mT / flat.shape[-1]
        return gram.float().square().mean() + F.mse_loss(self.up(features).float(), x)


class Spatial(nn.Module):
    """An image warped by a net's own affine map before it is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Sequential(nn.Conv2d(1, 8, 7, 2), nn.MaxPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 6))
        self.what = nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.BatchNorm2d(32), nn.Hardswish(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(8192, 10))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.where(x).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        out: Tensor = self.what(F.grid_sample(x, grid, align_corners=False))
        return out


class Unfolded(nn.Module):
    """A convolution as products with the patches of an image."""

    def __init__(self, d: int = 64) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(27, d), nn.Linear(9 * d, d), nn.Linear(d, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.unfold(x, 3, padding=1).transpose(1, 2)).relu()
        image = y.transpose(1, 2).unflatten(2, (32, 32))
        z = self.second(F.unfold(image, 3, padding=1, stride=2).transpose(1, 2))
        out: Tensor = self.out(F.glu(torch.cat([z, z], -1), -1).mean(1))
        return out
