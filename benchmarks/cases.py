"""Training cases whose GPU memory was measured; the measurements lie in `truth/`.

`CASES` maps a name to a `Case`. A case is plain callables, so the same object drives a
measurement on a GPU and an estimate without one. Only `torch` is needed to import this file;
torchvision and transformers are imported when a case that uses them is built.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One training step, and the batch sizes at which it is measured.

    `model()` builds on the current default device and dtype. `batch(n)` makes `n` samples on
    the host. `loss(model, batch)` gives the scalar that is differentiated. `optimizer(params)`
    gets the parameters that require gradients.

    `precision` is one of
      fp32      float32 throughout
      amp-bf16  float32 weights, forward under `torch.autocast("cuda", torch.bfloat16)`
      amp-fp16  float32 weights, forward under `torch.autocast("cuda", torch.float16)`
      bf16      weights made in bfloat16, floating-point inputs cast to bfloat16, no autocast

    `batches` are samples per micro-step; one optimizer step takes `accumulation_steps` of them.
    `channels_last` converts the weights and the 4-D inputs. `eval_only` means `model.eval()`,
    `torch.no_grad()`, and neither backward pass nor optimizer.
    """

    name: str
    model: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    precision: str
    batches: tuple[int, ...]
    grad_clip: float | None = None
    accumulation_steps: int = 1
    grad_scaler: bool = False
    channels_last: bool = False
    eval_only: bool = False


# --------------------------------------------------------------------- models


class GPTBlock(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class TinyGPT(nn.Module):
    def __init__(self, vocab: int = 32000, t: int = 512, d: int = 512, layers: int = 8, heads: int = 8) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Embedding(t, d)
        self.blocks = nn.ModuleList(GPTBlock(d, heads) for _ in range(layers))
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocab, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids) + self.pos(torch.arange(ids.shape[1], device=ids.device))
        for b in self.blocks:
            x = b(x)
        return self.head(self.ln(x))


class UNet(nn.Module):
    def __init__(self, base: int = 64, depth: int = 4, classes: int = 2) -> None:
        super().__init__()

        def double(i: int, o: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
                nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True),
            )  # fmt: skip

        widths = [base << i for i in range(depth + 1)]
        self.down = nn.ModuleList(double(i, o) for i, o in zip([3, *widths[:-1]], widths, strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, stride=2) for w in widths[:0:-1])
        self.dec = nn.ModuleList(double(w, w // 2) for w in widths[:0:-1])
        self.out = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, d in enumerate(self.down):
            x = d(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for u, d, s in zip(self.up, self.dec, skips[-2::-1], strict=True):
            x = d(torch.cat([s, u(x)], 1))
        return self.out(x)


class LSTMTagger(nn.Module):
    def __init__(self, vocab: int = 20000, d: int = 512, layers: int = 2, classes: int = 10) -> None:
        super().__init__()
        self.emb, self.rnn = nn.Embedding(vocab, d), nn.LSTM(d, d, layers, batch_first=True, dropout=0.1)
        self.out = nn.Linear(d, classes)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.emb(ids))[0])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 10))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8, 2048, batch_first=True), 6)


def vision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from benchmarks.vision import models

        return getattr(models(), name)()

    return make


def hf(model: str, config: str, **kw: Any) -> Callable[[], nn.Module]:
    """A transformers model with fresh weights: `model(config(**kw))`."""

    def make() -> nn.Module:
        from benchmarks.vision import settle

        settle()
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**kw))

    return make


GPT2 = hf("GPT2LMHeadModel", "GPT2Config")
BERT = hf("BertForMaskedLM", "BertConfig")
LLAMA_100M = hf(
    "LlamaForCausalLM", "LlamaConfig", hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
    num_attention_heads=12, num_key_value_heads=4, vocab_size=32000, tie_word_embeddings=False,
)  # fmt: skip
LLAMA_1B = hf(
    "LlamaForCausalLM", "LlamaConfig", hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
    num_attention_heads=32, num_key_value_heads=8, vocab_size=128256, tie_word_embeddings=True,
)  # fmt: skip


# --------------------------------------------------------------------- batches


def tokens(t: int, vocab: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randint(0, vocab, (n, t)),)


def tagged(n: int) -> Batch:
    x = torch.randint(0, 20000, (n, 256))
    return x, x % 10


def images(n: int) -> Batch:
    return torch.randn(n, 3, 224, 224), torch.randint(0, 1000, (n,))


# --------------------------------------------------------------------- losses


def classify(m: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x), y)


