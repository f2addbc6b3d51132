"""Composite ops taken as CUDA takes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from logged import run

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("p", "training", "expected"),
    [(0.1, True, ["native_dropout"]), (0.0, True, []), (0.1, False, []), (1.0, True, ["zeros", "mul"])],
)
def test_dropout(p: float, training: bool, expected: list[str]) -> None:
    """One kernel with a boolean mask where something is dropped; nothing at all where not."""
    assert run(lambda: F.dropout(torch.empty(4, 8, device="cuda"), p, training)).kernels[1:] == expected


def test_linear_adds_its_bias_in_place_where_the_input_does_not_fold() -> None:
    """Contiguous inputs of any rank run `addmm`; others `mm` with the bias added in place."""

    def linear(*shape: int, transposed: bool = False) -> list[str]:
        def function() -> None:
            x = torch.empty(*shape, device="cuda")
            w, b = torch.empty(5, 8, device="cuda", requires_grad=True), torch.empty(5, device="cuda", requires_grad=True)
            F.linear(x.transpose(0, 1) if transposed else x, w, b)

        return [name for name in run(function).kernels if name != "empty"]

    assert linear(4, 8) == linear(2, 3, 8) == linear(2, 2, 2, 8) == ["addmm"]
    assert linear(2, 3, 8, transposed=True) == ["clone", "mm", "add_"]


def test_softmax_of_half_in_float32_is_one_kernel() -> None:
    """float16 is read by the kernel that writes float32; bfloat16 is copied first."""

    def softmax(dtype: torch.dtype, function: Any = F.softmax) -> list[str]:
        return run(lambda: function(torch.empty(4, device="cuda", dtype=dtype), -1, dtype=torch.float32)).ops[1:]

    assert softmax(torch.float16) == ["_softmax float32[4]"]
    assert softmax(torch.float16, F.log_softmax) == ["_log_softmax float32[4]"]
    assert softmax(torch.bfloat16) == ["_to_copy float32[4]", "_softmax float32[4]"]


def test_log_sigmoid_keeps_no_buffer() -> None:
    """The CPU keeps one as large as the input."""
    assert run(lambda: F.logsigmoid(torch.empty(4, 8, device="cuda"))).ops[-1] == "log_sigmoid_forward float32[4,8], float32[0]"


def test_one_hot_scatters_ones_into_zeros() -> None:
    """Measured on the CUDA build: one tensor of int64; a fake's own way compares with all classes first."""
    assert run(lambda: F.one_hot(torch.empty(4, dtype=torch.int64, device="cuda"), 7)).kernels[1:] == ["zeros", "scatter_"]
