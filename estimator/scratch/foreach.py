"""Calls over lists of tensors: one number for each piece of each tensor.

Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu, torch 2.11.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, dtype_name, is_reduced
from estimator.scratch.reduction import vector_norm
from estimator.scratch.registry import Scratch, rule

_CHUNK = 65536
"""Elements of a piece.

Source: aten/src/ATen/native/cuda/MultiTensorApply.cuh, `kChunkSize`.
"""


def _takes_fast_path(tensors: tuple[TensorSpec, ...]) -> bool:
    """Whether all are of one type, without overlap, so that one kernel runs over the list.

    Source: aten/src/ATen/native/ForeachUtils.h, `can_use_fast_route`.
    """
    return all(t.dtype == tensors[0].dtype and 0 not in t.stride and _is_dense(t) for t in tensors)


def _is_dense(spec: TensorSpec) -> bool:
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(spec.stride, spec.shape, strict=True) if n != 1):
        if stride != expected:
            return spec.numel == 0
        expected *= size
    return True


def _pieces(tensors: tuple[TensorSpec, ...], item: int) -> int:
    """Bytes of one number for each piece of the longest, for each tensor."""
    return len(tensors) * max(-(-t.numel // _CHUNK) for t in tensors) * item


@rule("aten._foreach_norm.Scalar")
def foreach_norm(op: Op, target: Target) -> list[Scratch]:
    """Norms of pieces, before the results; one tensor after the other where the list is mixed.

    Source: ForeachReduceOp.cu, `foreach_tensor_norm_cuda`.
    """
    tensors: tuple[TensorSpec, ...] = op.args[0]
    order = float(argument(op, 1, "ord", 2))
    dtype = dtype_name(argument(op, 2, "dtype"), tensors[0].dtype)
    if _takes_fast_path(tensors) and order in (1.0, 2.0, float("inf")):
        wide = dtype if not is_reduced(tensors[0].dtype) else "float32"
        item = 8 if "float64" in (wide, tensors[0].dtype) else 4
        return [Scratch(_pieces(tensors, item), when="before")]
    found = []
    for place, spec in enumerate(tensors):
        one = Op("aten.linalg_vector_norm.default", (spec, order), dict(op.kwargs))
        found += [s._replace(results_before=place + 1) for s in vector_norm(one, target)]
    return found


@rule("aten._foreach_max.default")
def foreach_max(op: Op, target: Target) -> list[Scratch]:
    """Largest values of pieces.

    Source: ForeachReduceOp.cu, `foreach_tensor_max_cuda`.
    """
    tensors: tuple[TensorSpec, ...] = op.args[0]
    return [Scratch(_pieces(tensors, tensors[0].itemsize))] if _takes_fast_path(tensors) else []
