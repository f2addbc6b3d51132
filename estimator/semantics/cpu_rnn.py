"""LSTM layers on a CPU go to oneDNN; torch's fake kernels say less of their results than the kernels do.

Source: ATen/native/mkldnn/RNN.cpp, `mkldnn_rnn_layer`, `mkldnn_rnn_layer_backward`, torch 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.overlay import HOST, Overlay, fake_tensor

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay the kernels' results over those of torch's fake kernels."""
    overlay.fake_kernel(_aten.mkldnn_rnn_layer.default, _forward)
    overlay.fake_kernel(_aten.mkldnn_rnn_layer_backward.default, _backward)


def _new(mode: FakeTensorMode, shape: Any, dtype: torch.dtype) -> Any:
    return fake_tensor(mode, torch.empty(shape, dtype=dtype, device="meta"), HOST)


def _forward(mode: FakeTensorMode, op: Any, x: Tensor, w0: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, hx: Tensor, cx: Tensor, *args: Any) -> Any:
    """With gradients a workspace is kept. Its size is oneDNN's to say: the scratch rule puts it in the place of 1 byte."""
    hidden_size = args[3]
    output = _new(mode, (*x.shape[:2], hidden_size), x.dtype)
    workspace = _new(mode, (1 if torch.is_grad_enabled() else 0,), torch.uint8)
    return output, _new(mode, hx.shape, hx.dtype), _new(mode, cx.shape, cx.dtype), workspace


def _backward(mode: FakeTensorMode, op: Any, x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor, w4: Tensor, hx: Tensor, cx: Tensor, *args: Any) -> Any:
    """Gradients in float32 whatever the dtype; that of the biases twice, in two tensors."""
    shapes = (x.shape, w1.shape, w2.shape, w3.shape, w3.shape, hx.shape, cx.shape)
    return tuple(_new(mode, shape, torch.float32) for shape in shapes)
