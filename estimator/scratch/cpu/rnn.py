"""LSTM layers on a CPU: oneDNN's copies of the weights, its scratchpad, and the workspace that it keeps for the backward.

Source: ATen/native/mkldnn/RNN.cpp, `mkldnn_rnn_layer`, `mkldnn_rnn_layer_backward`; ideep, operators/lstm.hpp, torch 2.13.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.onednn import (
    QUERY_ARGUMENT,
    QUERY_SCRATCHPAD,
    QUERY_WORKSPACE,
    Layout,
    OneDnn,
    interface,
    on_threads,
)  # fmt: skip
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule

_GATES = 4
_TRAINING, _INFERENCE, _BACKWARD = 64, 96, 128
"""Source: dnnl_types.h, `dnnl_prop_kind_t`."""
_WEIGHTS_LAYER, _WEIGHTS_ITER, _DIFF_WEIGHTS_LAYER, _DIFF_WEIGHTS_ITER, _DIFF_BIAS = 33, 34, 161, 162, 169
"""Source: dnnl_types.h, DNNL_ARG_*."""


class _Layer(NamedTuple):
    """A layer as oneDNN sees it."""

    dtype: str
    length: int
    batch: int
    input_size: int
    hidden_size: int
    reverse: bool

    def plain(self, *shape: int, dtype: str | None = None) -> Layout:
        strides, step = [], 1
        for size in reversed(shape):
            strides.append(step)
            step *= size
        return Layout(dtype or self.dtype, shape, tuple(reversed(strides)))

    def weights(self, size: int, *, free: bool, dtype: str | None = None) -> Layout:
        """Weights of the layer's input or state: in a format that oneDNN chooses, or as torch keeps them (ldgoi)."""
        hidden = self.hidden_size
        stride = (_GATES * hidden * size, _GATES * hidden * size, 1, hidden * size, size)
        return Layout(dtype or self.dtype, (1, 1, size, _GATES, hidden), None if free else stride)

    def states(self, dtype: str | None = None) -> list[Layout]:
        """Input, state and cell."""
        state = self.plain(1, 1, self.batch, self.hidden_size, dtype=dtype)
        return [self.plain(self.length, self.batch, self.input_size, dtype=dtype), state, state]

    def results(self, dtype: str | None = None) -> list[Layout]:
        state = self.plain(1, 1, self.batch, self.hidden_size, dtype=dtype)
        return [self.plain(self.length, self.batch, self.hidden_size, dtype=dtype), state, state]

    def bias(self, dtype: str | None = None) -> Layout:
        return self.plain(1, 1, _GATES, self.hidden_size, dtype=dtype)


class _Sizes(NamedTuple):
    """Bytes that a layer takes."""

    reorders: tuple[int, ...]
    gradients: tuple[int, ...]
    scratchpad: int
    workspace: int


@lru_cache(maxsize=4096)
def _sizes(layer: _Layer, kind: int, threads: int) -> _Sizes | None:
    dnnl = interface()
    if dnnl is None:
        return None
    found: list[_Sizes] = []

    def ask() -> int:
        found.extend(_asked(dnnl, layer, kind))
        return 0

    on_threads(threads, ask)
    return found[0] if found else None


