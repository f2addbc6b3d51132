"""Single recurrent cells by CUDA's fused kernels.

Source: aten/src/ATen/native/RNN.cpp and cuda/RNN.cu, 2.13; measured against the 2.11 CUDA build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.overlay import Overlay, fake_tensor

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay fused cells over the trace."""
    overlay.composite("lstm_cell", _lstm_cell)
    overlay.composite("gru_cell", _gru_cell)
    overlay.fake_kernel(_aten._thnn_fused_lstm_cell.default, _lstm_cell_fake)
    overlay.fake_kernel(_aten._thnn_fused_lstm_cell_backward_impl.default, _lstm_cell_backward_fake)
    overlay.fake_kernel(_aten._thnn_fused_gru_cell.default, _gru_cell_fake)
    overlay.fake_kernel(_aten._thnn_fused_gru_cell_backward.default, _gru_cell_backward_fake)


# ------------------------------------------------------------ cells


def _lstm_cell(
    x: Tensor, hx: Sequence[Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    gates = torch.matmul(x, w_ih.t()), torch.matmul(hx[0], w_hh.t())
    hy, cy, _ = _aten._thnn_fused_lstm_cell.default(*gates, hx[1], b_ih, b_hh)
    return hy, cy


def _gru_cell(
    x: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    gates = torch.matmul(x, w_ih.t()), torch.matmul(hx, w_hh.t())
    return _aten._thnn_fused_gru_cell.default(*gates, hx, b_ih, b_hh)[0]  # type: ignore[no-any-return]


def _made(mode: FakeTensorMode, like: Any, *shape: int) -> Any:
    return fake_tensor(mode, torch.empty(shape, dtype=like.dtype, device="meta"), like.fake_device)


def _lstm_cell_fake(mode: FakeTensorMode, op: Any, gates: Any, hidden_gates: Any, cx: Any, *biases: Any) -> Any:
    return _made(mode, cx, *cx.shape), _made(mode, cx, *cx.shape), _made(mode, gates, *gates.shape)


def _lstm_cell_backward_fake(
    mode: FakeTensorMode, op: Any, grad_hy: Any, grad_cy: Any, cx: Any, cy: Any, workspace: Any, has_bias: bool
) -> Any:
    bias = _made(mode, cx, workspace.size(1)) if has_bias else None
    return _made(mode, workspace, *workspace.shape), _made(mode, cx, *cx.shape), bias


def _gru_cell_fake(mode: FakeTensorMode, op: Any, gates: Any, hidden_gates: Any, hx: Any, *biases: Any) -> Any:
    return _made(mode, hx, *hx.shape), _made(mode, hx, hx.size(0), hx.size(1) * 5)


def _gru_cell_backward_fake(mode: FakeTensorMode, op: Any, grad_hy: Any, workspace: Any, has_bias: bool) -> Any:
    batch, size = workspace.size(0), workspace.size(1) // 5
    gates = [_made(mode, workspace, batch, 3 * size) for _ in range(2)]
    biases = [_made(mode, workspace, 3 * size) if has_bias else None for _ in range(2)]
    return (*gates, _made(mode, workspace, batch, size), *biases)
