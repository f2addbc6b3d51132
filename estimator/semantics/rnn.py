"""RNN, LSTM and GRU by cuDNN: one flat weight buffer, a reserve space kept for the backward pass.

Source: aten/src/ATen/native/cudnn/RNN.cpp, aten/src/ATen/cudnn/AutocastRNN.cpp, torch/nn/modules/rnn.py, 2.11;
sequence of ops measured against the 2.11 CUDA build.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from estimator.semantics.autocast import Autocast
from estimator.semantics.overlay import AUTOCAST, DEVICE, Overlay, composite_of, fake_tensor, on_device

_aten = torch.ops.aten
GATES = {0: 1, 1: 1, 2: 4, 3: 3}
"""Gates of a cell by cuDNN's mode: ReLU, tanh, LSTM, GRU."""
_MODES = {"rnn_relu": 0, "rnn_tanh": 1, "lstm": 2, "gru": 3}
_MODULE_MODES = {"RNN_RELU": 0, "RNN_TANH": 1, "LSTM": 2, "GRU": 3}
_LSTM = 2
DROPOUT_STATE_BYTES = 1 << 20
"""States of cuDNN's dropout. Bound: unknown; the size depends on the device and is asked of cuDNN there."""


class Cell(NamedTuple):
    """What every recurrent op is told besides its tensors."""

    mode: int
    has_biases: bool
    num_layers: int
    dropout: float
    train: bool
    bidirectional: bool
    batch_first: bool


def install(overlay: Overlay, autocast: Autocast) -> None:
    """Lay cuDNN's recurrent networks over the trace."""
    rnn = Recurrent(overlay)
    for name, mode in _MODES.items():
        overlay.composite(f"{name}.input", rnn.of_padded(name, mode))
        overlay.composite(f"{name}.data", rnn.of_packed(name, mode))
    overlay.fake_kernel(_aten._cudnn_rnn_flatten_weight.default, _flatten_fake)
    overlay.fake_kernel(_aten._cudnn_rnn.default, _rnn_fake)
    overlay.fake_kernel(_aten._cudnn_rnn_backward.default, _rnn_backward_fake)
    overlay.impl("_cudnn_rnn", _autocast_rnn(autocast), AUTOCAST)
    overlay.patch(nn.RNNBase, "flatten_parameters", _flatten_parameters)


