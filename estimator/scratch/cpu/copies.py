"""Copies: a block to transpose through, and inputs made contiguous.

Source: ATen/native/Copy.cpp, `copy_transpose_valid`, `copy_same_type_transpose_`, torch 2.13.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cpu.call import Call
from estimator.scratch.registry import Scratch, rule

_BLOCK, _BYTE_BLOCK = 60, 120
"""Side of the block; of tensors whose elements are one byte."""


def transposing_bytes(src: TensorSpec, *, contiguous: bool, dtype: str) -> int:
    """Bytes of the block through which a transposed matrix is copied into a contiguous one, 0 for other copies."""
    turned = len(src.shape) == 2 and src.stride[0] == 1 and src.stride[1] == src.shape[0]
    if not (turned and contiguous and src.dtype == dtype and src.numel >= _BLOCK * _BLOCK):
        return 0
    side = _BYTE_BLOCK if src.itemsize == 1 else _BLOCK
    return side * side * src.itemsize


def contiguous(call: Call, x: TensorSpec, *, dtype: str | None = None) -> int:
    """Tell what `x.contiguous()` takes; gives the copy's handle, -1 where `x` is contiguous already."""
    if x.is_contiguous:
        return -1
    copy = call.take(x.nbytes)
    call.passing(transposing_bytes(x, contiguous=True, dtype=dtype or x.dtype))
    return copy


@rule("aten.copy_.default", "aten.clone.default", "aten._to_copy.default", kind="cpu")
def _copy(op: Op, target: Target) -> list[Scratch]:
    src = op.args[1] if op.name == "aten.copy_.default" else op.args[0]
    dst = op.args[0] if op.name == "aten.copy_.default" else op.outputs[0]
    if src.shape != dst.shape:
        return []
    call = Call()
    if op.name != "aten.copy_.default":
        call.result()
    call.take(transposing_bytes(src, contiguous=dst.is_contiguous, dtype=dst.dtype))
    return call.scratch()