def label_each_token(m: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(m(x).flatten(0, 1), y.flatten())


def reproduce_tokens(m: nn.Module, batch: Batch) -> Tensor:
    return label_each_token(m, (batch[0], batch[0]))


def mean_square(m: nn.Module, batch: Batch) -> Tensor:
    return m(batch[0]).square().mean()


def causal_lm(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[0], use_cache=False).loss


def masked_lm(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[0]).loss


# --------------------------------------------------------------------- optimizers

SGD = lambda params: torch.optim.SGD(params, 0.1, momentum=0.9)  # noqa: E731
ADAM = torch.optim.Adam
ADAMW = torch.optim.AdamW
ADAMW_FUSED = lambda params: torch.optim.AdamW(params, fused=True)  # noqa: E731


# --------------------------------------------------------------------- the cases

MLP = (mlp, lambda n: (torch.randn(n, 1024), torch.randint(0, 10, (n,))), classify)
ENCODER = (encoder, lambda n: (torch.randn(n, 256, 512),), mean_square)
TINYGPT = (TinyGPT, tokens(512, 32000), reproduce_tokens)
GPT2_512 = (GPT2, tokens(512, 50257), causal_lm)
BERT_128 = (BERT, tokens(128, 30522), masked_lm)
LLAMA_100M_512 = (LLAMA_100M, tokens(512, 32000), causal_lm)
LLAMA_1B_1024 = (LLAMA_1B, tokens(1024, 128256), causal_lm)
VIT = (vision("vit_b_16"), images, classify)
RESNET50 = (vision("resnet50"), images, classify)
CONVNEXT = (vision("convnext_tiny"), images, classify)
UNET = (UNet, lambda n: (torch.randn(n, 3, 256, 256), torch.randint(0, 2, (n, 256, 256))), classify)
LSTM = (LSTMTagger, tagged, label_each_token)

_ALL = [
    Case("mlp-fp32-sgd", *MLP, SGD, "fp32", (64, 512, 4096)),
    Case("mlp-fp32-adam", *MLP, ADAM, "fp32", (64, 512, 4096)),
    Case("mlp-amp-adamw", *MLP, ADAMW, "amp-bf16", (64, 512, 4096)),
    Case("encoder-fp32-adamw", *ENCODER, ADAMW, "fp32", (4, 16, 64)),
    Case("encoder-amp-adamw", *ENCODER, ADAMW, "amp-bf16", (4, 16, 64)),
    Case("tinygpt-fp32-adamw", *TINYGPT, ADAMW, "fp32", (2, 8, 16)),
    Case("tinygpt-amp-adamw", *TINYGPT, ADAMW, "amp-bf16", (2, 8, 16)),
    Case("tinygpt-amp-adamw_fused", *TINYGPT, ADAMW_FUSED, "amp-bf16", (2, 8, 16)),
    Case("tinygpt-bf16-adamw_fused", *TINYGPT, ADAMW_FUSED, "bf16", (2, 8, 16)),
    Case("gpt2-fp32-adamw", *GPT2_512, ADAMW, "fp32", (1, 4, 8)),
    Case("gpt2-amp-adamw", *GPT2_512, ADAMW, "amp-bf16", (1, 4, 8)),
    Case("gpt2-amp-adamw_fused", *GPT2_512, ADAMW_FUSED, "amp-bf16", (1, 4, 8)),
    Case("bert-fp32-adamw", *BERT_128, ADAMW, "fp32", (8, 32, 64)),
    Case("bert-amp-adamw_fused", *BERT_128, ADAMW_FUSED, "amp-bf16", (8, 32, 64)),
    Case("llama100m-amp-adamw", *LLAMA_100M_512, ADAMW, "amp-bf16", (1, 4, 8)),
    Case("llama100m-bf16-adamw_fused", *LLAMA_100M_512, ADAMW_FUSED, "bf16", (1, 4, 8)),
    Case("llama1b-bf16-adamw_fused", *LLAMA_1B_1024, ADAMW_FUSED, "bf16", (1, 2, 4)),
    Case("llama1b-amp-sgd", *LLAMA_1B_1024, SGD, "amp-bf16", (1, 2, 4)),
    Case("vit_b_16-fp32-adamw", *VIT, ADAMW, "fp32", (4, 16, 32)),
    Case("vit_b_16-amp-adamw", *VIT, ADAMW, "amp-bf16", (4, 16, 64)),
    Case("resnet50-fp32-sgd", *RESNET50, SGD, "fp32", (4, 16, 64)),
    Case("resnet50-amp-sgd", *RESNET50, SGD, "amp-bf16", (4, 16, 64)),
    Case("resnet50-amp-channels_last-sgd", *RESNET50, SGD, "amp-bf16", (4, 16, 64), channels_last=True),
    Case("convnext_tiny-fp32-adamw", *CONVNEXT, ADAMW, "fp32", (4, 16, 32)),
    Case("convnext_tiny-amp-adamw", *CONVNEXT, ADAMW, "amp-bf16", (4, 16, 64)),
    Case("unet-fp32-adam", *UNET, ADAM, "fp32", (1, 4, 8)),
    Case("unet-amp-adam", *UNET, ADAM, "amp-bf16", (1, 4, 16)),
    Case("lstm-fp32-adam", *LSTM, ADAM, "fp32", (8, 32, 128)),
]
CASES: dict[str, Case] = {c.name: c for c in _ALL}


def load_cases(path: str | Path | None = None) -> dict[str, Case]:
    """The cases of a file that defines `CASES` (same fields as `Case`), or the benchmark's own."""
    if path is None:
        return CASES
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: dict[str, Case] = module.CASES
    return cases