class Recurrent:
    """The composite ops `lstm`, `gru`, `rnn_tanh` and `rnn_relu`."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._dropout_state: Tensor | None = None  # made once, kept for the life of the process

    def of_padded(self, name: str, mode: int) -> Any:
        """The op on a padded batch."""
        op = getattr(_aten, name).input

        def kernel(x: Tensor, hidden: Any, params: Sequence[Tensor], *cell: Any) -> Any:
            if not _acceptable(x):
                self._overlay.warn("rnn-without-cudnn", f"{name} without cuDNN is traced as composed ops; CUDA fuses its cells")
                return composite_of(op)(x, hidden, params, *cell)
            return self._run(x, [], hidden, params, Cell(mode, *cell))

        return kernel

    def of_packed(self, name: str, mode: int) -> Any:
        """The op on a packed batch; how many sequences reach each step is read on the host, as torch does."""
        op = getattr(_aten, name).data

        def kernel(data: Tensor, batch_sizes: Tensor, hidden: Any, params: Sequence[Tensor], *cell: Any) -> Any:
            if not _acceptable(data):
                self._overlay.warn("rnn-without-cudnn", f"{name} without cuDNN is traced as composed ops; CUDA fuses its cells")
                return composite_of(op)(data, batch_sizes, hidden, params, *cell)
            return self._run(data, batch_sizes.tolist(), hidden, params, Cell(mode, *cell, False))

        return kernel

    def _run(self, x: Tensor, batch_sizes: list[int], hidden: Any, params: Sequence[Tensor], cell: Cell) -> Any:
        self._overlay.warn(
            "cudnn-rnn", "the reserve space of cuDNN's recurrent networks is modelled from shapes; cuDNN's own size may differ"
        )
        hx, cx = hidden if isinstance(hidden, (list, tuple)) else (hidden, None)
        size, projected = hx.size(2), 0
        if cx is not None and cx.size(2) != hx.size(2):
            size, projected = cx.size(2), hx.size(2)
        stride = (4 if cell.has_biases else 2) + (1 if projected else 0)
        state = self._state() if cell.train and cell.dropout > 0 else None
        output, hy, cy, _, _ = _aten._cudnn_rnn.default(
            x, params, stride, _flat_buffer(params), hx, cx, cell.mode, size, projected, cell.num_layers, cell.batch_first,
            cell.dropout, cell.train, cell.bidirectional, batch_sizes, state,
        )  # fmt: skip
        return (output, hy) if cx is None else (output, hy, cy)

    def _state(self) -> Tensor:
        if self._dropout_state is None:
            self._dropout_state = torch.empty(DROPOUT_STATE_BYTES, dtype=torch.uint8, device=DEVICE)
        return self._dropout_state


def _acceptable(x: Tensor) -> bool:
    """Source: `cudnn_is_acceptable` in aten/src/ATen/native/cudnn (2.11 takes bfloat16 too: measured)."""
    known = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return torch.backends.cudnn.enabled and x.dtype in known and x.numel() > 0


def _flat_buffer(params: Sequence[Tensor]) -> Tensor | None:
    """All weights as one tensor, if they lie in one storage; else cuDNN's wrapper copies them at each call."""
    storage = params[0].untyped_storage()
    if any(p.untyped_storage()._cdata != storage._cdata for p in params):
        return None
    return params[0].detach().as_strided((storage.nbytes() // params[0].element_size(),), (1,), 0)


def _flat_count(params: Sequence[Tensor], mode: int, hidden_size: int, states: int) -> int:
    """Elements of the flat buffer: cuDNN keeps room for two biases a gate even where the network has none."""
    weights = sum(p.numel() for p in params if p.dim() > 1)
    return weights + 2 * GATES[mode] * hidden_size * states


def _flatten_parameters(self: nn.RNNBase) -> None:
    """Move the weights into one buffer, as the true method does for CUDA parameters of a type that cuDNN's Python
    interface knows (not bfloat16)."""
    weights = self._flat_weights
    names = self._flat_weights_names
    # On meta: a model that is being built there stands for one that is built on the device.
    if len(weights) != len(names) or not weights or not all(on_device(w) or w.is_meta for w in weights):
        return
    first = weights[0]
    if first.dtype not in (torch.float16, torch.float32, torch.float64) or any(w.dtype is not first.dtype for w in weights):
        return
    if len({id(w) for w in weights}) != len(weights) or not torch.backends.cudnn.enabled:
        return
    if _flat_buffer(weights) is not None and len(weights) > 1:
        return
    stride = (4 if self.bias else 2) + (1 if self.proj_size > 0 else 0)
    with torch.no_grad():
        if first.is_meta and not isinstance(first, FakeTensor):
            states = self.num_layers * (2 if self.bidirectional else 1)
            count = _flat_count(weights, _MODULE_MODES[self.mode], self.hidden_size, states)
            buffer = torch.empty(count, dtype=first.dtype, device=first.device)
        else:
            buffer = _aten._cudnn_rnn_flatten_weight.default(
                weights, stride, self.input_size, _MODULE_MODES[self.mode], self.hidden_size, self.proj_size,
                self.num_layers, self.batch_first, bool(self.bidirectional),
            )  # fmt: skip
        for w, place in zip(weights, _places(weights, stride), strict=True):
            w.data = buffer[place : place + w.numel()].view(w.shape)


def _places(weights: Sequence[Tensor], stride: int) -> list[int]:
    """Where each parameter begins: the matrices of all layers first, then their biases."""
    places = [0] * len(weights)
    place = 0
    for is_matrix in (True, False):
        for i, w in enumerate(weights):
            if (w.dim() > 1) is is_matrix:
                places[i], place = place, place + w.numel()
    return places


# ------------------------------------------------------------ autocast


def _autocast_rnn(state: Autocast) -> Any:
    """Cast weights into a new flat half buffer at each call, and inputs to half, whatever autocast's dtype is.

    Source: `_cudnn_rnn_cast_reflatten`, 2.11.
    """
    below = torch._C._ExcludeDispatchKeyGuard
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
    half = torch.float16

    def kernel(x: Tensor, weight: Sequence[Tensor], stride: int, buffer: Any, hx: Any, cx: Any, *rest: Any) -> Any:
        with below(key):
            if any(w.dtype is torch.float32 for w in weight):
                with torch.no_grad():
                    mode, size, states = rest[0], rest[1], rest[3] * (2 if rest[7] else 1)
                    buffer = torch.zeros(_flat_count(weight, mode, size, states), dtype=half, device=weight[0].device)
                parts = zip(weight, _places(weight, stride), strict=True)
                weight = [_copied(buffer[place : place + w.numel()], w) for w, place in parts]
            cx = state.cast(cx, half)
            hx = state.cast(hx, half)
            x = state.cast(x, half)
            return _aten._cudnn_rnn.default(x, weight, stride, buffer, hx, cx, *rest)

    return kernel


def _copied(part: Tensor, weight: Tensor) -> Tensor:
    """Copy a weight into its part of the flat buffer, so that gradients find their way back."""
    part = part.view(-1, 1).detach()
    return part.copy_(weight.reshape(part.shape))


# ------------------------------------------------------------ fake kernels


def _made(mode: FakeTensorMode, x: Any, shape: Sequence[int], dtype: torch.dtype | None = None) -> Any:
    return fake_tensor(mode, torch.empty(tuple(shape), dtype=dtype or x.dtype, device="meta"), x.fake_device)


def _rnn_fake(
    mode: FakeTensorMode, op: Any, x: Any, weight: Any, stride: int, buffer: Any, hx: Any, cx: Any, cell_mode: int, hidden_size: int,
    proj_size: int, num_layers: int, batch_first: bool, dropout: float, train: bool, bidirectional: bool, batch_sizes: Any, state: Any,
) -> Any:  # fmt: skip
    directions = 2 if bidirectional else 1
    features = (proj_size or hidden_size) * directions
    if batch_sizes:
        steps, batch = len(batch_sizes), batch_sizes[0]
        output = _made(mode, x, (x.size(0), features))
    else:
        steps, batch = (x.size(1), x.size(0)) if batch_first else (x.size(0), x.size(1))
        meta = torch.empty((steps, batch, features), dtype=x.dtype, device="meta")
        output = fake_tensor(mode, meta.transpose(0, 1) if batch_first else meta, x.fake_device)
    states = num_layers * directions
    hy = _made(mode, x, (states, batch, proj_size or hidden_size))
    cy = _made(mode, x, (states, batch, hidden_size) if cell_mode == _LSTM else (0,))
    reserve = reserve_bytes(cell_mode, steps, batch, hidden_size, states, x.element_size()) if train else 0
    if buffer is None:
        buffer = _made(mode, x, (_flat_count(weight, cell_mode, hidden_size, states),))
    return output, hy, cy, _made(mode, x, (reserve,), torch.uint8), buffer


def _flatten_fake(
    mode: FakeTensorMode, op: Any, weight: Any, stride: int, input_size: int, cell_mode: int, hidden_size: int, proj_size: int,
    num_layers: int, batch_first: bool, bidirectional: bool,
) -> Any:  # fmt: skip
    states = num_layers * (2 if bidirectional else 1)
    return _made(mode, weight[0], (_flat_count(weight, cell_mode, hidden_size, states),))


def reserve_bytes(mode: int, steps: int, batch: int, hidden_size: int, states: int, itemsize: int) -> int:
    """Reserve space of a training pass: what every gate and the cell leave at every step.

    Bound: unknown sign. cuDNN computes the size on the device and may keep less or align it.
    """
    return steps * batch * hidden_size * states * itemsize * (GATES[mode] + 1)


def _rnn_backward_fake(
    mode: FakeTensorMode, op: Any, x: Any, weight: Any, stride: int, buffer: Any, hx: Any, cx: Any, *args: Any, **kwargs: Any
) -> Any:
    """Gradients of the weights are views of one flat buffer."""
    mask = args[-1]
    batch_first, batch_sizes = args[8], args[12]
    dx = _made(mode, x, x.shape)
    if batch_first and not batch_sizes:
        meta = torch.empty((x.size(1), x.size(0), x.size(2)), dtype=x.dtype, device="meta")
        dx = fake_tensor(mode, meta.transpose(0, 1), x.fake_device)
    dhx = _made(mode, x, hx.shape)
    dcx = _made(mode, x, cx.shape) if cx is not None else None
    grads: list[FakeTensor] = []
    if mask[3]:
        flat = torch.empty(buffer.shape, dtype=x.dtype, device="meta")
        for w, place in zip(weight, _places(weight, stride), strict=True):
            grads.append(fake_tensor(mode, flat[place : place + w.numel()].view(w.shape), x.fake_device))
    return dx, dhx, dcx, grads
