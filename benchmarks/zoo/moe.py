"""A transformer with a mixture of experts: each token goes to its best two of many, as far as their room allows.

Every expert has room for a fixed share of the batch's tokens (its capacity), so no shape depends on the routing.

    batch-estimator predict benchmarks/zoo/moe.py:job --device a100-80gb
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from estimator import TrainingJob


class Experts(nn.Module):
    """Two-layer perceptrons of which each token uses `active`: (batch, token, width) to the same."""

    def __init__(self, width: int, experts: int, active: int, capacity_factor: float = 1.25) -> None:
        super().__init__()
        self.active, self.capacity_factor = active, capacity_factor
        self.router = nn.Linear(width, experts, bias=False)
        self.up = nn.Parameter(torch.empty(experts, width, 4 * width).normal_(std=width**-0.5))
        self.down = nn.Parameter(torch.empty(experts, 4 * width, width).normal_(std=(4 * width) ** -0.5))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        experts, capacity = len(self.up), math.ceil(self.capacity_factor * len(tokens) * self.active / len(self.up))
        weight, choice = self.router(tokens).softmax(dim=-1).topk(self.active)
        choice = choice.flatten()
        # How many choices of the same expert come before each: its seat there. Beyond the capacity it is dropped.
        seat = F.one_hot(choice, experts).cumsum(dim=0).gather(1, choice[:, None]).squeeze(1) - 1
        place = torch.where(seat < capacity, choice * capacity + seat, experts * capacity)
        seated = tokens.new_zeros(experts * capacity + 1, tokens.shape[1])
        seated = seated.index_copy(0, place, tokens.repeat_interleave(self.active, dim=0))
        hidden = F.gelu(seated[:-1].unflatten(0, (experts, capacity)) @ self.up)
        result = F.pad((hidden @ self.down).flatten(0, 1), (0, 0, 0, 1))
        mixed = result[place].unflatten(0, (-1, self.active)) * weight.to(result.dtype)[..., None]
        return mixed.sum(dim=1).view_as(x)


class Block(nn.Module):
    """Causal attention and a mixture of experts, each added to what came in."""

    def __init__(self, width: int, heads: int, experts: int, active: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.experts = Experts(width, experts, active)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        result: Tensor = x + self.experts(self.norm2(x))
        return result


class MoE(nn.Module):
    """Token ids (batch, token) to logits (batch, token, vocabulary)."""

    def __init__(self, vocabulary: int, tokens: int, width: int, layers: int, heads: int, experts: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width, heads, experts, active=2) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def _job(
    name: str, vocabulary: int, tokens: int, width: int, layers: int, heads: int, experts: int, precision: str
) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=lambda: MoE(vocabulary, tokens, width, layers, heads, experts),
        batch=lambda n: torch.randint(vocabulary, (n, tokens + 1)),
        loss=next_token_loss,
        optimizer="adamw",
        precision=precision,
        grad_clip=1.0,
    )


def job(sequence_length: int = 512) -> TrainingJob:
    """8 layers of 8 experts: 175 million parameters."""
    return _job("moe", 32000, sequence_length, 512, 8, 8, 8, "amp-bf16")


def tiny(sequence_length: int = 8) -> TrainingJob:
    return _job("moe-tiny", 50, sequence_length, 16, 2, 2, 4, "fp32")
