"""Evaluation of transformer layers: the fast path, part by part."""

from __future__ import annotations

import pytest
import torch
from logged import run
from torch import nn

pytestmark = pytest.mark.torch


def test_layer_in_evaluation_runs_the_fast_path() -> None:
    """One projection for q, k and v, a fused kernel, sums in place, the first linear with its activation."""

    def function() -> None:
        with torch.device("cuda"):
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True).eval()
        x = torch.empty(2, 16, 64, device="cuda")
        with torch.no_grad():
            layer(x)

    assert run(function).kernels[-8:] == [
        "addmm", "_scaled_dot_product_efficient_attention", "addmm", "add_", "native_layer_norm", "_addmm_activation",
        "addmm", "add_", "native_layer_norm",
    ][-8:]  # fmt: skip


def test_training_does_not() -> None:
    """The slow path is composed of ops with gradients."""

    def function() -> None:
        with torch.device("cuda"):
            layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        layer(torch.empty(2, 16, 64, device="cuda"))

    assert "_addmm_activation" not in run(function).kernels
