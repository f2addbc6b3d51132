"""Recurrent networks: cuDNN's ops, buffers and what user code sees. Sequences are the 2.11 CUDA build's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from logged import run, run_with_values
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from estimator.semantics import rnn

pytestmark = pytest.mark.torch

STEPS, BATCH, FEATURES, HIDDEN = 5, 3, 16, 24
FLAT = 4 * HIDDEN * (FEATURES + HIDDEN) + 2 * 4 * HIDDEN  # LSTM: four gates, two biases each


def lstm(dtype: torch.dtype = torch.float32, backward: bool = False, **kwargs: Any) -> Any:
    def function() -> None:
        with torch.device("cuda"):
            module = nn.LSTM(FEATURES, HIDDEN, **kwargs).to(dtype)
            module.flatten_parameters()
        x = torch.empty(STEPS, BATCH, FEATURES, device="cuda", dtype=dtype)
        out, _ = module(x)
        if backward:
            out.exp().sum().backward()
            weights = [p.grad for p in module.parameters()]
            assert len({w.untyped_storage()._cdata for w in weights if w is not None}) == 1

    return function


def test_weights_lie_in_one_buffer() -> None:
    """`flatten_parameters` moves them there; the call takes the buffer as it is and keeps a reserve space."""
    log = run(lstm())
    reserve = rnn.reserve_bytes(2, STEPS, BATCH, HIDDEN, 1, 4)
    assert f"_cudnn_rnn_flatten_weight float32[{FLAT}]" in log.ops
    assert log.ops[-1] == (
        f"_cudnn_rnn float32[5,3,24], float32[1,3,24], float32[1,3,24], uint8[{reserve}], float32[{FLAT}]"
    )


def test_gradients_of_the_weights_share_one_buffer() -> None:
    """The backward op gives views of one flat tensor."""
    log = run(lstm(backward=True))
    assert log.kernels[-1] == "_cudnn_rnn_backward"


def test_bfloat16_weights_are_copied_at_each_call() -> None:
    """cuDNN's Python interface does not flatten bfloat16; each call makes a flat copy and keeps it."""
    log = run(lstm(torch.bfloat16))
    flattened = [op for op in log.ops if op.startswith("_cudnn_rnn_flatten_weight")]
    assert flattened == [f"_cudnn_rnn_flatten_weight float32[{FLAT}]"]  # when it was built, not after the cast
    assert log.ops[-1].endswith(f"bfloat16[{FLAT}]")


def test_autocast_casts_weights_into_a_new_half_buffer() -> None:
    """Also where autocast's dtype is bfloat16: cuDNN's wrapper knows only half (2.11)."""

    def function() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            lstm()()

    log = run(function)
    start = log.ops.index(f"zeros float16[{FLAT}]")
    assert [op for op in log.ops[start:] if op.startswith(("copy_", "_to_copy"))] == [
        "copy_ float16[1536,1]", "copy_ float16[2304,1]", "copy_ float16[96,1]", "copy_ float16[96,1]",
        "_to_copy float16[1,3,24]", "_to_copy float16[1,3,24]", "_to_copy float16[5,3,16]",
    ]  # fmt: skip


def test_packed_sequences() -> None:
    """Lengths decide the shapes: 5 + 4 + 3 rows; padding them again copies block by block."""
    shapes: list[Any] = []

    def function() -> None:
        with torch.device("cuda"):
            module = nn.GRU(FEATURES, HIDDEN)
        x = torch.empty(STEPS, BATCH, FEATURES, device="cuda", requires_grad=True)
        packed, _ = module(pack_padded_sequence(x, torch.tensor([5, 4, 3])))
        out, lengths = pad_packed_sequence(packed)
        out.exp().sum().backward()
        shapes.extend([packed.data.shape, out.shape, lengths.shape, x.grad.shape if x.grad is not None else None])

    run_with_values(function)
    assert shapes == [(12, HIDDEN), (STEPS, BATCH, HIDDEN), (BATCH,), (STEPS, BATCH, FEATURES)]


def test_cells_run_fused_kernels() -> None:
    """Two products and one kernel; the cell keeps its gates for the backward pass."""

    def function() -> None:
        with torch.device("cuda"):
            cell, gru = nn.LSTMCell(FEATURES, HIDDEN), nn.GRUCell(FEATURES, HIDDEN)
        x = torch.empty(BATCH, FEATURES, device="cuda")
        cell(x)
        gru(x)

    ops = [op for op in run(function).ops if op.startswith("_thnn")]
    assert ops == ["_thnn_fused_lstm_cell float32[3,24], float32[3,24], float32[3,96]", "_thnn_fused_gru_cell float32[3,24], float32[3,120]"]


def test_the_reserve_is_said_to_be_modelled() -> None:
    """Its size is known to cuDNN only, on a device."""
    overlays: list[Any] = []
    run(lstm(), overlays=overlays)
    assert [code for code, _ in overlays[0].warnings] == ["cudnn-rnn"]
