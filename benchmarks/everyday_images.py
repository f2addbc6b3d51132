"""Networks on images, volumes and sound as whole repositories have them, for `everyday_cases`. Needs torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from benchmarks.everyday_generators import Plus
except ImportError:  # beside cases.py, outside the package
    from everyday_generators import Plus  # type: ignore[import-not-found, no-redef]


class Masked(nn.Module):
    """A masked autoencoder: a quarter of the patches is encoded, all are decoded."""

    def __init__(self, size: int = 96, patch: int = 8, d: int = 192, small: int = 128) -> None:
        super().__init__()
        self.patch, self.count = patch, (size // patch) ** 2
        self.cut = nn.Conv2d(3, d, patch, patch)
        self.places, self.small_places = (nn.Parameter(torch.randn(1, self.count, n) * 0.02) for n in (d, small))
        self.hidden = nn.Parameter(torch.zeros(1, 1, small))
        self.encoder = self._stack(d, 6, 3)
        self.into, self.decoder, self.out = nn.Linear(d, small), self._stack(small, 2, 4), nn.Linear(small, 3 * patch**2)

    @staticmethod
    def _stack(d: int, depth: int, heads: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(d, heads, 4 * d, 0.0, "gelu", batch_first=True, norm_first=True)
        return nn.TransformerEncoder(layer, depth, nn.LayerNorm(d), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.cut(x).flatten(2).transpose(1, 2) + self.places
        b, t, d = h.shape
        order = torch.rand(b, t, device=x.device).argsort(1)
        back, kept = order.argsort(1), t // 4
        h = self.into(self.encoder(h.gather(1, order[:, :kept, None].expand(-1, -1, d))))
        h = torch.cat((h, self.hidden.expand(b, t - kept, -1)), 1)
        h = self.decoder(h.gather(1, back[..., None].expand(-1, -1, h.shape[2])) + self.small_places)
        goal = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        goal = (goal - goal.mean(-1, keepdim=True)) / (goal.var(-1, keepdim=True) + 1e-6) ** 0.5
        mask = (back >= kept).to(h.dtype)
        return (((self.out(h) - goal) ** 2).mean(-1) * mask).sum() / mask.sum()


class Windows(nn.Module):
    """Windows of 7x7 with learned biases, each second block shifted; then half the size and twice the width."""

    def __init__(self, d: int = 96, classes: int = 100) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, d, 4, 4)
        self.blocks = nn.ModuleList(_WindowBlock(d << i // 2, 3 << i // 2, 7 if i % 2 else 0) for i in range(4))
        self.merge, self.head = nn.Linear(4 * d, 2 * d, bias=False), nn.Linear(2 * d, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.cut(x).permute(0, 2, 3, 1)
        for i, block in enumerate(self.blocks):
            if i == 2:
                parts = (h[:, 0::2, 0::2], h[:, 1::2, 0::2], h[:, 0::2, 1::2], h[:, 1::2, 1::2])
                h = self.merge(torch.cat(parts, -1))
            h = block(h)
        return F.cross_entropy(self.head(h.mean((1, 2))), y)


class _WindowBlock(nn.Module):
    def __init__(self, d: int, heads: int, shift: int, window: int = 7) -> None:
        super().__init__()
        self.heads, self.shift, self.window = heads, shift // 2, window
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(*(torch.arange(window),) * 2, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None] + window - 1
        self.register_buffer("index", apart[0] * (2 * window - 1) + apart[1])

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, d = x.shape
        n, near = self.window, x
        x = self.norm1(x)
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(b, h // n, n, w // n, n, d).transpose(2, 3).reshape(-1, n * n, d)
        q, k, v = self.qkv(x).view(len(x), n * n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q * (d // self.heads) ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.bias[self.index.view(-1)].view(n * n, n * n, -1).permute(2, 0, 1)
        x = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(x), n * n, d))
        x = x.view(b, h // n, w // n, n, n, d).transpose(2, 3).reshape(b, h, w, d)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = near + x
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Volumes(nn.Module):
    """A UNet of volumes with instance norm, and the overlap as loss."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.downs = nn.ModuleList(self._pair(c, k) for c, k in ((4, width), (width, 2 * width), (2 * width, 4 * width)))
        self.grows = nn.ModuleList(nn.ConvTranspose3d(k, k // 2, 2, 2) for k in (4 * width, 2 * width))
        self.ups = nn.ModuleList(self._pair(k, k // 2) for k in (4 * width, 2 * width))
        self.head = nn.Conv3d(width, classes, 1)

    @staticmethod
    def _pair(c: int, k: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv3d(c, k, 3, padding=1, bias=False), nn.InstanceNorm3d(k, affine=True), nn.LeakyReLU(0.01, True),
            nn.Conv3d(k, k, 3, padding=1, bias=False), nn.InstanceNorm3d(k, affine=True), nn.LeakyReLU(0.01, True),
        )  # fmt: skip

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        kept = []
        for i, down in enumerate(self.downs):
            x = down(F.max_pool3d(x, 2) if i else x)
            kept.append(x)
        for grow, up, skip in zip(self.grows, self.ups, kept[-2::-1], strict=True):
            x = up(torch.cat((grow(x), skip), 1))
        shares = self.head(x).softmax(1)
        hot = F.one_hot(y, shares.shape[1]).movedim(-1, 1).to(shares.dtype)
        overlap = (shares * hot).sum((2, 3, 4))
        dice = 1 - (2 * overlap / (shares.sum((2, 3, 4)) + hot.sum((2, 3, 4)) + 1e-5)).mean()
        return dice + F.nll_loss(shares.clamp_min(1e-8).log(), y)


class Speech(nn.Module):
    """Blocks of a Conformer on spectrograms, a loss over alignments."""

    def __init__(self, mels: int = 80, d: int = 144, depth: int = 3, classes: int = 32) -> None:
        super().__init__()
        self.shrink = nn.Sequential(nn.Conv2d(1, d, 3, 2), nn.ReLU(), nn.Conv2d(d, d, 3, 2), nn.ReLU())
        self.into, self.head = nn.Linear(d * (((mels - 1) // 2 - 1) // 2), d), nn.Linear(d, classes)
        self.blocks = nn.ModuleList(_SpeechBlock(d) for _ in range(depth))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = self.shrink(x.unsqueeze(1))
        h = self.into(h.transpose(1, 2).flatten(2))
        for block in self.blocks:
            h = block(h)
        shares = self.head(h).float().log_softmax(-1).transpose(0, 1)
        near = torch.full((len(x),), shares.shape[0], dtype=torch.long)
        far = torch.full((len(x),), y.shape[1], dtype=torch.long)
        return F.ctc_loss(shares, y, near, far, zero_infinity=True)


class _SpeechBlock(nn.Module):
    def __init__(self, d: int, kernel: int = 31) -> None:
        super().__init__()
        self.before, self.after = self._wide(d), self._wide(d)
        self.norm, self.look = nn.LayerNorm(d), nn.MultiheadAttention(d, 4, 0.1, batch_first=True)
        self.local_norm, self.last = nn.LayerNorm(d), nn.LayerNorm(d)
        self.local = nn.Sequential(
            nn.Conv1d(d, 2 * d, 1), nn.GLU(1), nn.Conv1d(d, d, kernel, padding=kernel // 2, groups=d),
            nn.BatchNorm1d(d), nn.SiLU(), nn.Conv1d(d, d, 1), nn.Dropout(0.1),
        )  # fmt: skip

    @staticmethod
    def _wide(d: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.SiLU(), nn.Dropout(0.1), nn.Linear(4 * d, d), nn.Dropout(0.1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        z = self.norm(x)
        x = x + self.look(z, z, z, need_weights=False)[0]
        x = x + self.local(self.local_norm(x).transpose(1, 2)).transpose(1, 2)
        return self.last(x + 0.5 * self.after(x))


class Mixer(nn.Module):
    """ConvMixer: patches, then depthwise and pointwise convolutions with batch norm."""

    def __init__(self, d: int = 256, depth: int = 8, kernel: int = 9, patch: int = 7, classes: int = 100) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, d, patch, patch), nn.GELU(), nn.BatchNorm2d(d)]
        for _ in range(depth):
            layers.append(Plus(nn.Sequential(nn.Conv2d(d, d, kernel, padding="same", groups=d), nn.GELU(), nn.BatchNorm2d(d))))
            layers += [nn.Conv2d(d, d, 1), nn.GELU(), nn.BatchNorm2d(d)]
        self.net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(d, classes))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.net(x), y)


class Pyramid(nn.Module):
    """Features of a body at three sizes, added from the small to the large, and heads for classes and boxes at each."""

    def __init__(self, body: nn.Module, widths: tuple[int, int, int], d: int = 128, classes: int = 20) -> None:
        super().__init__()
        self.body = body
        self.sides = nn.ModuleList(nn.Conv2d(c, d, 1) for c in widths)
        self.smooths = nn.ModuleList(nn.Conv2d(d, d, 3, padding=1) for _ in widths)
        self.kinds, self.boxes = (self._head(d, n) for n in (9 * classes, 9 * 4))

    @staticmethod
    def _head(d: int, far: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(d, d, 3, padding=1), nn.GroupNorm(16, d), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(d, far, 3, padding=1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        found: list[Tensor] = []
        b = self.body
        h = b.layer1(b.maxpool(b.relu(b.bn1(b.conv1(x)))))  # type: ignore[operator]
        for layer in (b.layer2, b.layer3, b.layer4):
            h = layer(h)  # type: ignore[operator]
            found.append(h)
        above: Tensor | None = None
        loss = torch.zeros((), device=x.device)
        for side, smooth, h in reversed(list(zip(self.sides, self.smooths, found, strict=True))):
            h = side(h)
            if above is not None:
                h = h + F.interpolate(above, size=h.shape[-2:], mode="nearest")
            above = h
            h = smooth(h)
            kinds, boxes = self.kinds(h), self.boxes(h)
            loss = loss + F.binary_cross_entropy_with_logits(kinds, torch.zeros_like(kinds), reduction="sum") / len(x)
            loss = loss + F.smooth_l1_loss(boxes, y[:, :4, None, None].repeat(1, 9, 1, 1).expand_as(boxes))
        return loss
