"""Single recurrent cells by CUDA's fused kernels, and packed sequences.

Source: aten/src/ATen/native/RNN.cpp, cuda/RNN.cu and PackedSequence.cpp, 2.13; measured against the 2.11 CUDA build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from estimator.semantics.overlay import AUTOGRAD, Overlay, fake_tensor, on_device

_aten = torch.ops.aten


def install(overlay: Overlay) -> None:
    """Lay fused cells and packed sequences over the trace."""
    overlay.composite("lstm_cell", _lstm_cell)
    overlay.composite("gru_cell", _gru_cell)
    overlay.composite("_pad_packed_sequence", _pad_packed)
    overlay.fake_kernel(_aten._pack_padded_sequence.default, _pack_fake)
    overlay.fake_kernel(_aten._thnn_fused_lstm_cell.default, _lstm_cell_fake)
    overlay.fake_kernel(_aten._thnn_fused_lstm_cell_backward_impl.default, _lstm_cell_backward_fake)
    overlay.fake_kernel(_aten._thnn_fused_gru_cell.default, _gru_cell_fake)
    overlay.fake_kernel(_aten._thnn_fused_gru_cell_backward.default, _gru_cell_backward_fake)
    original = torch.library.get_kernel("aten::_pack_padded_sequence", AUTOGRAD)

    def pack(keys: Any, x: Tensor, lengths: Tensor, batch_first: bool) -> Any:
        if on_device(x):
            return _Pack.apply(x, lengths, batch_first)
        return original.call_boxed(keys, x, lengths, batch_first)

    overlay.impl("_pack_padded_sequence", pack, AUTOGRAD, with_keyset=True)


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


# ------------------------------------------------------------ packed sequences


class _Pack(torch.autograd.Function):
    """Pack a padded batch. The lengths are read on the host, as torch reads them: they decide the shapes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Tensor, batch_first: bool) -> Any:
        counts = lengths.tolist()
        ctx.batch_sizes = [sum(1 for n in counts if n > t) for t in range(max(counts))]
        ctx.shape, ctx.batch_first = x.shape, batch_first
        with torch._C._AutoDispatchBelowAutograd():
            # The fake kernel is told the count of rows by the shape of its second argument.
            rows = torch.empty(sum(counts), dtype=torch.int64)
            packed, _ = _aten._pack_padded_sequence.default(x, rows, batch_first)
        sizes = torch.tensor(ctx.batch_sizes)
        ctx.mark_non_differentiable(sizes)
        return packed, sizes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dx = grads[0].new_zeros(ctx.shape)
        steps = dx.transpose(0, 1) if ctx.batch_first else dx
        place = 0
        for t, size in enumerate(ctx.batch_sizes):
            steps[t][:size].copy_(grads[0][place : place + size])
            place += size
        return dx, None, None


def _pack_fake(mode: FakeTensorMode, op: Any, x: Any, rows: Any, batch_first: bool) -> Any:
    return _made(mode, x, rows.numel(), *x.shape[2:]), _made(mode, rows, x.size(1 if batch_first else 0))


def _pad_packed(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """Pad a packed batch, block by block of steps that hold as many sequences."""
    sizes = batch_sizes.tolist()
    steps = total_length if total_length > 0 else len(sizes)
    output = torch.full((steps, sizes[0], *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    first = place = 0
    for t in range(1, len(sizes) + 1):
        size = sizes[first]
        if t < len(sizes) and sizes[t] == size:
            continue
        rows = (t - first) * size
        block = data[place : place + rows]
        output[first:t][:, :size].copy_(block.view(t - first, size, *data.shape[1:]))
        first, place = t, place + rows
    lengths = torch.tensor([sum(1 for s in sizes if s > i) for i in range(sizes[0])])
    return output.transpose(0, 1) if batch_first else output, lengths
