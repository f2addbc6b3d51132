"""The order in which kernels allocate their results, where it is not the order in which they return them.

It decides which free block each result takes, and so what is reserved; the sizes are the same either way.
"""

from __future__ import annotations

from estimator.graph import Op

RESULT_ORDER: dict[str, tuple[int, ...]] = {
    # The mask is made before the result.
    # Source: dropout_cuda in aten/src/ATen/native/cuda/Dropout.cu; measured: histories of a simulated card, 2.11.
    "aten.native_dropout.default": (1, 0),
    # Sizes of the bags, which bag an index is in, then the result and what a maximum came from.
    # Source: `_embedding_bag_cuda` in aten/src/ATen/native/cuda/EmbeddingBag.cu; measured: the same histories.
    "aten._embedding_bag.default": (2, 1, 0, 3),
    "aten._embedding_bag_forward_only.default": (2, 1, 0, 3),
}
"""Numbers of the results of CUDA kernels in the order in which they are allocated."""

CPU_RESULT_ORDER: dict[str, tuple[int, ...]] = {
    # Source: ATen/native/Normalization.cpp, `batch_norm_backward_cpu_template`, 2.13.
    "aten.native_batch_norm_backward.default": (1, 2, 0),
    # Gradients of input, state, cell, weights and bias; the copy of the bias' gradient comes last.
    # Source: ATen/native/mkldnn/RNN.cpp, `mkldnn_rnn_layer_backward`, 2.13.
    "aten.mkldnn_rnn_layer_backward.default": (0, 5, 6, 1, 2, 3, 4),
}
"""The same of CPU kernels, where scratch lies between them."""


_CONVOLUTION_BACKWARD = "aten.convolution_backward.default"


def result_order(op: Op, kind: str = "cuda") -> tuple[int, ...] | None:
    """The order of an op's results on a kind of device, None where it is that of the return value."""
    if kind == "cpu" and op.name == _CONVOLUTION_BACKWARD and all(op.args[-1][1:]):
        # Input, bias, weights. Source: ATen/native/mkldnn/Conv.cpp, `mkldnn_convolution_backward_weights` (a tuple
        # whose members the compiler makes from the last on); measured with the profiler, 2.13.
        return (0, 2, 1) if op.args[-1][0] else (1, 0)
    return (CPU_RESULT_ORDER if kind == "cpu" else RESULT_ORDER).get(op.name)
