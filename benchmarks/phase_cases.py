"""Cases of what a job does besides training: validation, generation with a cache of keys and values, checkpoints.

`CASES` maps a name to a `PhaseCase`; `python -m benchmarks.phases` records their truth and holds estimates against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import ADAMW, RESNET50, SGD, TINYGPT, Case, causal_lm, hf, label_each_token, tokens

CALLS_APART = 5
"""Calls of the model whose peaks are noted apart: the prompt and the first tokens; the others come in one phase."""


@dataclass(frozen=True)
class PhaseCase(Case):
    """A case with what follows its four steps, after which there is a fifth.

    With `eval_only` the steps are generations. `validation_batch` of 0 means no validation, of -1 as many samples as
    in training. `new_tokens` of 0 means no generation; `call(model, batch, new_tokens)` generates where the model is
    not of transformers.
    """

    validation_batch: int = 0
    new_tokens: int = 0
    prompt: Callable[[int], Any] = field(default=lambda n: None)
    generation_batch: int | None = None
    cache: str = "growing"
    call: Callable[..., Any] | None = None
    checkpoint: str = ""
    """Where the state is copied before it is saved: `nowhere`, `device` or `host`; "" for no checkpoint."""
    steps: int = 4


def prompts(length: int, vocab: int) -> Callable[[int], dict[str, Tensor]]:
    """Token ids without padding, and their mask of ones, as a tokenizer gives them."""

    def make(n: int) -> dict[str, Tensor]:
        ids = torch.randint(1, vocab, (n, length))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


class CachedBlock(nn.Module):
    """A transformer block that takes and gives keys and values."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.ln2(x)))), (k, v)


class CachedGPT(nn.Module):
    """A language model with a cache of its own, which no library knows."""

    def __init__(self, vocab: int = 8000, positions: int = 512, d: int = 256, layers: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(positions, d)
        self.blocks = nn.ModuleList(CachedBlock(d, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocab, bias=False)

    def forward(self, ids: Tensor, past: list[Any] | None = None) -> tuple[Tensor, list[Any]]:
        begin = 0 if past is None else past[0][0].shape[2]
        x = self.tok(ids) + self.pos(torch.arange(begin, begin + ids.shape[1], device=ids.device))
        kept = []
        for number, block in enumerate(self.blocks):
            x, cache = block(x, None if past is None else past[number])
            kept.append(cache)
        return self.head(self.ln(x)), kept


def write_on(model: nn.Module, batch: Any, new_tokens: int) -> Tensor:
    """A plain greedy loop over `CachedGPT`."""
    (ids,) = batch
    out, past = ids, None
    for _ in range(new_tokens):
        logits, past = model(ids, past)
        ids = logits[:, -1].argmax(-1, keepdim=True)
        out = torch.cat([out, ids], dim=1)
    return out


def first_logits(m: nn.Module, batch: Any) -> Tensor:
    return label_each_token(lambda ids: m(ids)[0], (batch[0], batch[0]))  # type: ignore[arg-type]


GPT2_SMALL = hf("GPT2LMHeadModel", "GPT2Config", n_layer=4, n_embd=256, n_head=4, vocab_size=8000, n_positions=512)
LLAMA_SMALL = hf(
    "LlamaForCausalLM", "LlamaConfig", hidden_size=256, intermediate_size=704, num_hidden_layers=4,
    num_attention_heads=8, num_key_value_heads=2, vocab_size=8000, tie_word_embeddings=False,
)  # fmt: skip
GPT2 = (GPT2_SMALL, tokens(256, 8000), causal_lm, ADAMW)
LLAMA = (LLAMA_SMALL, tokens(256, 8000), causal_lm, ADAMW)
CACHED = (CachedGPT, tokens(256, 8000), first_logits, ADAMW)
WRITES = {"new_tokens": 160, "prompt": prompts(64, 8000)}
_ALL = [
    PhaseCase("tinygpt-amp-validated", *TINYGPT, ADAMW, "amp-bf16", (2, 8), validation_batch=-1),
    PhaseCase("tinygpt-fp32-validated-by-32", *TINYGPT, ADAMW, "fp32", (2, 8), validation_batch=32),
    PhaseCase("resnet50-amp-validated-by-128", *RESNET50, SGD, "amp-bf16", (8, 32), validation_batch=128),
    PhaseCase("gpt2-fp32-everything", *GPT2, "fp32", (4, 16), validation_batch=-1, checkpoint="device", **WRITES),
    PhaseCase("gpt2-amp-everything", *GPT2, "amp-bf16", (4, 16), validation_batch=-1, checkpoint="nowhere", **WRITES),
    PhaseCase("llama-bf16-everything", *LLAMA, "bf16", (4, 16), validation_batch=-1, checkpoint="device", **WRITES),
    PhaseCase("gpt2-fp32-writes", *GPT2, "fp32", (4, 32), eval_only=True, steps=2, **WRITES),
    PhaseCase("gpt2-fp16-writes", *GPT2, "fp16", (4, 32), eval_only=True, steps=2, **WRITES),
    PhaseCase("llama-bf16-writes", *LLAMA, "bf16", (4, 32), eval_only=True, steps=2, **WRITES),
    PhaseCase("llama-bf16-writes-static", *LLAMA, "bf16", (4, 32), eval_only=True, steps=2, cache="static", **WRITES),
    PhaseCase(
        "own-loop-amp", *CACHED, "amp-bf16", (4, 16), new_tokens=100, prompt=tokens(64, 8000), call=write_on,
    ),
    PhaseCase(
        "own-loop-bf16-writes", *CACHED, "bf16", (4, 32), eval_only=True, steps=2, new_tokens=160,
        prompt=tokens(64, 8000), call=write_on,
    ),
]  # fmt: skip
CASES: dict[str, PhaseCase] = {c.name: c for c in _ALL}
