"""Softmax and its gradient.

Source: aten/src/ATen/native/cuda/SoftMax.cu, torch 2.11.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import dtype_name
from estimator.scratch.reduction import reduction
from estimator.scratch.registry import Scratch, rule


def _wider(first: str, second: str) -> int:
    """Bytes of an element of the product of two floating-point tensors."""
    return max(TensorSpec(first, (), ()).itemsize, TensorSpec(second, (), ()).itemsize)


@rule("aten._softmax.default", "aten._log_softmax.default")
def softmax(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of an input that is not."""
    self: TensorSpec = op.args[0]
    return [] if self.is_contiguous else [Scratch(self.nbytes)]


@rule("aten._softmax_backward_data.default")
def softmax_backward(op: Op, target: Target) -> list[Scratch]:
    """The product of gradient and output, which lies as the gradient does (an expanded one: as the output); contiguous
    copies of the product and of the output where they are not.

    Source: SoftMax.cu, `softmax_backward_cuda_out`; measured: simulated card, 2.11, each layout of either.
    """
    grad, output = op.args[:2]
    product = output.numel * _wider(grad.dtype, output.dtype)
    laid_as = output if 0 in grad.stride else grad
    copies = [] if laid_as.is_contiguous else [Scratch(product)]
    return [Scratch(product), *copies, *([] if output.is_contiguous else [Scratch(output.nbytes)])]


@rule("aten._log_softmax_backward_data.default")
def log_softmax_backward(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of a gradient that is not."""
    return [Scratch(spec.nbytes) for spec in op.args[:2] if not spec.is_contiguous]


@rule("aten._safe_softmax.default")
def safe_softmax(op: Op, target: Target) -> list[Scratch]:
    """Which elements and which rows are minus infinity.

    Source: aten/src/ATen/native/transformers/attention.cpp, `_safe_softmax`.
    """
    self: TensorSpec = op.args[0]
    dim = op.args[1] % len(self.shape)
    dtype = dtype_name(op.kwargs.get("dtype", op.args[2] if len(op.args) > 2 else None), self.dtype)
    copies = [] if self.is_contiguous else [Scratch(self.nbytes, freed_early=True)]
    mask = TensorSpec("bool", self.shape, self.stride)
    rows = self.numel // self.shape[dim] if self.numel else 0
    sums = reduction(mask, dim, target, out_dtype="bool", accumulator_bytes=1, keepdim=True)
    return [*copies, Scratch(mask.numel), Scratch(rows), *sums, Scratch(TensorSpec(dtype, (), ()).itemsize)]
