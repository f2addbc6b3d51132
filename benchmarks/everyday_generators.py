"""Networks that make images, and that learn from two views of one, for `everyday_cases`. Needs torch alone."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Residual(nn.Module):
    """Two group norms, two convolutions, and the moment in time added between."""

    def __init__(self, near: int, far: int, moments: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, near), nn.GroupNorm(32, far)
        self.conv1, self.conv2 = nn.Conv2d(near, far, 3, padding=1), nn.Conv2d(far, far, 3, padding=1)
        self.moment = nn.Linear(moments, far)
        self.skip = nn.Conv2d(near, far, 1) if near != far else nn.Identity()

    def forward(self, x: Tensor, moment: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.moment(F.silu(moment))[:, :, None, None]
        return self.skip(x) + self.conv2(F.dropout(F.silu(self.norm2(h)), 0.1))


class _Look(nn.Module):
    """Attention over the pixels of an image."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.GroupNorm(32, d), nn.Conv2d(d, 3 * d, 1), nn.Conv2d(d, d, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, 3, c // 64, 64, h * w).transpose(3, 4).unbind(1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(b, c, h, w))


class Diffusion(nn.Module):
    """A UNet that predicts the noise, moments in time by sines, attention at the small sizes."""

    def __init__(self, width: int = 64, multiples: tuple[int, ...] = (1, 2, 4), channels: int = 3) -> None:
        super().__init__()
        self.width, t = width, 4 * width
        self.time = nn.Sequential(nn.Linear(width, t), nn.SiLU(), nn.Linear(t, t))
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.downs, self.ups, self.looks_down, self.looks_up = (nn.ModuleList() for _ in range(4))
        kept, c = [width], width
        for i, m in enumerate(multiples):
            for _ in range(2):
                self.downs.append(_Residual(c, width * m, t))
                self.looks_down.append(_Look(width * m) if i else nn.Identity())
                c = width * m
                kept.append(c)
            if i + 1 < len(multiples):
                self.downs.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                self.looks_down.append(nn.Identity())
                kept.append(c)
        self.middle1, self.middle, self.middle2 = _Residual(c, c, t), _Look(c), _Residual(c, c, t)
        for i, m in reversed(list(enumerate(multiples))):
            for _ in range(3):
                self.ups.append(_Residual(c + kept.pop(), width * m, t))
                self.looks_up.append(_Look(width * m) if i else nn.Identity())
                c = width * m
            if i:
                self.ups.append(nn.Conv2d(c, c, 3, padding=1))
                self.looks_up.append(nn.Identity())
        self.last = nn.Sequential(nn.GroupNorm(32, c), nn.SiLU(), nn.Conv2d(c, channels, 3, padding=1))

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        share = (moments.float() / 1000).view(-1, 1, 1, 1)
        h = self.first((1 - share).sqrt() * x + share.sqrt() * noise)
        rates = torch.exp(-9.2 * torch.arange(self.width // 2, device=x.device) / (self.width // 2))
        angles = moments.float().unsqueeze(1) * rates
        t = self.time(torch.cat((angles.sin(), angles.cos()), 1))
        kept = [h]
        for down, look in zip(self.downs, self.looks_down, strict=True):
            h = look(down(h, t) if isinstance(down, _Residual) else down(h))
            kept.append(h)
        h = self.middle2(self.middle(self.middle1(h, t)), t)
        for up, look in zip(self.ups, self.looks_up, strict=True):
            if isinstance(up, _Residual):
                h = look(up(torch.cat((h, kept.pop()), 1), t))
            else:
                h = up(F.interpolate(h, scale_factor=2, mode="nearest"))
        return F.mse_loss(self.last(h), noise)


class Autoencoder(nn.Module):
    """A variational autoencoder of 64x64 pixels with transposed convolutions."""

    def __init__(self, width: int = 32, latents: int = 128) -> None:
        super().__init__()
        c, down, up = 3, [], []
        for i in range(4):
            down += [nn.Conv2d(c, width << i, 4, 2, 1), nn.BatchNorm2d(width << i), nn.LeakyReLU(0.2)]
            c = width << i
        for i in reversed(range(3)):
            up += [nn.ConvTranspose2d(c, width << i, 4, 2, 1), nn.BatchNorm2d(width << i), nn.ReLU()]
            c = width << i
        self.down, self.up = nn.Sequential(*down), nn.Sequential(*up, nn.ConvTranspose2d(c, 3, 4, 2, 1), nn.Sigmoid())
        self.mean, self.spread = nn.Linear(16 * (width << 3), latents), nn.Linear(16 * (width << 3), latents)
        self.back = nn.Linear(latents, 16 * (width << 3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.down(x).flatten(1)
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        y = self.up(self.back(z).view(len(x), -1, 4, 4))
        divergence = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1).mean()
        return F.mse_loss(y, x, reduction="sum") / len(x) + divergence


class Translated(nn.Module):
    """A generator from image to image: reflected edges, instance norm, residual blocks; the way there and back."""

    def __init__(self, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.there, self.back = self._generator(width, blocks), self._generator(width, blocks)

    @staticmethod
    def _generator(k: int, blocks: int) -> nn.Sequential:
        def block(c: int) -> nn.Sequential:
            return nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c), nn.ReLU(True),
                nn.ReflectionPad2d(1), nn.Conv2d(c, c, 3), nn.InstanceNorm2d(c),
            )  # fmt: skip

        layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, k, 7), nn.InstanceNorm2d(k), nn.ReLU(True)]
        for i in range(2):
            layers += [nn.Conv2d(k << i, k << i + 1, 3, 2, 1), nn.InstanceNorm2d(k << i + 1), nn.ReLU(True)]
        layers += [Plus(block(4 * k)) for _ in range(blocks)]
        for i in (2, 1):
            layers += [nn.ConvTranspose2d(k << i, k << i - 1, 3, 2, 1, 1), nn.InstanceNorm2d(k << i - 1), nn.ReLU(True)]
        return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(k, 3, 7), nn.Tanh())

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        there, back = self.there(a), self.back(b)
        return 10 * (F.l1_loss(self.back(there), a) + F.l1_loss(self.there(back), b)) + (there.mean() - back.mean()) ** 2


