"""Further cases, held apart from `cases.py`: other families, other settings of a step.

The rules of the estimator were written while looking at `cases.py`; these show whether they hold elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

try:
    from benchmarks.cases import (
        ADAMW,
        ADAMW_FUSED,
        MLP,
        SGD,
        TINYGPT,
        Batch,
        Case,
        GPTBlock,
        classify,
        hf,
        images,
        tokens,
        vision,
    )
except ImportError:  # beside cases.py, outside the package
    from cases import ADAMW, ADAMW_FUSED, MLP, SGD, TINYGPT, Batch, Case, GPTBlock, classify, hf, images, tokens, vision


class CheckpointedGPT(nn.Module):
    def __init__(
        self, vocab: int = 16000, t: int = 512, d: int = 384, layers: int = 6, heads: int = 6, reentrant: bool = False
    ) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(t, d)
        self.blocks = nn.ModuleList(GPTBlock(d, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(self.ln(x))


class GRUClassifier(nn.Module):
    def __init__(self, vocab: int = 10000, d: int = 256, classes: int = 5) -> None:
        super().__init__()
        self.emb, self.rnn = (
            nn.Embedding(vocab, d, padding_idx=0),
            nn.GRU(d, d, 1, batch_first=True, bidirectional=True),
        )
        self.out = nn.Linear(2 * d, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.emb(ids))[0].mean(1))


class GroupNormNet(nn.Module):
    def __init__(self, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 7, stride=4, padding=3)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.up, self.out = nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(width, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(self.up(x)).mean((2, 3))


class TwoTowers(nn.Module):
    def __init__(self, d: int = 512) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(768, 2048), nn.GELU(), nn.Linear(2048, d))
        self.right = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, d))
        self.scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale.exp() * F.normalize(self.left(a), dim=-1) @ F.normalize(self.right(b), dim=-1).T


def contrast(m: nn.Module, batch: Batch) -> Tensor:
    logits = m(*batch)
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def small_images(n: int) -> Batch:
    return torch.randn(n, 3, 128, 128), torch.randint(0, 10, (n,))


def label_each_token(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0]).flatten(0, 1), batch[0].flatten(), label_smoothing=0.1)


def causal_lm(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[0], use_cache=False).loss


def classify_tokens(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], attention_mask=torch.ones_like(batch[0]), labels=batch[1]).loss


def seq2seq(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[1], use_cache=False).loss


def pairs(n: int) -> Batch:
    return torch.randint(5, 30000, (n, 128)), torch.randint(0, 2, (n,))


def translation(n: int) -> Batch:
    return torch.randint(5, 32000, (n, 128)), torch.randint(5, 32000, (n, 64))


T5 = hf("T5ForConditionalGeneration", "T5Config", decoder_start_token_id=0)
DISTILBERT = hf("DistilBertForSequenceClassification", "DistilBertConfig")
QWEN = hf(
    "Qwen2ForCausalLM", "Qwen2Config", hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
    num_key_value_heads=2, vocab_size=32000, tie_word_embeddings=True,
)  # fmt: skip
RMSPROP: Callable[..., Any] = functools.partial(torch.optim.RMSprop, momentum=0.9)
FORLOOP: Callable[..., Any] = functools.partial(torch.optim.AdamW, foreach=False)

_GPT_BATCH = tokens(512, 16000)
_ALL = [
    Case("checkpointed-amp-adamw", CheckpointedGPT, _GPT_BATCH, label_each_token, ADAMW, "amp-bf16", (2, 16)),
    Case(
        "checkpointed_reentrant-fp32-adamw",
        functools.partial(CheckpointedGPT, reentrant=True),
        _GPT_BATCH,
        label_each_token,
        ADAMW_FUSED,
        "fp32",
        (2, 16),
    ),
    Case("tinygpt-fp16-scaler-clip", *TINYGPT, ADAMW, "amp-fp16", (2, 8), grad_clip=1.0, grad_scaler=True),
    Case("tinygpt-amp-accumulate", *TINYGPT, ADAMW, "amp-bf16", (2, 8), accumulation_steps=3),
    Case("tinygpt-fp32-eval", *TINYGPT, ADAMW, "fp32", (4, 32), eval_only=True),
    Case("mlp-fp32-rmsprop-clip", *MLP, RMSPROP, "fp32", (64, 2048), grad_clip=0.5),
    Case("mlp-fp32-adamw_forloop", *MLP, FORLOOP, "fp32", (64, 2048)),
    Case(
        "gru-fp32-adamw",
        GRUClassifier,
        lambda n: (torch.randint(0, 10000, (n, 128)), torch.randint(0, 5, (n,))),
        classify,
        ADAMW,
        "fp32",
        (16, 128),
    ),
    Case("groupnorm-fp32-sgd", GroupNormNet, small_images, classify, SGD, "fp32", (8, 64)),
    Case(
        "groupnorm-amp-channels_last-sgd",
        GroupNormNet,
        small_images,
        classify,
        SGD,
        "amp-bf16",
        (8, 64),
        channels_last=True,
    ),
    Case(
        "towers-fp32-adamw",
        TwoTowers,
        lambda n: (torch.randn(n, 768), torch.randn(n, 512)),
        contrast,
        ADAMW,
        "fp32",
        (256, 4096),
    ),
    Case("efficientnet_b0-amp-adamw", vision("efficientnet_b0"), images, classify, ADAMW, "amp-bf16", (8, 64)),
    Case("mobilenet_v3-fp32-sgd", vision("mobilenet_v3_large"), images, classify, SGD, "fp32", (8, 64)),
    Case("densenet121-fp32-sgd", vision("densenet121"), images, classify, SGD, "fp32", (4, 32)),
    Case("vgg11-amp-sgd", vision("vgg11"), images, classify, SGD, "amp-bf16", (4, 32)),
    Case("swin_t-amp-adamw", vision("swin_t"), images, classify, ADAMW, "amp-bf16", (4, 32)),
    Case(
        "regnet_y-amp-channels_last-sgd",
        vision("regnet_y_800mf"),
        images,
        classify,
        SGD,
        "amp-bf16",
        (8, 64),
        channels_last=True,
    ),
    Case("t5-fp32-adamw", T5, translation, seq2seq, ADAMW, "fp32", (2, 16)),
    Case("distilbert-amp-adamw", DISTILBERT, pairs, classify_tokens, ADAMW, "amp-bf16", (8, 64), grad_clip=1.0),
    Case("qwen-bf16-adamw", QWEN, tokens(512, 32000), causal_lm, ADAMW, "bf16", (2, 8)),
]
CASES: dict[str, Case] = {c.name: c for c in _ALL}
