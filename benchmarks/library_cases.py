"""Cases that took no part in making any rule: models of transformers and timm as people fine-tune and train them.

Recorded after the rules were written, to see what they make of models that nobody looked at. A rule that is mended by
what a case shows is named in `docs/accuracy.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cases import ADAMW, ADAMW_FUSED, SGD, Batch, Case, causal_lm, classify, hf, images, masked_lm, tokens


def pretrained_not(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A timm model with fresh weights."""

    def make() -> nn.Module:
        from benchmarks.vision import settle

        settle()
        import timm

        return timm.create_model(name, pretrained=False, **settings)  # type: ignore[no-any-return]

    return make


def labelled(length: int, vocab: int, classes: int) -> Callable[[int], Batch]:
    """Token ids, a mask of a few padded tokens, and a class."""

    def make(n: int) -> Batch:
        mask = torch.ones(n, length, dtype=torch.long)
        mask[:, -5:] = 0
        return torch.randint(5, vocab, (n, length)), mask, torch.randint(0, classes, (n,))

    return make


def pictures(side: int, classes: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, 3, side, side), torch.randint(0, classes, (n,)))


def translation(source: int, target: int, vocab: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randint(5, vocab, (n, source)), torch.randint(5, vocab, (n, target)))


def sound(n: int) -> Batch:
    return (torch.randn(n, 16000),)


def spectra(n: int) -> Batch:
    return torch.randn(n, 80, 3000), torch.randint(5, 50000, (n, 48))


def captions(n: int) -> Batch:
    return torch.randint(5, 49000, (n, 77)), torch.randn(n, 3, 224, 224)


def with_mask(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], attention_mask=batch[1], labels=batch[2]).loss  # type: ignore[no-any-return]


def seq2seq(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], labels=batch[1], use_cache=False).loss  # type: ignore[no-any-return]


def classify_text(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(input_ids=batch[0], attention_mask=batch[1]).logits, batch[2])


def speech(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_values=batch[0]).logits.float().square().mean()  # type: ignore[no-any-return]


def transcribe(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_features=batch[0], labels=batch[1], use_cache=False).loss  # type: ignore[no-any-return]


def contrast(m: nn.Module, batch: Batch) -> Tensor:
    return m(input_ids=batch[0], pixel_values=batch[1], return_loss=True).loss  # type: ignore[no-any-return]


def labelled_pixels(m: nn.Module, batch: Batch) -> Tensor:
    return m(pixel_values=batch[0], labels=batch[1]).loss  # type: ignore[no-any-return]


def smoothed(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], label_smoothing=0.1)


ROBERTA = hf("RobertaForSequenceClassification", "RobertaConfig", num_labels=3)
DEBERTA = hf("DebertaV2ForSequenceClassification", "DebertaV2Config", hidden_size=768, intermediate_size=3072,
             num_hidden_layers=6, num_attention_heads=12, relative_attention=True, pos_att_type=["p2c", "c2p"],
             position_buckets=256, max_relative_positions=-1, vocab_size=32000)  # fmt: skip
ALBERT = hf("AlbertForMaskedLM", "AlbertConfig", hidden_size=768, intermediate_size=3072, num_attention_heads=12)
BART = hf("BartForConditionalGeneration", "BartConfig", encoder_layers=6, decoder_layers=6, d_model=768,
          encoder_ffn_dim=3072, decoder_ffn_dim=3072, encoder_attention_heads=12, decoder_attention_heads=12)  # fmt: skip
OPT = hf("OPTForCausalLM", "OPTConfig")
NEOX = hf("GPTNeoXForCausalLM", "GPTNeoXConfig", hidden_size=768, intermediate_size=3072, num_hidden_layers=8,
          num_attention_heads=12)  # fmt: skip
GEMMA2 = hf("Gemma2ForCausalLM", "Gemma2Config", hidden_size=512, intermediate_size=2048, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=4, head_dim=64, vocab_size=64000)  # fmt: skip
MISTRAL = hf("MistralForCausalLM", "MistralConfig", hidden_size=1024, intermediate_size=3584, num_hidden_layers=6,
             num_attention_heads=16, num_key_value_heads=4)  # fmt: skip
PHI = hf("PhiForCausalLM", "PhiConfig", hidden_size=1024, intermediate_size=4096, num_hidden_layers=8,
         num_attention_heads=16)  # fmt: skip
