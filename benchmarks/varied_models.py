"""The models of `varied_cases.py` for words, features and graphs: each gives a loss or scores from the tensors of its batch."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Seq2Seq(nn.Module):
    """`nn.Transformer` from one language to another, padding masked, the output layer tied to the embedding."""

    def __init__(self, vocabulary: int = 8000, d: int = 256) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, d, padding_idx=0)
        self.place = nn.Parameter(torch.zeros(64, d))
        self.body = nn.Transformer(d, 8, 3, 3, 4 * d, dropout=0.1, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        x, y = self.emb(source) + self.place[: source.shape[1]], self.emb(target[:, :-1]) + self.place[: target.shape[1] - 1]
        mask = nn.Transformer.generate_square_subsequent_mask(y.shape[1], device=y.device)
        padding = torch.zeros(source.shape, device=x.device).masked_fill(source == 0, float("-inf"))
        out = self.body(x, y, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding, tgt_is_causal=True)
        scores = F.linear(out, self.emb.weight)
        return F.cross_entropy(scores.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0, label_smoothing=0.1)


class Weighed(nn.Module):
    """`nn.MultiheadAttention` whose weights are part of the loss."""

    def __init__(self, d: int = 128) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.MultiheadAttention(d, 4, dropout=0.1, batch_first=True) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        entropy = x.new_zeros(())
        for layer in self.layers:
            y, weights = layer(x, x, x, need_weights=True)
            x = x + y
            entropy = entropy - (weights * (weights + 1e-6).log()).sum(-1).mean()
        return x.float().square().mean() + 0.01 * entropy


class RelativeBias(nn.Module):
    """Attention over the cells of an image with a learned bias for each offset."""

    def __init__(self, d: int = 192, heads: int = 6, side: int = 14) -> None:
        super().__init__()
        self.heads, self.norm = heads, nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")).flatten(1)
        offset = cells[:, :, None] - cells[:, None] + side - 1
        self.register_buffer("index", offset[0] * (2 * side - 1) + offset[1])
        self.mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            n, t, d = x.shape
            q, k, v = self.qkv(self.norm(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            bias = self.table[self.index.flatten()].view(t, t, self.heads).permute(2, 0, 1)
            scores = q @ k.mT / math.sqrt(d // self.heads) + bias
            x = x + self.out((F.dropout(scores.softmax(-1), 0.1) @ v).transpose(1, 2).reshape(n, t, d))
            x = x + self.mlp(x)
        return x.float().pow(2).mean()


class LinearAttention(nn.Module):
    """Causal attention without a softmax, by running sums."""

    def __init__(self, d: int = 128, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = (part.view(n, t, self.heads, -1) for part in self.qkv(x).chunk(3, -1))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("nthd,nthe->nthde", k, v).cumsum(1)
        scale = torch.einsum("nthd,nthd->nth", q, k.cumsum(1)).clamp(min=1e-3)
        y = torch.einsum("nthd,nthde->nthe", q, state) / scale.unsqueeze(-1)
        return self.out(y.reshape(n, t, d)).float().square().mean()


class Ranking(nn.Module):
    """Clicks from dense features and bags of ids, with products of all pairs."""

    def __init__(self, rows: int = 20000, d: int = 32) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(rows, d, mode="sum") for _ in range(4))
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, d), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(d + 10, 256), nn.ReLU(), nn.Linear(256, 1))
        self.register_buffer("pairs", torch.tril_indices(5, 5, -1))

    def forward(self, dense: Tensor, ids: Tensor, clicked: Tensor) -> Tensor:
        x = self.bottom(dense)
        features = torch.stack([x, *(bag(ids[:, i]) for i, bag in enumerate(self.bags))], 1)
        products = features @ features.mT
        chosen = products[:, self.pairs[0], self.pairs[1]]
        return F.binary_cross_entropy_with_logits(self.top(torch.cat([x, chosen], 1)).squeeze(1), clicked)


class Graph(nn.Module):
    """Messages along edges, their mean, and a normalised sum."""

    def __init__(self, d: int = 128, classes: int = 40) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 * d, d) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm1d(d) for _ in range(3))
        self.out = nn.Linear(d, classes)

    def forward(self, x: Tensor, edges: Tensor, classes: Tensor) -> Tensor:
        ones = torch.ones(edges.shape[1], device=x.device)
        degree = torch.zeros(len(x), device=x.device).scatter_add(0, edges[1], ones).clamp(min=1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            summed = torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])
            x = x + F.dropout(norm(layer(torch.cat([x, summed / degree.unsqueeze(1)], 1))).relu(), 0.2)
        return F.nll_loss(self.out(x).log_softmax(-1), classes)


class VariationalAutoencoder(nn.Module):
    def __init__(self, d: int = 784, hidden: int = 1024, code: int = 64) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(d, hidden), nn.SiLU(), nn.Linear(hidden, 2 * code))
        self.decode = nn.Sequential(nn.Linear(code, hidden), nn.SiLU(), nn.Linear(hidden, d))

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.encode(x).chunk(2, -1)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        divergence = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(-1).mean()
        return F.mse_loss(self.decode(code).float(), x, reduction="none").sum(-1).mean() + divergence


class Metric(nn.Module):
    """Embeddings whose farthest friend must be nearer than their nearest stranger."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 128))

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        code = F.normalize(self.net(x), dim=1)
        apart = torch.cdist(code, code)
        same = classes[:, None] == classes
        far = apart.masked_fill(~same, 0).amax(1)
        near = apart.masked_fill(same, 9.0).amin(1)
        return (far - near + 0.2).relu().mean()


