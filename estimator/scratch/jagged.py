"""Padded tensors made jagged again: the gradient of `to_padded_tensor`, and softmax over jagged dimensions.

Source: aten/src/ATen/native/nested/cuda/NestedTensorTransformerFunctions.cu, `_fbgemm_dense_to_jagged_forward_symint`; measured:
allocator history of PyTorch 2.11's CUDA build (simulated card, 8.0).
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op
from estimator.scratch.registry import Scratch, rule


@rule("aten._padded_dense_to_jagged_forward.default")
def to_jagged(op: Op, target: Target) -> list[Scratch]:
    """Values as many as the result's, which stand for the jagged operand of a kernel that takes two."""
    return [Scratch(op.outputs[0].nbytes, when="before")]
