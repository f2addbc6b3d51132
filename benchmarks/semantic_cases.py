"""Small cases of what is no convolution: attention, norms, losses, indexing, recurrent nets, optimizers, checkpointing.

Chosen for what decides an allocation rather than for size; held apart from `cases.py`, for which the rules were written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

try:
    from benchmarks.cases import ADAMW, ADAMW_FUSED, SGD, Batch, Case, hf
except ImportError:  # beside cases.py, outside the package
    from cases import ADAMW, ADAMW_FUSED, SGD, Batch, Case, hf


class Attention(nn.Module):
    """Two layers of attention, of a sequence to itself or to another."""

    def __init__(
        self, d: int = 256, heads: int = 4, kv_heads: int | None = None, mask: str = "", causal: bool = False, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.mask, self.causal, self.drop = heads, kv_heads or heads, mask, causal, drop
        self.size = d // heads
        kv = self.kv_heads * self.size
        self.parts = nn.ModuleList(
            nn.ModuleList([nn.Linear(d, d), nn.Linear(d, kv), nn.Linear(d, kv), nn.Linear(d, d)]) for _ in range(2)
        )

    def _mask(self, q: Tensor, keys: int) -> Tensor | None:
        shape = (q.shape[0], 1, 1, keys) if self.mask == "padding" else (q.shape[2], keys)
        if self.mask == "float":
            return torch.zeros(q.shape[0], self.heads, *shape, dtype=q.dtype, device=q.device)
        return torch.ones(shape, dtype=torch.bool, device=q.device) if self.mask else None

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        for q, k, v, out in self.parts:
            source = x if memory is None else memory
            n, t, d = x.shape
            query = q(x).view(n, t, self.heads, self.size).transpose(1, 2)
            key, value = (f(source).view(n, -1, self.kv_heads, self.size).transpose(1, 2) for f in (k, v))
            y = F.scaled_dot_product_attention(
                query, key, value, self._mask(query, key.shape[2]), self.drop, self.causal,
                enable_gqa=self.kv_heads != self.heads,
            )  # fmt: skip
            x = x + out(y.transpose(1, 2).reshape(n, t, d))
        return x


class EagerAttention(nn.Module):
    def __init__(self, d: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.drop = nn.Linear(d, 3 * d), nn.Linear(d, d), heads, nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)).masked_fill(torch.ones(t, t, dtype=torch.bool, device=x.device).triu(1), -1e4)
        weights = self.drop(scores.softmax(-1, dtype=torch.float32).to(v.dtype))
        return x + self.out((weights @ v).transpose(1, 2).reshape(n, t, d))


class Checkpointed(nn.Module):
    """Blocks recomputed in the backward pass, all of them or all but their matrix products."""

    def __init__(self, keep_products: bool, d: int = 256) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(EagerAttention(d), nn.Linear(d, d), nn.GELU()) for _ in range(4))
        products = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default]
        keeping = {"context_fn": functools.partial(create_selective_checkpoint_contexts, products)}
        self.options: dict[str, Any] = keeping if keep_products else {}

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, **self.options)
        return x


class Then(nn.Module):
    """A linear layer, then a function of it and of the rest of the batch."""

    def __init__(self, function: Callable[..., Tensor], wide: int = 64, part: Callable[[], nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.first, self.function, self.part = nn.Linear(64, wide), function, part()

    def forward(self, x: Tensor, *rest: Tensor) -> Tensor:
        return self.function(self.part, self.first(x), *rest)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(1000, 64), kind(64, 96, batch_first=True, **options)
        self.out = nn.Linear(192 if options.get("bidirectional") else 96, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.emb(ids))[0].mean(1))


class Experts(nn.Module):
    """Tokens sent to two of four experts by one-hot products, up to a capacity."""

    def __init__(self, d: int = 128, experts: int = 4) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(d, experts, bias=False), experts
        self.up, self.down = nn.Parameter(torch.randn(experts, d, 4 * d)), nn.Parameter(torch.randn(experts, 4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        capacity = t
        weights, chosen = self.gate(x).softmax(-1, dtype=torch.float).topk(2, -1)
        one_hot = F.one_hot(chosen, self.experts).flatten(1, 2)
        place = (one_hot.cumsum(1) - 1).clamp(max=capacity - 1) * one_hot
        sent = (F.one_hot(place, capacity) * one_hot.unsqueeze(-1)).view(n, t, 2, self.experts, capacity).sum(2).to(x.dtype)
        given = torch.einsum("ntec,ntd->encd", sent, x).flatten(1, 2)
        hidden = F.gelu(torch.bmm(given, self.up.to(given.dtype)))
        made = torch.bmm(hidden, self.down.to(hidden.dtype)).view(self.experts, n, capacity, d)
        mixed = (F.one_hot(chosen, self.experts) * weights.unsqueeze(-1)).sum(2).unsqueeze(-1).to(x.dtype)
        return x + torch.einsum("ntec,encd->ntd", sent * mixed, made)


def plain_net() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 2048), nn.Tanh(), nn.LayerNorm(2048), nn.Linear(2048, 512), nn.Linear(512, 11))


def mean_square(m: nn.Module, batch: Batch) -> Tensor:
    return m(*batch).float().square().mean()


def classify(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1])


def connect(m: nn.Module, batch: Batch) -> Tensor:
    scores = m(batch[0]).log_softmax(-1).transpose(0, 1)
    steps, n = scores.shape[:2]
    return F.ctc_loss(scores, batch[1], torch.full((n,), steps), torch.full((n,), batch[1].shape[1]))


def contrast(m: nn.Module, batch: Batch) -> Tensor:
    out = F.normalize(m(batch[0]), dim=-1)
    return F.cross_entropy(out @ out.flip(0).T / 0.07, torch.arange(len(out), device=out.device))


def margin(m: nn.Module, batch: Batch) -> Tensor:
    return F.multi_margin_loss(m(batch[0]), batch[1])


def language(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[0], use_cache=False).loss


def sequence(t: int, d: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, t, d),)


def labelled(d: int, classes: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, d), torch.randint(0, classes, (n,)))


def with_rows(n: int) -> Batch:
    return torch.randn(n, 128, 64), torch.randint(0, 128, (30,))


def sentences(n: int) -> Batch:
    return torch.randint(0, 1000, (n, 50)), torch.randint(0, 7, (n,))


def speech(n: int) -> Batch:
    return torch.randn(n, 100, 64), torch.randint(1, 30, (n, 12))


_BODY = sequence(128, 256)
_ROWS = sequence(128, 64)
_NET = (plain_net, labelled(512, 11), classify)
LLAMA = hf(
    "LlamaForCausalLM", "LlamaConfig", hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, vocab_size=1000,
)  # fmt: skip
NADAM: Callable[..., Any] = functools.partial(torch.optim.NAdam, decoupled_weight_decay=True, weight_decay=0.1)
RMSPROP: Callable[..., Any] = functools.partial(torch.optim.RMSprop, centered=True, momentum=0.9)


def attention(name: str, precision: str, batch: Callable[[int], Batch] = _BODY, **options: Any) -> Case:
    return Case(
        f"attention_{name}-{precision}", functools.partial(Attention, **options), batch, mean_square, ADAMW, precision, (2, 8)
    )


def then(name: str, precision: str, function: Callable[..., Tensor], batch: Any = _ROWS, **options: Any) -> Case:
    return Case(
        f"{name}-{precision}", functools.partial(Then, function, **options), batch, mean_square, ADAMW, precision, (4, 32)
    )


_ALL = [
    attention("gqa_mask", "amp-bf16", kv_heads=2, mask="square"),
    attention("gqa_causal", "amp-bf16", kv_heads=2, causal=True),
    attention("gqa_causal", "fp32", kv_heads=2, causal=True),
    attention("padding", "amp-bf16", mask="padding", batch=sequence(100, 256)),
    attention("float_mask", "fp32", mask="float"),
    attention("dropout", "amp-fp16", drop=0.1, batch=sequence(200, 256)),
    attention("cross", "amp-bf16", batch=lambda n: (torch.randn(n, 256, 256), torch.randn(n, 77, 256))),
    attention("heads_of_36", "amp-bf16", d=144, batch=sequence(128, 144)),
    Case("eager-bf16", EagerAttention, sequence(100, 256), mean_square, ADAMW, "bf16", (2, 8)),
    Case("checkpoint-amp-bf16", functools.partial(Checkpointed, False), _BODY, mean_square, ADAMW, "amp-bf16", (2, 8)),
    Case("checkpoint_products-fp32", functools.partial(Checkpointed, True), _BODY, mean_square, ADAMW, "fp32", (2, 8)),
    then("rms_norm", "amp-bf16", lambda part, x: part(x), part=lambda: nn.RMSNorm(64)),
    then("layer_norm_wide", "amp-bf16", lambda part, x: part(x), wide=3000, part=lambda: nn.LayerNorm(3000)),
    then("weight_norm", "fp32", lambda part, x: part(x), part=lambda: parametrizations.weight_norm(nn.Linear(64, 512))),
    then("bilinear", "amp-bf16", lambda part, x: part(x, x), part=lambda: nn.Bilinear(64, 64, 8)),
    then("sort_topk", "bf16", lambda part, x: x.sort(1)[0] + x.topk(9, 1)[0].sum(1, keepdim=True)),
    then("pick_rows", "bf16", lambda part, x, i: x[:, i] + x.index_select(1, i), batch=with_rows),
    Case("lstm-fp32", functools.partial(Recurrent, nn.LSTM), sentences, classify, ADAMW, "fp32", (4, 64)),
    Case(
        "gru_both_ways-amp", functools.partial(Recurrent, nn.GRU, num_layers=2, bidirectional=True), sentences, classify, ADAMW,
        "amp-bf16", (4, 64),
    ),
    Case("experts-amp", Experts, sequence(64, 128), mean_square, ADAMW, "amp-bf16", (2, 8)),
    Case("ctc-fp32", functools.partial(nn.Linear, 64, 30), speech, connect, ADAMW, "fp32", (2, 16)),
    Case("contrast-fp32", functools.partial(nn.Linear, 64, 100), labelled(64, 100), contrast, ADAMW, "fp32", (64, 1024)),
    Case("margin-amp", functools.partial(nn.Linear, 64, 100), labelled(64, 100), margin, ADAMW, "amp-bf16", (64, 4096)),
    Case("net-fp32-adafactor", *_NET, torch.optim.Adafactor, "fp32", (32, 512)),
    Case("net-bf16-nadam", *_NET, NADAM, "bf16", (32, 512)),
    Case("net-fp32-rmsprop", *_NET, RMSPROP, "fp32", (32, 512)),
    Case("net-fp16-scaler-fused", *_NET, ADAMW_FUSED, "amp-fp16", (32, 512), grad_scaler=True),
    Case("net-fp16-scaler-accumulate", *_NET, SGD, "amp-fp16", (32, 512), 1.0, 3, True),
    Case("llama_small-amp", LLAMA, lambda n: (torch.randint(0, 1000, (n, 96)),), language, ADAMW, "amp-bf16", (2, 8)),
]  # fmt: skip
CASES: dict[str, Case] = {c.name: c for c in _ALL}
