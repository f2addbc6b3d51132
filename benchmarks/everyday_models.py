"""Networks on graphs, tables and equations as whole repositories have them, for `everyday_cases`. Needs torch alone.

Each was written from what its paper says; each gives its own loss.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GraphAttention(nn.Module):
    """Two layers of attention over edges, softmax by target node, and pooling by graph."""

    def __init__(self, near: int = 64, d: int = 64, heads: int = 4, classes: int = 10) -> None:
        super().__init__()
        self.heads = heads
        self.lifts = nn.ModuleList(nn.Linear(n, heads * d) for n in (near, heads * d))
        self.scores = nn.ParameterList(torch.randn(2, heads, d) * 0.1 for _ in range(2))
        self.head = nn.Linear(heads * d, classes)

    def forward(self, x: Tensor, edges: Tensor, graphs: Tensor, y: Tensor) -> Tensor:
        source, target = edges[:, 0], edges[:, 1]
        for lift, score in zip(self.lifts, self.scores, strict=True):
            h = lift(x).view(len(x), self.heads, -1)
            e = F.leaky_relu((h * score[0]).sum(-1)[source] + (h * score[1]).sum(-1)[target], 0.2)
            top = e.new_full((len(x), self.heads), -1e9).scatter_reduce(
                0, target.unsqueeze(1).expand_as(e), e, "amax", include_self=True
            )
            e = torch.exp(e - top[target].detach())
            total = torch.zeros_like(top).index_add(0, target, e)
            shares = F.dropout(e / (total[target] + 1e-9), 0.2)
            sent = (h[source] * shares.unsqueeze(-1)).to(h.dtype)
            x = F.elu(torch.zeros_like(h).index_add(0, target, sent).flatten(1))
        pooled = x.new_zeros(len(y), x.shape[1]).index_add(0, graphs, x)
        return F.cross_entropy(self.head(pooled), y)


class Recommender(nn.Module):
    """Tables of categories, their pairwise products, and two stacks of layers."""

    def __init__(self, tables: int = 16, rows: int = 50000, d: int = 32) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(rows, d, mode="sum") for _ in range(tables))
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, d), nn.ReLU())
        pairs = (tables + 1) * tables // 2
        self.top = nn.Sequential(nn.Linear(d + pairs, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1))
        self.register_buffer("pairs", torch.tril_indices(tables + 1, tables + 1, -1))

    def forward(self, x: Tensor, ids: Tensor, y: Tensor) -> Tensor:
        dense = self.bottom(x)
        rows = torch.stack([dense, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        products = torch.bmm(rows, rows.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return F.binary_cross_entropy_with_logits(self.top(torch.cat((dense, products), 1)).squeeze(1), y)


class Flow(nn.Module):
    """Affine couplings with masks, and the likelihood of a normal distribution."""

    def __init__(self, d: int = 256, depth: int = 8, width: int = 512) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2 * d))
            for _ in range(depth)
        )
        self.register_buffer("masks", torch.stack([torch.arange(d) % 2 == i % 2 for i in range(depth)]).float())

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for net, mask in zip(self.nets, self.masks, strict=True):
            scale, shift = net(x * mask).chunk(2, -1)
            scale = torch.tanh(scale) * (1 - mask)
            x = x * mask + (1 - mask) * (x * torch.exp(scale) + shift)
            total = total + scale.sum(-1)
        normal = torch.distributions.Normal(0.0, 1.0)
        return -(normal.log_prob(x).sum(-1) + total).mean()


class Equation(nn.Module):
    """A physics-informed network: the residual of a heat equation, by derivatives of the network itself."""

    def __init__(self, width: int = 128, depth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(2, width), nn.Tanh()]
        for _ in range(depth):
            layers += [nn.Linear(width, width), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, points: Tensor) -> Tensor:
        x, t = (points[:, i : i + 1].detach().requires_grad_(True) for i in range(2))
        u = self.net(torch.cat((x, t), 1))
        ones = torch.ones_like(u)
        by_t = torch.autograd.grad(u, t, ones, create_graph=True)[0]
        by_x = torch.autograd.grad(u, x, ones, create_graph=True)[0]
        by_xx = torch.autograd.grad(by_x, x, ones, create_graph=True)[0]
        return ((by_t - 0.1 * by_xx) ** 2).mean() + (u**2).mean()


class Dynamics(nn.Module):
    """A neural differential equation by fixed steps of Runge and Kutta."""

    def __init__(self, d: int = 64, width: int = 256, steps: int = 10) -> None:
        super().__init__()
        self.net, self.steps = nn.Sequential(nn.Linear(d + 1, width), nn.Softplus(), nn.Linear(width, d)), steps

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = 1.0 / self.steps

        def slope(t: float, z: Tensor) -> Tensor:
            return self.net(F.pad(z, (0, 1), value=t))

        for i in range(self.steps):
            t = i * h
            a = slope(t, x)
            b = slope(t + h / 2, x + h / 2 * a)
            c = slope(t + h / 2, x + h / 2 * b)
            x = x + h / 6 * (a + 2 * b + 2 * c + slope(t + h, x + h * c))
        return F.mse_loss(x, y)


class Perceiver(nn.Module):
    """A few latent vectors that look at a long input, then at each other."""

    def __init__(self, near: int = 64, d: int = 256, latents: int = 64, depth: int = 4, classes: int = 100) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, d) * 0.02)
        self.look = nn.MultiheadAttention(d, 4, kdim=near, vdim=near, batch_first=True)
        layer = nn.TransformerEncoderLayer(d, 8, 4 * d, 0.1, "gelu", batch_first=True, norm_first=True)
        self.blocks, self.head = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False), nn.Linear(d, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        latents = self.latents.expand(len(x), -1, -1)
        latents = latents + self.look(latents, x, x, need_weights=False)[0]
        return F.cross_entropy(self.head(self.blocks(latents).mean(1)), y)


class Player(nn.Module):
    """Proximal policy optimization on vectors: clipped ratios, values and entropy of a categorical policy."""

    def __init__(self, near: int = 64, width: int = 512, actions: int = 18) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(near, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        self.actor, self.critic = nn.Linear(width, actions), nn.Linear(width, 1)

    def forward(self, x: Tensor, actions: Tensor, before: Tensor, gains: Tensor, returns: Tensor) -> Tensor:
        h = self.body(x)
        policy = torch.distributions.Categorical(logits=self.actor(h))
        ratio = (policy.log_prob(actions) - before).exp()
        gains = (gains - gains.mean()) / (gains.std() + 1e-8)
        loss = -torch.min(ratio * gains, ratio.clamp(0.8, 1.2) * gains).mean()
        return loss + 0.5 * (self.critic(h).squeeze(-1) - returns).pow(2).mean() - 0.01 * policy.entropy().mean()


class Tabular(nn.Module):
    """A transformer over columns: each a vector of its own, a class token, gated layers."""

    def __init__(self, columns: int = 40, d: int = 96, depth: int = 3) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(columns, d)), nn.Parameter(torch.randn(columns, d))
        self.token = nn.Parameter(torch.randn(1, 1, d))
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2 * depth))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(d, 8, 0.2, batch_first=True) for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(d, 4 * d) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(depth))
        self.head = nn.Linear(d, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = torch.cat((self.token.expand(len(x), -1, -1), x.unsqueeze(-1) * self.weight + self.bias), 1)
        for i, (attention, up, down) in enumerate(zip(self.attentions, self.ups, self.downs, strict=True)):
            z = self.norms[2 * i](h)
            h = h + attention(z, z, z)[0]
            near, gate = up(self.norms[2 * i + 1](h)).chunk(2, -1)
            h = h + down(near * F.relu(gate))
        return F.mse_loss(self.head(h[:, 0]).squeeze(-1), y)