def _asked(dnnl: OneDnn, layer: _Layer, kind: int) -> list[_Sizes]:
    direction = ctypes.c_int(2 if layer.reverse else 1)
    attributes = dnnl.attributes(add_to_result=False, scale_result=False)
    free = [dnnl.layout(layer.weights(size, free=True)) for size in (layer.input_size, layer.hidden_size)]
    given = [dnnl.layout(layer.weights(size, free=False)) for size in (layer.input_size, layer.hidden_size)]
    front = [*(dnnl.layout(s) for s in layer.states()), *free, None, None, dnnl.layout(layer.bias())]
    back = [dnnl.layout(r) for r in layer.results()]
    flags = ctypes.c_uint(0)
    forward_kind = ctypes.c_int(_INFERENCE if kind == _INFERENCE else _TRAINING)
    forward = dnnl.descriptor("dnnl_lstm_forward_primitive_desc_create", forward_kind, direction, *front, *back, flags, attributes)
    chosen = forward
    if kind == _BACKWARD and forward is not None:
        free32 = [dnnl.layout(layer.weights(size, free=True, dtype="float32")) for size in (layer.input_size, layer.hidden_size)]
        diffs = [
            *(dnnl.layout(s) for s in layer.states("float32")), *free32, None, None, dnnl.layout(layer.bias("float32")),
            *(dnnl.layout(r) for r in layer.results("float32")),
        ]  # fmt: skip
        chosen = dnnl.descriptor(
            "dnnl_lstm_backward_primitive_desc_create", ctypes.c_int(_BACKWARD), direction, *front, *back, *diffs, flags, forward, attributes
        )  # fmt: skip
    if chosen is None:
        return []
    pairs = zip((_WEIGHTS_LAYER, _WEIGHTS_ITER), given, strict=True)
    sizes = _Sizes(
        tuple(dnnl.bytes_of(chosen, QUERY_ARGUMENT, which) for which, as_given in pairs if dnnl.differs(chosen, QUERY_ARGUMENT, as_given, which)),
        tuple(dnnl.bytes_of(chosen, QUERY_ARGUMENT, which) for which in (_DIFF_WEIGHTS_LAYER, _DIFF_WEIGHTS_ITER, _DIFF_BIAS))
        if kind == _BACKWARD else (),
        dnnl.bytes_of(chosen, QUERY_SCRATCHPAD),
        dnnl.bytes_of(chosen, QUERY_WORKSPACE),
    )  # fmt: skip
    dnnl.destroy(chosen, *([forward] if forward is not chosen else []))
    return [sizes]


def _layer_of(x: TensorSpec, hidden_size: int, reverse: bool) -> _Layer:
    length, batch, input_size = x.shape
    return _Layer(x.dtype, length, batch, input_size, hidden_size, reverse)


@rule("aten.mkldnn_rnn_layer.default", kind="cpu")
def _forward(op: Op, target: Target) -> list[Scratch]:
    x, hidden_size = op.args[0], op.args[10]
    training = op.outputs[3].numel > 0
    sizes = _sizes(_layer_of(x, hidden_size, op.args[7]), _TRAINING if training else _INFERENCE, thread_count(target))
    call = Call()
    call.result(3)
    call.take(_GATES * hidden_size * x.itemsize)
    call.result()
    if sizes is None:
        return [*call.scratch(), *_unknown(op, training)]
    for size in sizes.reorders:
        call.take(size)
    call.take(sizes.scratchpad)
    workspace = [Scratch(sizes.workspace, result=3)] if training else []
    return [*workspace, *call.scratch()]


def _unknown(op: Op, training: bool) -> list[Scratch]:
    """Where oneDNN cannot be asked: gates and states of all times, once kept and once beside.

    Bound: the copies of the weights are at most twice as large as these, the states padded to half as much again.
    """
    x, hidden_size = op.args[0], op.args[10]
    kept = x.shape[0] * x.shape[1] * hidden_size * (_GATES + 2) * 4
    weights = 2 * sum(w.nbytes for w in op.args[1:3])
    beside = Scratch(kept + weights // 2, confidence="modelled", low_bytes=0, high_bytes=2 * kept + weights)
    workspace = Scratch(kept, result=3, confidence="modelled", low_bytes=kept // 2, high_bytes=2 * kept)
    return [workspace, beside] if training else [beside]


@rule("aten.mkldnn_rnn_layer_backward.default", kind="cpu")
def _backward(op: Op, target: Target) -> list[Scratch]:
    """Results come as (x, state, cell, weights, biases), the second of the equal biases at the end."""
    x, hx, cx, output = op.args[0], op.args[5], op.args[6], op.args[7]
    grads = op.args[10:13]
    hidden_size = op.args[15]
    call = Call()
    for grad, like in zip(grads, (output, hx, cx), strict=True):
        missing = not isinstance(grad, TensorSpec)
        call.take(like.nbytes if missing or not grad.is_contiguous else 0)
    call.take(_GATES * hidden_size * x.itemsize)
    call.result(6)
    if x.dtype != "float32":
        for like in (output, hx, cx):
            call.take(like.numel * 4)
    sizes = _sizes(_layer_of(x, hidden_size, op.args[13]), _BACKWARD, thread_count(target))
    if sizes is None:
        bound = 4 * sum(w.nbytes for w in op.args[1:3]) + x.shape[0] * x.shape[1] * hidden_size * (_GATES + 2) * 8
        call.take(bound // 2, confidence="modelled", low_bytes=0, high_bytes=bound)
    else:
        held = [call.take(size) for size in (*sizes.reorders, *sizes.gradients, sizes.scratchpad)]
        call.free(*held)
    call.result()
    return call.scratch()
