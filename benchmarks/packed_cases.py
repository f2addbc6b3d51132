"""Sequences one behind the other, without padding: jagged tensors with their attention, `varlen_attn`, packed recurrent nets.

Lengths are 64, 80, 96 and 112 in turn, so that a batch of four times as many samples has four times the tokens.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

try:
    from benchmarks.cases import ADAMW, SGD, Batch, Case
except ImportError:  # beside cases.py, outside the package
    from cases import ADAMW, SGD, Batch, Case  # type: ignore[import-not-found, no-redef]

VOCABULARY = 1000
LONGEST = 112


class Attention(nn.Module):
    """Jagged attention; queries, keys and values from one product that is split, or from three."""

    def __init__(
        self, d: int = 256, heads: int = 8, size: int | None = None, causal: bool = False, drop: float = 0.0, split: bool = True
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.drop = heads, causal, drop
        width = heads * (size or d // heads)
        self.norm, self.out = nn.LayerNorm(d), nn.Linear(width, d)
        self.parts = nn.ModuleList([nn.Linear(d, 3 * width)] if split else [nn.Linear(d, width) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        made = [part(y) for part in self.parts]
        q, k, v = made if len(made) == 3 else made[0].chunk(3, -1)
        q, k, v = (t.unflatten(-1, [self.heads, -1]).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.drop, is_causal=self.causal)
        out: Tensor = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return out


class Encoder(nn.Module):
    def __init__(self, d: int = 256, **options: Any) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, d), nn.Linear(d, VOCABULARY)
        self.layers = nn.ModuleList(Attention(d, **options) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.head(x)
        return out


class Mixer(nn.Module):
    """No attention: what is jagged is made dense at the end, with zeros."""

    def __init__(self, d: int = 256) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCABULARY, d), nn.LayerNorm(d)
        self.up, self.down, self.head = nn.Linear(d, 4 * d), nn.Linear(4 * d, d), nn.Linear(d, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.down(F.dropout(F.gelu(self.up(self.norm(x))), 0.1, self.training))
        out: Tensor = self.head(x.to_padded_tensor(0.0).amax(1))
        return out


class Varlen(nn.Module):
    """Causal `varlen_attn` over packed tokens; fewer heads of keys and values where asked."""

    def __init__(self, d: int = 256, heads: int = 8, kv_heads: int = 8) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, d), nn.Linear(d, VOCABULARY)
        self.heads = [heads, kv_heads, kv_heads]
        self.layers = nn.ModuleList(nn.Linear(d, sum(self.heads) * d // heads) for _ in range(2))
        # Before 2.12 grouped queries needed no word of it. Source: torch/nn/attention/varlen.py, 2.11 and 2.13.
        grouped = kv_heads != heads and "enable_gqa" in inspect.signature(varlen_attn).parameters
        self.options: dict[str, Any] = {"enable_gqa": True} if grouped else {}

    def forward(self, x: Tensor, starts: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            q, k, v = layer(x).unflatten(-1, [sum(self.heads), -1]).split(self.heads, 1)
            x = x + varlen_attn(q, k, v, starts, starts, LONGEST, LONGEST, window_size=(-1, 0), **self.options).flatten(1)
        out: Tensor = self.head(x)
        return out


class Tagger(nn.Module):
    """A recurrent net over a packed batch: a score at each step, padded again or not, or one of the last state."""

    def __init__(
        self, kind: type[nn.RNNBase] = nn.LSTM, out: str = "padded", batch_first: bool = True, in_order: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self.embed, self.out, self.batch_first, self.in_order = nn.Embedding(VOCABULARY, 128), out, batch_first, in_order
        self.body: Any = kind(128, 256, batch_first=batch_first, **options)
        self.head = nn.Linear(512 if options.get("bidirectional") else 256, 50)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        x = self.embed(x)
        x = x if self.batch_first else x.transpose(0, 1)
        result, state = self.body(
            pack_padded_sequence(x, lengths, batch_first=self.batch_first, enforce_sorted=self.in_order)
        )
        if self.out == "last":
            result = (state[0] if isinstance(state, tuple) else state)[-1]
        elif self.out == "packed":
            result = result.data
        else:
            result, _ = pad_packed_sequence(result, batch_first=self.batch_first)
        out: Tensor = self.head(result)
        return out


def lengths(n: int) -> list[int]:
    return [64 + 16 * (i % 4) for i in range(n)]


def sentences(n: int) -> Batch:
    return (torch.nested.nested_tensor([torch.randint(0, VOCABULARY, (t,)) for t in lengths(n)], layout=torch.jagged),)


def labelled(n: int) -> Batch:
    return *sentences(n), torch.randint(0, 10, (n,))


def packed(n: int) -> Batch:
    """All tokens, and where each sentence begins."""
    starts = torch.tensor([0, *lengths(n)]).cumsum(0)
    return torch.randint(0, VOCABULARY, (int(starts[-1]),)), starts


def padded(n: int) -> Batch:
    return (torch.randint(0, VOCABULARY, (n, LONGEST)),)


def tags(m: nn.Module, batch: Batch) -> Tensor:
    """Lengths in falling order; the host's own, as torch wants them (a card that is simulated could not give them back)."""
    given = torch.tensor(sorted(lengths(len(batch[0])), reverse=True))
    out: Tensor = m(batch[0], given).float().square().mean()
    return out


