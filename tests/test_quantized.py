"""Weights in 4 and 8 bits by the rules of bitsandbytes: what is held, and what a product takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import estimator
from estimator.device import DeviceProfile, Target
from estimator.sources import JobOptions, load_job
from estimator.sources.edits import prepare_torchvision
from estimator.sources.quantized import EightBitLinear, FourBitLinear, Quantization, quantization_of, quantize
from estimator.trace import trace

pytestmark = pytest.mark.torch

CPU = Target(device=DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 34), torch_version=torch.__version__)
NESTED = Quantization(4, True, torch.bfloat16)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(256, 1024, bias=False), nn.ReLU(), nn.Linear(1024, 256, bias=False))
        self.head = nn.Linear(256, 8, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, x: Any) -> Any:
        return self.head(self.inner(x))


def held(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        # 256 x 1024 weights: half a byte each; 4096 blocks of 64: a float32 scale each; a table of 16 float32.
        (Quantization(4), 131072 + 4 * 4096 + 64),
        # nested: a byte a scale, a float32 for each 256 of them, one offset, a table of 256 float32.
        (NESTED, 131072 + 4096 + 4 * 16 + 4 + 64 + 1024),
        # a byte a weight, a float32 for each of 1024 rows.
        (Quantization(8), 262144 + 4 * 1024),
    ],
)
def test_bytes_of_a_layer(wanted: Quantization, expected: int) -> None:
    model = quantize(Net(), wanted)
    assert held(model.inner[0]) == expected
    assert type(model.head) is nn.Linear  # the output layer stays as it is
    assert isinstance(model.inner[2], FourBitLinear if wanted.bits == 4 else EightBitLinear)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight"]


def test_skipped_layers_stay() -> None:
    model = quantize(Net(), NESTED._replace(skipped=("inner.0",)))
    assert type(model.inner[0]) is nn.Linear
    assert type(model.inner[2]) is FourBitLinear


def saved(wanted: Quantization) -> int:
    """Bytes that the backward pass of an inner layer keeps, of 64 samples."""
    layer = quantize(Net(), wanted).inner[0].bfloat16()
    kept: list[int] = []

    def pack(t: Any) -> Any:
        if t.dim() == 2 and t.shape[0] == 64:
            kept.append(t.numel() * t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(torch.randn(64, 256, dtype=torch.bfloat16, requires_grad=True))
    return sum(kept)


def test_what_is_kept_for_the_backward_pass() -> None:
    assert saved(NESTED) == 0  # the gradient of the input needs the weight alone
    assert saved(Quantization(8)) == 64 * 256 * 2  # the input


def test_full_weight_is_there_for_the_time_of_a_product() -> None:
    job = estimator.TrainingJob(
        model=lambda: quantize(Net().bfloat16(), NESTED),
        batch=lambda n: torch.randn(n, 256, requires_grad=False).bfloat16(),
        loss=lambda model, x: model(x.requires_grad_()).float().sum(),
        optimizer="sgd",
        build="host",
    )
    graph = trace(job, CPU, 4, steps=1)
    full = [e for e in graph.events if e.size_bytes == 256 * 1024 * 2]
    assert sum(e.is_alloc for e in full) == 4  # two layers, forward and backward
    live = most = 0
    for event in full:
        live += 1 if event.is_alloc else -1
        most = max(most, live)
    assert (live, most) == (0, 1)


def test_quantization_configs() -> None:
    assert quantization_of({"load_in_8bit": True}) == Quantization(8)
    four = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
    assert quantization_of(four) == NESTED
    assert quantization_of({"quant_method": "gptq", "bits": 4}) is None


def test_lora_over_four_bits(tmp_path: Path) -> None:
    prepare_torchvision()  # both import it in passing
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    fields = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    job = load_job(f"hf:{tmp_path}", JobOptions(lora="r=4,targets=q_proj", precision="bf16", sequence_length=16))
    assert any("4 bits by the rules of bitsandbytes" in note for note in job.notes)
    facts = trace(job, CPU, 2, steps=1).facts
    # adapters of rank 4 on 64 x 64, in float32 as peft keeps them
    assert facts["trainable_parameter_bytes"] == 2 * 4 * (64 + 64) * 4
    # packed: 4 x 64 x 64 and 3 x 64 x 128 weights a layer; embedding, output layer and norms in bfloat16
    packed = 2 * (4 * 64 * 64 + 3 * 64 * 128) // 2
    assert facts["parameter_bytes"] - facts["trainable_parameter_bytes"] == packed + 2 * (2 * 100 * 64 + 5 * 64)


def test_code_beside_a_config_is_named_and_not_run(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    fields = {"model_type": "llama", "architectures": ["OwnForCausalLM"], "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    (tmp_path / "own.py").write_text("raise RuntimeError('code of a config was run')")
    job = load_job(f"hf:{tmp_path}", JobOptions())
    assert any("auto_map" in note and "never run" in note for note in job.notes)


def test_former_names_of_timm_have_their_image_size() -> None:
    pytest.importorskip("timm")
    job = load_job("timm:convnext_base_384_in22ft1k", JobOptions())
    assert job.batch(1)[0].shape == (1, 3, 384, 384)
