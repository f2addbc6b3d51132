"""Matrix products: copies of operands that cuBLAS cannot read as they lie, then the library's workspace.

Source: aten/src/ATen/native/cuda/Blas.cpp, torch 2.11, where a rule names no other.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.blas import cublas, cublaslt
from estimator.scratch.registry import Scratch, rule


def _is_dense(spec: TensorSpec) -> bool:
    """Whether the elements lie without gaps or overlaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(spec.stride, spec.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _matrix_copy(spec: TensorSpec) -> list[Scratch]:
    """A contiguous copy of a matrix neither of whose dimensions is contiguous with room for the other.

    Source: aten/src/ATen/native/cuda/cuBlasCommonArgs.h, `prepare_matrix_for_cublas`.
    """
    (rows, columns), (row_stride, column_stride) = spec.shape, spec.stride
    fits = (
        _is_dense(spec)
        or (row_stride == 1 and column_stride >= max(1, rows))
        or (column_stride == 1 and row_stride >= max(1, columns))
    )
    return [] if fits else [Scratch(spec.nbytes)]


def _batch_copy(spec: TensorSpec, transposed: bool, m: int, n: int) -> list[Scratch]:
    """The same for a batch of matrices.

    Source: Blas.cpp, `prepare_batch_matrix_for_cublas`.
    """
    fast, leading = (2, 1) if transposed else (1, 2)
    stride = spec.stride
    fits = (
        (stride[fast] == 1 and stride[leading] >= max(1, m))
        or (stride[leading] == 1 and stride[fast] >= max(1, n))
        or (spec.is_contiguous and stride[1] != 0 and stride[2] != 0)
    )
    return [] if fits else [Scratch(spec.nbytes)]


def _uses_lt(op: Op, bias: TensorSpec, mat1: TensorSpec, mat2: TensorSpec) -> bool:
    """Whether `addmm` adds the bias inside the product: a row vector, and a matrix of more than one row and column.

    Source: Blas.cpp, `isInputCompliesAddmmCudaLt`; measured on 2.11.
    """
    return (
        argument(op, 3, "beta", 1) == 1
        and (len(bias.shape) == 1 or (len(bias.shape) == 2 and bias.shape[0] == 1))
        and bias.shape[-1] == mat2.shape[1]
        and bias.is_contiguous
        and mat2.shape[0] > 1
        and mat2.shape[1] > 1
    )


@rule("aten.mm.default", "aten.mm.dtype")
def mm(op: Op, target: Target) -> list[Scratch]:
    """Copies of the operands, the second first since cuBLAS computes the transposed product; a workspace."""
    mat1, mat2 = op.args[0], op.args[1]
    if 0 in (*mat1.shape, *mat2.shape):
        return []
    return [*_matrix_copy(mat2), *_matrix_copy(mat1), *cublas(op, target)]


@rule("aten.addmm.default", "aten.addmm_.default", "aten._addmm_activation.default")
def addmm(op: Op, target: Target) -> list[Scratch]:
    """The same through cuBLASLt where the bias is a row vector."""
    bias, mat1, mat2 = op.args[:3]
    if 0 in (*mat1.shape, *mat2.shape):
        return []
    library = cublaslt if _uses_lt(op, bias, mat1, mat2) else cublas
    copies = [*_matrix_copy(mat2), *_matrix_copy(mat1)]
    if op.name == "aten.addmm_.default" and _transposes_result(bias):
        copies.reverse()
    return [*copies, *library(op, target)]


def _transposes_result(result: TensorSpec) -> bool:
    """Whether a result given by the caller lies column by column, so that the product is computed as written."""
    return not result.is_contiguous and result.stride[0] == 1


@rule("aten.bmm.default", "aten.bmm.dtype", "aten.baddbmm.default", "aten.baddbmm.dtype", "aten.baddbmm_.default")
def bmm(op: Op, target: Target) -> list[Scratch]:
    """Products of batches."""
    first = 0 if op.name.startswith("aten.bmm") else 1
    batch1, batch2 = op.args[first], op.args[first + 1]
    if 0 in (*batch1.shape, *batch2.shape):
        return []
    result = op.args[0] if op.name == "aten.baddbmm_.default" else op.outputs[0]
    copies: list[Scratch] = []
    rows, columns = result.shape[1:]
    transposed = False
    if result.stride[1] == 1 and (columns == 1 or result.stride[2] >= max(1, rows)):
        pass
    elif result.stride[2] == 1 and (rows == 1 or result.stride[1] >= max(1, columns)):
        transposed = True
    else:
        copies.append(Scratch(result.nbytes))
    left, right = (batch2, batch1) if transposed else (batch1, batch2)
    leading = 1 if transposed else 2
    m, n, k = result.shape[2 if transposed else 1], result.shape[leading], left.shape[leading]
    return [*copies, *_batch_copy(left, transposed, m, k), *_batch_copy(right, transposed, k, n), *cublas(op, target)]


@rule("aten.addbmm.default")
def addbmm(op: Op, target: Target) -> list[Scratch]:
    """One product after the other, each added to the result; copies live as long as their product.

    Source: aten/src/ATen/native/LinearAlgebra.cpp, `addbmm_impl_`.
    """
    batch1, batch2 = op.args[1], op.args[2]
    if 0 in (*batch1.shape, *batch2.shape):
        return []
    copies = [
        *_matrix_copy(TensorSpec(batch2.dtype, batch2.shape[1:], batch2.stride[1:])),
        *_matrix_copy(TensorSpec(batch1.dtype, batch1.shape[1:], batch1.stride[1:])),
    ]
    through_lt = batch1.shape[1] == 1 and batch1.shape[2] > 1 and batch2.shape[2] > 1  # the result is the row vector
    workspace = (cublaslt if through_lt else cublas)(op, target)
    found: list[Scratch] = []
    for _ in range(batch1.shape[0]):
        entries = [*copies, *workspace]
        found += [s if s.key else s._replace(freed_after=len(entries) - 1 - i) for i, s in enumerate(entries)]
    return found


@rule("aten.mv.default", "aten.addmv.default", "aten.addmv_.default")
def mv(op: Op, target: Target) -> list[Scratch]:
    """Matrix by vector; an expanded vector is copied, and a matrix that cuBLAS cannot read.

    Source: aten/src/ATen/native/cuda/Blas.cpp, `addmv_out_cuda`.
    """
    mat, vec = op.args[:2] if op.name == "aten.mv.default" else op.args[1:3]
    if 0 in mat.shape:
        return []
    found = [Scratch(vec.nbytes)] if vec.stride[0] == 0 and vec.shape[0] != 1 else []
    rows, columns = mat.shape
    reads = (mat.stride[0] == 1 and mat.stride[1] >= max(1, rows)) or (
        mat.stride[1] == 1 and mat.stride[0] >= max(1, columns)
    )
    if not reads and not mat.is_contiguous:
        found.append(Scratch(mat.nbytes))
    return [*found, *cublas(op, target)]


@rule("aten.dot.default", "aten.vdot.default")
def dot(op: Op, target: Target) -> list[Scratch]:
    """Vector by vector."""
    return cublas(op, target) if op.args[0].numel else []


@rule("aten._int_mm.default")
def int_mm(op: Op, target: Target) -> list[Scratch]:
    """8-bit integers; cuBLASLt is called without a workspace of its own.

    Source: aten/src/ATen/cuda/CUDABlas.cpp, `int8_gemm`; measured on 2.11.
    """
    return cublas(op, target)


@rule("aten._scaled_mm.default")
def scaled_mm(op: Op, target: Target) -> list[Scratch]:
    """8-bit floats through cuBLASLt."""
    return cublaslt(op, target)