BLOOM = hf("BloomForCausalLM", "BloomConfig", hidden_size=512, n_layer=6, n_head=8, vocab_size=64000)
WHISPER = hf("WhisperForConditionalGeneration", "WhisperConfig")
WAV2VEC2 = hf("Wav2Vec2ForCTC", "Wav2Vec2Config", num_hidden_layers=6, mask_time_prob=0.0, layerdrop=0.0)
CLIP = hf("CLIPModel", "CLIPConfig")
SEGFORMER = hf("SegformerForImageClassification", "SegformerConfig", num_labels=10)
DINOV2 = hf("Dinov2ForImageClassification", "Dinov2Config", num_labels=10, num_hidden_layers=6)

_ALL = [
    Case("roberta-amp16-adamw", ROBERTA, labelled(256, 50000, 3), with_mask, ADAMW, "amp-fp16", (6, 48), grad_clip=1.0,
         grad_scaler=True),
    Case("deberta-fp32-adamw", DEBERTA, labelled(192, 32000, 2), classify_text, ADAMW, "fp32", (4, 20)),
    Case("albert-amp-adamw", ALBERT, tokens(128, 30000), masked_lm, ADAMW_FUSED, "amp-bf16", (10, 80)),
    Case("bart-fp32-adamw", BART, translation(200, 72, 50000), seq2seq, ADAMW, "fp32", (2, 12), accumulation_steps=2),
    Case("opt-bf16-adamw", OPT, tokens(384, 50000), causal_lm, ADAMW, "bf16", (3, 20), grad_clip=1.0),
    Case("neox-amp16-adamw", NEOX, tokens(500, 50000), causal_lm, ADAMW, "amp-fp16", (2, 14), grad_scaler=True),
    Case("gemma2-bf16-adamw", GEMMA2, tokens(640, 64000), causal_lm, ADAMW, "bf16", (2, 10)),
    Case("mistral-amp-adamw", MISTRAL, tokens(900, 32000), causal_lm, ADAMW_FUSED, "amp-bf16", (1, 6)),
    Case("phi-fp32-sgd", PHI, tokens(300, 50000), causal_lm, SGD, "fp32", (3, 12)),
    Case("bloom-amp-adamw", BLOOM, tokens(256, 64000), causal_lm, ADAMW, "amp-bf16", (4, 28)),
    Case("whisper-amp-adamw", WHISPER, spectra, transcribe, ADAMW, "amp-bf16", (2, 12)),
    Case("wav2vec2-fp32-adamw", WAV2VEC2, sound, speech, ADAMW, "fp32", (4, 20)),
    Case("clip-amp-adamw", CLIP, captions, contrast, ADAMW, "amp-bf16", (8, 72)),
    Case("segformer-fp32-adamw", SEGFORMER, pictures(256, 10), labelled_pixels, ADAMW, "fp32", (6, 36)),
    Case("dinov2-amp16-adamw", DINOV2, pictures(224, 10), labelled_pixels, ADAMW, "amp-fp16", (8, 44), grad_scaler=True),
    Case("convnextv2-amp-adamw", pretrained_not("convnextv2_nano"), images, smoothed, ADAMW, "amp-bf16", (12, 90)),
    Case("resnetv2-fp32-sgd", pretrained_not("resnetv2_50"), images, classify, SGD, "fp32", (6, 40)),
    Case("efficientformer-amp-adamw", pretrained_not("efficientformer_l1"), images, classify, ADAMW, "amp-bf16", (16, 100)),
    Case("mixer-bf16-adamw", pretrained_not("mixer_s16_224"), images, classify, ADAMW, "bf16", (16, 120)),
    Case("deit_small-amp16-adamw", pretrained_not("deit_small_patch16_224", drop_path_rate=0.1), images, smoothed, ADAMW,
         "amp-fp16", (16, 112), grad_clip=1.0, grad_scaler=True),
    Case("resnet26d-amp-channels_last-sgd", pretrained_not("resnet26d"), images, classify, SGD, "amp-bf16", (24, 160),
         channels_last=True),
    Case("mobilevit-fp32-adamw", pretrained_not("mobilevit_s"), pictures(256, 1000), classify, ADAMW, "fp32", (6, 36)),
    Case("hrnet-amp-sgd", pretrained_not("hrnet_w18_small"), images, classify, SGD, "amp-bf16", (12, 70)),
    Case("xcit-fp32-adamw", pretrained_not("xcit_nano_12_p16_224"), images, classify, ADAMW, "fp32", (10, 64)),
]  # fmt: skip
CASES: dict[str, Case] = {c.name: c for c in _ALL}
