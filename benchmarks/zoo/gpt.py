"""A GPT: causal transformer with pre-normalisation and a tied output head, trained on next-token prediction.

batch-estimator predict benchmarks/zoo/gpt.py:job --device a100-80gb
batch-estimator predict benchmarks/zoo/gpt.py:gpt2 --sequence-length 512 --checkpointing
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from estimator import TrainingJob


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to what came in: (batch, token, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, token, 3 * width) -> three of (batch, head, token, width / heads)
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Token ids (batch, token) to logits (batch, token, vocabulary)."""

    def __init__(
        self, vocabulary: int, tokens: int, width: int, layers: int, heads: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.token.weight, std=0.02)
        self.head.weight = self.token.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Cross entropy of each token given those before it."""
    logits = model(ids[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def _job(name: str, vocabulary: int, tokens: int, build: Callable[[], nn.Module], precision: str) -> TrainingJob:
    return TrainingJob(
        name=name,
        model=build,
        batch=lambda n: torch.randint(vocabulary, (n, tokens + 1)),
        loss=next_token_loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=3e-4, weight_decay=0.1),
        precision=precision,
        grad_clip=1.0,
    )


def job(sequence_length: int = 512, checkpointing: bool = False) -> TrainingJob:
    """42 million parameters: 8 layers of width 512."""
    return _job(
        "gpt", 32000, sequence_length, lambda: GPT(32000, sequence_length, 512, 8, 8, checkpointing), "amp-bf16"
    )


def gpt2(sequence_length: int = 1024, checkpointing: bool = False) -> TrainingJob:
    """The size of GPT-2: 124 million parameters, 12 layers of width 768."""
    return _job(
        "gpt2", 50257, sequence_length, lambda: GPT(50257, sequence_length, 768, 12, 12, checkpointing), "amp-bf16"
    )


def checkpointed(sequence_length: int = 512) -> TrainingJob:
    """The same as `job`, keeping only what enters each block and computing the rest again in the backward pass."""
    return job(sequence_length, checkpointing=True).with_(name="gpt-checkpointed")


def tiny(sequence_length: int = 16, checkpointing: bool = False) -> TrainingJob:
    return _job("gpt-tiny", 97, sequence_length, lambda: GPT(97, sequence_length, 32, 2, 2, checkpointing), "fp32")
