"""Linear layers in 8 or 4 bits as bitsandbytes keeps and runs them, by rule: neither it nor a GPU is needed.

What is allocated is imitated, not the arithmetic: packed weights with their scales, the weight in full precision for the
time of a product, nothing of the input kept for the backward pass (4 bits), or the input (8 bits).
Source: bitsandbytes 0.50.2: nn/modules.py, `Linear4bit.forward`; functional.py, `quantize_4bit` and `dequantize_4bit`;
autograd/_functions.py, `MatMul4Bit` and `MatMul8bitLt`; backends/cuda/ops.py and backends/default/ops.py. Which layers:
transformers/integrations/bitsandbytes.py, `get_keys_to_not_convert`, 4.57: all linear ones but the output layer.
Bound: with few rows a fused kernel of bitsandbytes needs no full weight, so that of one layer is too much; of 8 bits the
columns of the input that hold outliers, which are data, are not counted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BLOCK = 64
_BLOCK_OF_SCALES = 256
"""Weights that share a scale, and scales that share one. Source: `Linear4bit`, blocksize; `quantize_4bit`."""


class Quantization(NamedTuple):
    """How a config's weights are kept."""

    bits: int
    nested: bool = False
    """The scales themselves are kept in 8 bits."""
    compute_dtype: torch.dtype = torch.float32
    skipped: tuple[str, ...] = ()


def quantization_of(fields: dict[str, Any]) -> Quantization | None:
    """The quantization that a config's `quantization_config` asks for; None where it is none of bitsandbytes'.

    Source: defaults of `BitsAndBytesConfig`, transformers 4.57.
    """
    if fields.get("quant_method", "bitsandbytes") != "bitsandbytes":
        return None
    skipped = tuple(fields.get("llm_int8_skip_modules") or ())
    if fields.get("load_in_8bit"):
        return Quantization(8, skipped=skipped)
    if not fields.get("load_in_4bit"):
        return None
    named = str(fields.get("bnb_4bit_compute_dtype") or "float32").removeprefix("torch.")
    compute = getattr(torch, named, torch.float32)
    return Quantization(4, bool(fields.get("bnb_4bit_use_double_quant")), compute, skipped)


def take_quantization(config: Any) -> tuple[Quantization | None, tuple[str, ...]]:
    """Take the quantization out of the config: bitsandbytes' is laid over the model by rule, no other is followed."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None, ()
    del config.quantization_config
    fields = found if isinstance(found, dict) else found.to_dict()
    wanted = quantization_of(fields)
    method = str(fields.get("quant_method", "?")).rpartition(".")[2].lower()
    if wanted is None:
        return None, (f"the config's quantization ({method}) is not traced: weights are counted in the job's own precision",)
    return wanted, (
        f"linear layers are counted in {wanted.bits} bits by the rules of bitsandbytes (the full weight of one at a time, "
        "too much where few rows are multiplied"
        + ("" if wanted.bits == 4 else "; columns with outliers are data and not counted")
        + "); everything else is in the job's own precision",
    )


def quantize(model: nn.Module, wanted: Quantization) -> nn.Module:
    """Replace the linear layers of a freshly built model, its output layer excepted, and freeze what it has."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    tied = getattr(output, "weight", None)
    for name, module in list(model.named_modules()):
        for key, child in list(module.named_children()):
            path = f"{name}.{key}" if name else key
            if type(child) is not nn.Linear or child is output or child.weight is tied:
                continue
            if any(skip == key or path.startswith(f"{skip}.") or path == skip for skip in wanted.skipped):
                continue
            setattr(module, key, (FourBitLinear if wanted.bits == 4 else EightBitLinear)(child, wanted))
    return model


class _Packed(nn.Linear):
    """A linear layer without its weight: peft takes it for one to adapt."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def _hold(self, name: str, count: int, dtype: torch.dtype, like: Tensor) -> None:
        self.register_buffer(name, torch.empty(count, dtype=dtype, device=like.device), persistent=False)

    def _set_weight(self, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> None:
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=like.device), requires_grad=False)


class FourBitLinear(_Packed):
    """Two weights a byte, a scale for each 64, and the tables that give both their values."""

    def __init__(self, linear: nn.Linear, wanted: Quantization) -> None:
        super().__init__(linear)
        weight = linear.weight
        self.full_dtype, self.compute_dtype = weight.dtype, wanted.compute_dtype
        self.block_count = -(-weight.numel() // _BLOCK)
        self.nested = wanted.nested
        self._set_weight(((weight.numel() + 1) // 2, 1), torch.uint8, weight)
        self._hold("code", 16, torch.float32, weight)
        self._hold("absmax", self.block_count, torch.uint8 if wanted.nested else torch.float32, weight)
        if wanted.nested:
            self._hold("offset", 1, torch.float32, weight)
            self._hold("nested_absmax", -(-self.block_count // _BLOCK_OF_SCALES), torch.float32, weight)
            self._hold("nested_code", 256, torch.float32, weight)

    def forward(self, x: Tensor) -> Tensor:
        given = x.dtype
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        found: Tensor = _FourBitProduct.apply(x.to(self.compute_dtype), self.weight, bias, self)
        return found.to(given)

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        """A tensor as large as the weight in full precision."""
        scales = torch.empty(self.block_count, device=self.weight.device) if self.nested else None
        full = torch.empty(self.out_features, self.in_features, dtype=dtype, device=self.weight.device)
        del scales
        return full


class _FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, layer: FourBitLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.full_weight(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient = gradients[0]
        full = ctx.layer.full_weight(ctx.layer.full_dtype).to(gradient.dtype)
        return torch.matmul(gradient, full), None, None, None


class EightBitLinear(_Packed):
    """A byte a weight, and a scale for each row (LLM.int8)."""

    def __init__(self, linear: nn.Linear, wanted: Quantization) -> None:
        super().__init__(linear)
        self._set_weight(tuple(linear.weight.shape), torch.int8, linear.weight)
        self._hold("scale", self.out_features, torch.float32, linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = _EightBitProduct.apply(x, self.weight, self.bias, self.scale)
        return found


class _EightBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor) -> Tensor:
        shape, rows = x.shape, x.reshape(-1, x.shape[-1])
        half = rows.to(torch.float16)
        row_scale = torch.empty(len(rows), dtype=torch.float32, device=x.device)
        quantized = torch.empty_like(half, dtype=torch.int8)
        outliers = half.abs() >= 6.0  # the default threshold; how many there are is data
        del outliers, half
        product = torch.empty(len(rows), len(weight), dtype=torch.int32, device=x.device)
        out = torch.empty_like(product, dtype=torch.float16)
        del product, quantized, row_scale
        if bias is not None:
            out.add_(bias)
        ctx.save_for_backward(rows, weight, scale)
        ctx.shape = shape
        return out.to(x.dtype).view(*shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, weight, scale = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1]).contiguous()
        full = weight.to(rows.dtype, copy=True).mul_(scale.unsqueeze(1).mul(1.0 / 127.0))
        return torch.matmul(gradient.to(rows.dtype), full).view(ctx.shape), None, None, None