def tags_in_any_order(m: nn.Module, batch: Batch) -> Tensor:
    out: Tensor = m(batch[0], torch.tensor(lengths(len(batch[0])))).float().square().mean()
    return out


def values(m: nn.Module, batch: Batch) -> Tensor:
    return m(batch[0]).values().float().square().mean()


def from_starts(m: nn.Module, batch: Batch) -> Tensor:
    """A jagged tensor made in the step; lengths are told, as a card that is simulated cannot be asked for them."""
    x = torch.nested.nested_tensor_from_jagged(*batch, min_seqlen=64, max_seqlen=LONGEST)
    out: Tensor = m(x).values().float().square().mean()
    return out


def classify(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1])


def tokens(m: nn.Module, batch: Batch) -> Tensor:
    out: Tensor = m(batch[0], batch[1].int()).float().square().mean()
    return out


_OF = functools.partial
_ALL = [
    Case("jagged-fp32", Encoder, sentences, values, ADAMW, "fp32", (8, 64)),
    Case("jagged-amp", Encoder, sentences, values, ADAMW, "amp-bf16", (8, 64)),
    Case("jagged-bf16", Encoder, sentences, values, ADAMW, "bf16", (8, 64)),
    Case("jagged-causal-amp16", _OF(Encoder, causal=True), sentences, values, ADAMW, "amp-fp16", (8, 64), grad_scaler=True),
    Case("jagged-drop-amp", _OF(Encoder, drop=0.1), sentences, values, ADAMW, "amp-bf16", (8, 64)),
    Case("jagged-drop-fp32", _OF(Encoder, drop=0.1), sentences, values, ADAMW, "fp32", (8, 64)),
    Case("jagged-three-amp", _OF(Encoder, split=False), sentences, values, ADAMW, "amp-bf16", (8, 64)),
    Case("jagged-three-fp32", _OF(Encoder, split=False), sentences, values, SGD, "fp32", (8, 64)),
    Case("jagged-wide-amp", _OF(Encoder, heads=2, size=160), sentences, values, ADAMW, "amp-bf16", (8, 64)),
    Case("jagged-wide-fp32", _OF(Encoder, heads=2, size=160), sentences, values, ADAMW, "fp32", (8, 64)),
    Case("jagged-starts-amp", Encoder, packed, from_starts, ADAMW, "amp-bf16", (8, 64)),
    Case("jagged-starts-fp32", Encoder, packed, from_starts, ADAMW, "fp32", (8, 64)),
    Case("jagged-padded-fp32", Mixer, labelled, classify, ADAMW, "fp32", (8, 64)),
    Case("jagged-padded-amp", Mixer, labelled, classify, ADAMW, "amp-bf16", (8, 64)),
    Case("packed-lstm", Tagger, padded, tags, ADAMW, "fp32", (8, 40)),
    Case("packed-gru", _OF(Tagger, nn.GRU, out="packed"), padded, tags, ADAMW, "fp32", (8, 40)),
    Case("packed-rnn", _OF(Tagger, nn.RNN, batch_first=False), padded, tags, SGD, "fp32", (8, 40)),
    Case("packed-two", _OF(Tagger, num_layers=2, dropout=0.1), padded, tags, ADAMW, "fp32", (8, 40)),
    Case("packed-both", _OF(Tagger, bidirectional=True), padded, tags, ADAMW, "fp32", (8, 40)),
    Case("packed-last-amp", _OF(Tagger, out="last"), padded, tags, ADAMW, "amp-bf16", (8, 40)),
    Case("packed-any-order", _OF(Tagger, in_order=False), padded, tags_in_any_order, ADAMW, "fp32", (8, 40)),
    Case("varlen-bf16", Varlen, packed, tokens, ADAMW, "bf16", (8, 64)),
    Case("varlen-grouped-amp", _OF(Varlen, kv_heads=2), packed, tokens, ADAMW, "amp-bf16", (8, 64)),
]
CASES: dict[str, Case] = {c.name: c for c in _ALL}
