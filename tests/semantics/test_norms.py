"""Normalization: which kernel runs and what it keeps. Expectations are the 2.11 CUDA build's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from logged import run
from torch import nn

pytestmark = pytest.mark.torch


def forward(make: Callable[[], nn.Module], shape: tuple[int, ...], dtype: torch.dtype, weights: torch.dtype | None = None) -> list[str]:
    """Results of the kernels of a forward pass, in training."""

    def function() -> None:
        with torch.device("cuda"):
            module = make().to(weights or dtype)
        module(torch.empty(shape, device="cuda", dtype=dtype))

    return [op for op in run(function).ops if "norm" in op.split()[0]]


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("dtype", "weights", "shape", "expected"),
    [
        (FP32, FP32, (4, 8, 6, 6), "cudnn_batch_norm float32[4,8,6,6], float32[8], float32[8], uint8[0]"),
        (FP16, FP32, (4, 8, 6, 6), "cudnn_batch_norm float16[4,8,6,6], float32[8], float32[8], uint8[0]"),
        (FP16, FP16, (4, 8, 6, 6), "native_batch_norm float16[4,8,6,6], float32[8], float32[8]"),
        (BF16, FP32, (4, 8, 6, 6), "native_batch_norm bfloat16[4,8,6,6], float32[8], float32[8]"),
        (FP32, FP32, (4, 8), "native_batch_norm float32[4,8], float32[8], float32[8]"),
    ],
)
def test_batch_norm(dtype: torch.dtype, weights: torch.dtype, shape: tuple[int, ...], expected: str) -> None:
    """cuDNN takes spatial inputs in float32, or in half with float32 weights; statistics are float32."""
    make = (lambda: nn.BatchNorm2d(8)) if len(shape) == 4 else (lambda: nn.BatchNorm1d(8))
    assert forward(make, shape, dtype, weights) == [expected]


def test_batch_norm_without_weights_or_cudnn_is_native() -> None:
    """cuDNN wants weight and bias."""
    assert forward(lambda: nn.BatchNorm2d(8, affine=False), (4, 8, 6, 6), FP32)[0].startswith("native_batch_norm")


def test_layer_norm_keeps_float32_statistics() -> None:
    """The CPU keeps them in the input's type."""
    assert forward(lambda: nn.LayerNorm(8), (4, 8), BF16) == ["native_layer_norm bfloat16[4,8], float32[4,1], float32[4,1]"]


def test_rms_norm_is_one_kernel_where_types_agree() -> None:
    """With weights of another type it is composed."""
    assert forward(lambda: nn.RMSNorm(8), (4, 8), BF16) == ["_fused_rms_norm bfloat16[4,8], float32[4,1]"]
    assert forward(lambda: nn.RMSNorm(8), (4, 8), BF16, FP32) == []


def test_rms_norm_backward() -> None:
    """Its formula takes the saved statistics and gives both gradients at once."""

    def function() -> None:
        with torch.device("cuda"):
            module = nn.RMSNorm(8)
        module(torch.empty(4, 8, device="cuda", requires_grad=True)).exp().sum().backward()

    assert run(function).ops[-1] == "_fused_rms_norm_backward float32[4,8], float32[8]"


def test_group_norm_makes_its_input_contiguous() -> None:
    """A channels-last input is copied first."""

    def function() -> None:
        with torch.device("cuda"):
            module = nn.GroupNorm(2, 8)
        module(torch.empty(4, 8, 6, 6, device="cuda").to(memory_format=torch.channels_last))

    assert run(function).kernels[-2:] == ["clone", "native_group_norm"]


def test_frozen_batch_norm_gives_a_contiguous_gradient() -> None:
    """In evaluation the gradient of a channels-last input comes back contiguous."""
    grads: list[torch.Tensor] = []

    def function() -> None:
        with torch.device("cuda"):
            module = nn.BatchNorm2d(8).eval()
        x = torch.empty(4, 8, 6, 6, device="cuda").to(memory_format=torch.channels_last).requires_grad_()
        x.register_hook(grads.append)
        module(x).exp().sum().backward()

    run(function)
    assert grads[0].is_contiguous()
