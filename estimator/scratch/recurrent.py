"""Recurrent networks by cuDNN: copies for batch-first input, and cuDNN's work space.

The sizes of cuDNN's work and reserve space need a card to ask; they are estimates here.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.reduction import dense_stride
from estimator.scratch.registry import Scratch, rule

_GATES = {0: 1, 1: 1, 2: 4, 3: 3}
"""Gates by `cudnnRNNMode_t`: ReLU, tanh, LSTM, GRU."""


def _work(self: TensorSpec, batch_sizes: tuple[int, ...], mode: int, hidden: int, layers: int, both: bool) -> Scratch:
    """One array of gate activations of the whole sequence; what cuDNN takes may be that of every layer and direction.

    Of a packed batch all sequences count as long as the longest.
    Source: cuDNN API reference, `cudnnGetRNNTempSpaceSizes`: sizes follow the longest sequence and the batch size.
    Bound: from one half to twice what all layers and directions would take; not measured.
    """
    cells = len(batch_sizes) * batch_sizes[0] if batch_sizes else self.shape[0] * self.shape[1]
    one = cells * hidden * _GATES.get(mode, 4) * self.itemsize
    return Scratch(one, confidence="assumed", low_bytes=one // 2, high_bytes=2 * one * layers * (2 if both else 1))


@rule("aten._cudnn_rnn.default")
def cudnn_rnn(op: Op, target: Target) -> list[Scratch]:
    """The input with time first, then the work space; the reserve space is a result.

    Source: aten/src/ATen/native/cudnn/RNN.cpp, `_cudnn_rnn`, torch 2.11.
    """
    self, mode, hidden, layers = op.args[0], op.args[6], op.args[7], op.args[9]
    batch_first, both, batch_sizes = op.args[10], op.args[13], op.args[14]
    found = [Scratch(self.nbytes, when="before")] if batch_first and not batch_sizes else []
    made = sum(1 for spec in op.outputs[:3] if spec.numel) + (op.args[3] is None)
    return [*found, *_reserve(op, mode), _work(self, batch_sizes, mode, hidden, layers, both)._replace(results_before=made)]


def _reserve(op: Op, mode: int) -> list[Scratch]:
    """The reserve space, which is a result: its bounds.

    Bound: assumed. At least what the gates leave, at most twice gates and cell; cuDNN says the size on a card alone.
    """
    size = op.outputs[3].nbytes
    gates = _GATES.get(mode, 4)
    low = size * gates // (gates + 1)
    return [Scratch(size, confidence="assumed", result=3, low_bytes=low, high_bytes=2 * size)] if size else []


def _dense(x: TensorSpec) -> TensorSpec:
    return x._replace(stride=dense_stride(x))


def _time_first(x: TensorSpec, turns: bool) -> TensorSpec:
    """As cuDNN takes it: (time, batch, features)."""
    if not turns:
        return x
    return x._replace(shape=(x.shape[1], x.shape[0], *x.shape[2:]), stride=(x.stride[1], x.stride[0], *x.stride[2:]))


@rule("aten._cudnn_rnn_backward.default")
def cudnn_rnn_backward(op: Op, target: Target) -> list[Scratch]:
    """Zeros for gradients of outputs and states that nobody used, copies of input and gradient with time first, the work
    space twice.

    Source: RNN.cpp, `_cudnn_rnn_backward`, `_cudnn_rnn_backward_input`, `_cudnn_rnn_backward_weight`.
    """
    self, hx, cx, grad_hy, grad_cy = op.args[0], op.args[4], op.args[5], op.args[8], op.args[9]
    mode, hidden, layers, batch_first, both, batch_sizes = (op.args[n] for n in (10, 11, 13, 14, 17, 18))
    output, grad_output = op.args[6], op.args[7]
    results = ((output, grad_output), (hx, grad_hy), (cx, grad_cy))
    found = [Scratch(s.nbytes, when="before") for s, given in results if s is not None and given is None]
    packed = bool(batch_sizes)
    copies = batch_first and not packed
    work = _work(self, batch_sizes, mode, hidden, layers, both)
    inputs = 2 + (cx is not None)
    grad_is_dense = _time_first(grad_output or _dense(output), copies).is_contiguous
    if copies:
        found.append(Scratch(self.nbytes, when="before", freed_after=1 if grad_is_dense else 2))
    if not grad_is_dense:
        found.append(Scratch(output.nbytes, when="before", freed_after=1))
    found.append(work._replace(freed_early=True, results_before=inputs))
    if copies:
        found.append(Scratch(self.nbytes, results_before=inputs))
    return [*found, work._replace(freed_early=True)]