class Plus(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class Contrast(nn.Module):
    """Two views of each image through one network, and the loss of the nearest among all."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.body = body
        self.project = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 128))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        z = F.normalize(self.project(self.body(torch.cat((a, b)))), dim=1)
        n = len(a)
        likeness = z @ z.t() / 0.5
        likeness = likeness.masked_fill(torch.eye(2 * n, dtype=torch.bool, device=z.device), -1e4)
        return F.cross_entropy(likeness, torch.cat((torch.arange(n, 2 * n), torch.arange(n))).to(z.device))


class Followed(nn.Module):
    """A network that predicts what a slow copy of itself says of another view."""

    def __init__(self, body: nn.Module, features: int) -> None:
        super().__init__()
        self.online = nn.Sequential(body, self._head(features, 128))
        self.slow = copy.deepcopy(self.online).requires_grad_(False)
        self.predict = self._head(128, 128)

    @staticmethod
    def _head(near: int, far: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(near, 512), nn.BatchNorm1d(512), nn.ReLU(True), nn.Linear(512, far))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.no_grad():
            for mine, theirs in zip(self.online.parameters(), self.slow.parameters(), strict=True):
                theirs.mul_(0.99).add_(mine, alpha=0.01)
            goals = [F.normalize(self.slow(x), dim=1) for x in (b, a)]
        mine = [F.normalize(self.predict(self.online(x)), dim=1) for x in (a, b)]
        return sum(2 - 2 * (p * z).sum(1).mean() for p, z in zip(mine, goals, strict=True))  # type: ignore[return-value]