class VQ(nn.Module):
    """Codes of a book, gradients straight through the choice."""

    def __init__(self, d: int = 64, codes: int = 512) -> None:
        super().__init__()
        self.before, self.book, self.after = nn.Linear(d, d), nn.Embedding(codes, d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        z = self.before(x)
        flat = z.reshape(-1, z.shape[-1])
        apart = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.book.weight.t() + self.book.weight.pow(2).sum(1)
        chosen = self.book(apart.argmin(1)).view_as(z)
        kept = F.mse_loss(z, chosen.detach()) + F.mse_loss(chosen, z.detach())
        return F.l1_loss(self.after(z + (chosen - z).detach()), x) + kept


class CRF(nn.Module):
    """Tags of a sequence: the score of the given path against all paths, a step at a time."""

    def __init__(self, d: int = 64, tags: int = 24) -> None:
        super().__init__()
        self.emit, self.move = nn.Linear(d, tags), nn.Parameter(torch.randn(tags, tags))

    def forward(self, x: Tensor, tags: Tensor) -> Tensor:
        emitted = self.emit(x)
        path = emitted.gather(2, tags.unsqueeze(2)).sum((1, 2)) + self.move[tags[:, :-1], tags[:, 1:]].sum(1)
        alpha = emitted[:, 0]
        for step in range(1, x.shape[1]):
            alpha = torch.logsumexp(alpha.unsqueeze(2) + self.move, 1) + emitted[:, step]
        return (alpha.logsumexp(1) - path).mean()


class Unrolled(nn.Module):
    """A cell called in Python for each word."""

    def __init__(self, vocabulary: int = 5000, d: int = 128) -> None:
        super().__init__()
        self.emb, self.cell, self.out = nn.Embedding(vocabulary, d), nn.GRUCell(d, d), nn.Linear(d, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        hidden, states = torch.zeros_like(x[:, 0]), []
        for step in range(ids.shape[1] - 1):
            hidden = self.cell(x[:, step], hidden)
            states.append(hidden)
        return F.cross_entropy(self.out(torch.stack(states, 1)).flatten(0, 1), ids[:, 1:].flatten())


class Distilled(nn.Module):
    """A small net taught by a large frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Sequential(nn.Linear(784, 4096), nn.GELU(), nn.Linear(4096, 1000)).requires_grad_(False).eval()
        self.student = nn.Sequential(nn.Linear(784, 512), nn.GELU(), nn.Linear(512, 1000))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            taught = (self.teacher(x) / 4).softmax(-1)
        return F.kl_div((self.student(x) / 4).log_softmax(-1), taught, reduction="batchmean") * 16


class _LowRank(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + 2 * self.up(self.down(F.dropout(x, 0.05, self.training)))
        return out


class Adapted(nn.Module):
    """An encoder that is frozen but for low-rank additions to its wide layers."""

    def __init__(self, vocabulary: int = 4000, d: int = 256) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, d)
        layer = nn.TransformerEncoderLayer(d, 4, 4 * d, batch_first=True, norm_first=True, activation="gelu")
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(4))
        self.requires_grad_(False)
        for one in self.layers:
            one.linear1, one.linear2 = _LowRank(one.linear1), _LowRank(one.linear2)
            for name, parameter in one.named_parameters():
                parameter.requires_grad = ".down." in name or ".up." in name
        self.head = nn.Linear(d, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(x[:, 0]), ids[:, 0] % 2)


class TwoTowers(nn.Module):
    """Queries and documents, each other's negatives within a batch."""

    def __init__(self, vocabulary: int = 30000, d: int = 128) -> None:
        super().__init__()
        self.emb = nn.Embedding(vocabulary, d)
        self.query, self.document = (nn.Sequential(nn.Linear(d, d), nn.LayerNorm(d), nn.Tanh()) for _ in range(2))
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        q = F.normalize(self.query(self.emb(queries).mean(1)), dim=-1)
        k = F.normalize(self.document(self.emb(documents).mean(1)), dim=-1)
        scores = self.scale.exp() * q @ k.t()
        classes = torch.arange(len(q), device=q.device)
        return (F.cross_entropy(scores, classes) + F.cross_entropy(scores.t(), classes)) / 2
