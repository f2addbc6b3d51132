"""Networks on language as whole repositories have them, for `everyday_cases`. Needs torch alone.

Each was written from what its paper says; each gives its own loss.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class RMSNorm(nn.Module):
    """As language models write it out: in float32 and back."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        h = x.float()
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * h.to(x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions; `x` is (batch, heads, tokens, features)."""
    near, far = x.chunk(2, -1)
    return x * cos + torch.cat((-far, near), -1) * sin


class Decoder(nn.Module):
    """A language model with shared keys, rotary positions, gated layers and a loss in pieces; checkpointed if asked."""

    def __init__(
        self, d: int = 768, depth: int = 6, heads: int = 12, groups: int = 4, vocabulary: int = 32000,
        is_checkpointed: bool = False, pieces: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.heads, self.groups, self.is_checkpointed, self.pieces = heads, groups, is_checkpointed, pieces
        self.embed = nn.Embedding(vocabulary, d)
        self.blocks = nn.ModuleList(_DecoderBlock(d, heads, groups) for _ in range(depth))
        self.norm, self.head = RMSNorm(d), nn.Linear(d, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids[:, :-1])
        positions = torch.arange(x.shape[1], device=ids.device)
        size = self.blocks[0].size  # type: ignore[union-attr]
        rates = 1.0 / 10000 ** (torch.arange(0, size, 2, device=ids.device) / size)
        angles = torch.outer(positions, rates).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for block in self.blocks:
            x = checkpoint(block, x, cos, sin, use_reentrant=False) if self.is_checkpointed else block(x, cos, sin)
        x, targets = self.norm(x).flatten(0, 1), ids[:, 1:].flatten()
        if self.pieces == 1:
            return F.cross_entropy(self.head(x).float(), targets)
        losses = [checkpoint(self._piece, h, t, use_reentrant=False)
                  for h, t in zip(x.chunk(self.pieces), targets.chunk(self.pieces), strict=True)]  # fmt: skip
        return torch.stack(losses).sum() / targets.numel()

    def _piece(self, x: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self.head(x).float(), targets, reduction="sum")


class _DecoderBlock(nn.Module):
    def __init__(self, d: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, d // heads
        self.norm1, self.norm2 = RMSNorm(d), RMSNorm(d)
        self.q, self.k, self.v = (nn.Linear(d, n * self.size, bias=False) for n in (heads, groups, groups))
        self.o = nn.Linear(d, d, bias=False)
        self.gate, self.up = nn.Linear(d, 8 * d // 3, bias=False), nn.Linear(d, 8 * d // 3, bias=False)
        self.down = nn.Linear(8 * d // 3, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        h = self.norm1(x)
        q = turned(self.q(h).view(b, t, self.heads, -1).transpose(1, 2), cos, sin)
        k = turned(self.k(h).view(b, t, self.groups, -1).transpose(1, 2), cos, sin)
        v = self.v(h).view(b, t, self.groups, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, d))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Experts(nn.Module):
    """A transformer whose layers send each token to two of eight experts, by index, with a loss for balance."""

    def __init__(self, d: int = 256, heads: int = 4, depth: int = 2, experts: int = 8, vocabulary: int = 8000) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, d), nn.Linear(d, vocabulary)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(d, heads, batch_first=True) for _ in range(depth))
        self.routers = nn.ModuleList(nn.Linear(d, experts) for _ in range(depth))
        self.up = nn.ParameterList(torch.randn(experts, d, 4 * d) * 0.02 for _ in range(depth))
        self.down = nn.ParameterList(torch.randn(experts, 4 * d, d) * 0.02 for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        x, balance = self.embed(ids[:, :-1]), torch.zeros((), device=ids.device)
        for attention, router, up, down in zip(self.attentions, self.routers, self.up, self.down, strict=True):
            x = x + attention(x, x, x, need_weights=False)[0]
            tokens = x.flatten(0, 1)
            shares = router(tokens).softmax(-1)
            weights, chosen = shares.topk(2, -1)
            weights = weights / weights.sum(-1, keepdim=True)
            count, experts = len(tokens), shares.shape[1]
            capacity = 2 * 2 * count // experts
            hot = F.one_hot(chosen.flatten(), experts)
            place = (hot.cumsum(0) * hot).sum(-1) - 1
            kept = place < capacity
            slots = torch.where(kept, chosen.flatten() * capacity + place, experts * capacity)
            sent = tokens.new_zeros(experts * capacity + 1, tokens.shape[1])
            sent = sent.index_copy(0, slots, tokens.repeat_interleave(2, 0))
            done = torch.bmm(F.gelu(torch.bmm(sent[:-1].view(experts, capacity, -1), up)), down).flatten(0, 1)
            done = torch.cat((done, done.new_zeros(1, done.shape[1])))
            x = x + (done[slots].view(count, 2, -1) * weights.unsqueeze(-1)).sum(1).view_as(x)
            balance = balance + experts * (hot.float().mean(0) * shares.mean(0)).sum()
        return F.cross_entropy(self.head(x).flatten(0, 1), ids[:, 1:].flatten()) + 0.01 * balance


class StateSpace(nn.Module):
    """Selective state spaces, their scan as a loop over time, with a short causal convolution before."""

    def __init__(self, d: int = 128, states: int = 8, vocabulary: int = 2000) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, d), nn.Linear(d, vocabulary)
        self.into, self.out = nn.Linear(d, 4 * d), nn.Linear(2 * d, d)
        self.local = nn.Conv1d(2 * d, 2 * d, 4, padding=3, groups=2 * d)
        self.select, self.step = nn.Linear(2 * d, 2 * states + 1), nn.Linear(1, 2 * d)
        self.rate = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(2 * d, 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids[:, :-1])
        h, gate = self.into(x).chunk(2, -1)
        h = F.silu(self.local(h.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        n = self.rate.shape[1]
        into, out, step = self.select(h).split((n, n, 1), -1)
        step = F.softplus(self.step(step))
        keep = torch.exp(-step.unsqueeze(-1) * self.rate.exp())
        write = (step * h).unsqueeze(-1) * into.unsqueeze(2)
        state, seen = torch.zeros_like(write[:, 0]), []
        for t in range(x.shape[1]):
            state = keep[:, t] * state + write[:, t]
            seen.append((state * out[:, t].unsqueeze(1)).sum(-1))
        y = self.out(torch.stack(seen, 1) * F.silu(gate))
        return F.cross_entropy(self.head(x + y).flatten(0, 1), ids[:, 1:].flatten())


class Translator(nn.Module):
    """`nn.Transformer` with padding and causal masks, positions by sines, and shared vectors."""

    def __init__(self, d: int = 256, vocabulary: int = 10000, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, d, padding_idx=0)
        self.net = nn.Transformer(d, 8, 3, 3, 1024, dropout, batch_first=True)
        self.head, self.scale = nn.Linear(d, vocabulary, bias=False), math.sqrt(d)
        self.head.weight = self.embed.weight
        place, rate = torch.arange(512.0).unsqueeze(1), torch.exp(torch.arange(0, d, 2) * (-math.log(10000.0) / d))
        waves = torch.zeros(512, d)
        waves[:, 0::2], waves[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
        self.register_buffer("waves", waves)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        near, after = target[:, :-1], target[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(near.shape[1], device=near.device).isinf()
        out = self.net(
            self.embed(source) * self.scale + self.waves[: source.shape[1]],
            self.embed(near) * self.scale + self.waves[: near.shape[1]],
            tgt_mask=mask, src_key_padding_mask=source == 0, tgt_key_padding_mask=near == 0,
            memory_key_padding_mask=source == 0, tgt_is_causal=False,
        )  # fmt: skip
        return F.cross_entropy(self.head(out).flatten(0, 1), after.flatten(), ignore_index=0, label_smoothing=0.1)


class Preferences(nn.Module):
    """Direct preference optimization: a policy and its frozen copy on chosen and rejected answers."""

    def __init__(self, d: int = 256, depth: int = 4, vocabulary: int = 8000) -> None:
        super().__init__()
        self.policy = Decoder(d, depth, 8, 8, vocabulary)
        self.reference = Decoder(d, depth, 8, 8, vocabulary).requires_grad_(False)

    def forward(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        ids = torch.cat((chosen, rejected))
        mine = _log_likelihood(self.policy, ids)
        with torch.no_grad():
            theirs = _log_likelihood(self.reference, ids)
        gains = (mine - theirs).chunk(2)
        return -F.logsigmoid(0.1 * (gains[0] - gains[1])).mean()


def _log_likelihood(m: Decoder, ids: Tensor) -> Tensor:
    x = m.embed(ids[:, :-1])
    size = m.blocks[0].size  # type: ignore[union-attr]
    angles = torch.outer(torch.arange(x.shape[1], device=ids.device), torch.ones(size, device=ids.device))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    for block in m.blocks:
        x = block(x, cos, sin)
    logits = m.head(m.norm(x)).log_softmax(-1)
    return logits.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1).sum(-1)
