"""Matrix products: copies of operands that no BLAS takes as they lie, and oneDNN's scratchpad for 16-bit floats.

Source: ATen/native/LinearAlgebra.cpp, `addmm_impl_cpu_` (when an operand is cloned), `bmm_out_or_baddbmm_`;
ATen/native/CPUBlas.cpp, `gemm`; ATen/native/mkldnn/Matmul.cpp, `mkldnn_gemm`, `mkldnn_matmul`, torch 2.13.
float32 goes to MKL, whose buffers do not pass through PyTorch's allocator.
"""

from __future__ import annotations

from typing import NamedTuple

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.copies import transposing_bytes
from estimator.scratch.cpu.onednn import Layout, computes_in, matmul_bytes
from estimator.scratch.cpu.threads import thread_count
from estimator.scratch.registry import Scratch, rule

LEAST_WORK = 16 * 16 * 16
"""Multiplications up to which oneDNN is not called. Source: mkldnn/Matmul.cpp, `checksize`, `mkldnn_gemm`."""
_NATIVE_WORK = 400
"""Multiplications a batch item below which `bmm` uses a loop of its own. Source: `bmm_out_or_baddbmm_`."""


class _Matrix(NamedTuple):
    dtype: str
    shape: tuple[int, int]
    stride: tuple[int, int]

    @property
    def transposed(self) -> _Matrix:
        return _Matrix(self.dtype, self.shape[::-1], self.stride[::-1])

    @property
    def by_rows(self) -> bool:
        return self.stride[1] == 1 and self.stride[0] >= max(1, self.shape[1])

    @property
    def fits_blas(self) -> bool:
        return self.by_rows or self.transposed.by_rows


def _operand(call: Call, x: _Matrix, itemsize: int) -> _Matrix:
    """The operand as BLAS takes it; a clone by rows where it does not."""
    if x.fits_blas:
        return x
    call.take(x.shape[0] * x.shape[1] * itemsize)
    return _Matrix(x.dtype, x.shape, (x.shape[1], 1))


def _scratchpad(
    call: Call, layouts: tuple[Layout, Layout, Layout], target: Target, *, beta: float, alpha: float, typical: int
) -> None:
    """Tell oneDNN's scratchpad, with the scale of the result before it where there is one."""
    if alpha != 1:
        call.take(4)
    size = matmul_bytes(*layouts, threads=thread_count(target), add_to_result=beta != 0, scale_result=alpha != 1)
    if size is not None:
        call.take(size)
        return
    # Bound: copies of both operands and one float32 result are the most that its kernels keep.
    most = sum(_bytes(layout) for layout in layouts[:2]) + 2 * _bytes(layouts[2])
    call.take(min(most, typical), confidence="modelled", low_bytes=0, high_bytes=most)


def _bytes(layout: Layout) -> int:
    count = 2
    for size in layout.shape:
        count *= size
    return count


_TYPICAL_BYTES = 132096
"""A thread's share of the scratchpad of large products. Source: measured: 132,096 B a thread for 512x768x768 bfloat16 with
1, 2 and 8 threads (oneDNN 3.12, AVX-512 with bfloat16)."""


def product(call: Call, a: TensorSpec, b: TensorSpec, target: Target, *, beta: float = 0.0, alpha: float = 1.0) -> None:
    """Tell what `a @ b` of two matrices takes, the result aside."""
    (rows, inner), columns = a.shape, b.shape[1]
    left, right = _Matrix(a.dtype, a.shape, a.stride), _Matrix(b.dtype, b.shape, b.stride)  # type: ignore[arg-type]
    if columns == 1:  # a column: the product is worked out as it stands, else transposed
        left = _operand(call, left, a.itemsize)
    right = _operand(call, right, b.itemsize)
    left = _operand(call, left, a.itemsize)
    if rows * inner * columns <= LEAST_WORK or alpha == 0 or not computes_in(a.dtype):
        return
    if columns == 1:
        left, right, rows, columns = right.transposed, left.transposed, columns, rows
    layouts = (
        Layout(a.dtype, left.shape, left.stride), Layout(a.dtype, right.shape, right.stride),
        Layout(a.dtype, (rows, columns), (columns, 1)),
    )  # fmt: skip
    _scratchpad(call, layouts, target, beta=beta, alpha=alpha, typical=_TYPICAL_BYTES * thread_count(target))


@rule("aten.mm.default", kind="cpu")
def _mm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    product(call, op.args[0], op.args[1], target)
    return call.scratch()


@rule("aten.addmm.default", "aten.addmm_.default", kind="cpu")
def _addmm(op: Op, target: Target) -> list[Scratch]:
    """What is added is first copied into the result: a transposed matrix through a block."""
    call = Call()
    beta = op.kwargs.get("beta", 1)
    if op.name == "aten.addmm.default":
        call.result()
        added, result = op.args[0], op.outputs[0]
        if beta != 0 and added.shape == result.shape:
            call.passing(transposing_bytes(added, contiguous=result.is_contiguous, dtype=result.dtype))
    product(call, op.args[1], op.args[2], target, beta=beta, alpha=op.kwargs.get("alpha", 1))
    return call.scratch()


# ------------------------------------------------------------ batches


def _as_onednn_likes(x: TensorSpec) -> bool:
    batch, rows, columns = x.shape
    return x.is_contiguous or x.stride == (rows * columns, 1, rows)


def _batch_fits_blas(x: TensorSpec) -> bool:
    return _Matrix(x.dtype, x.shape[1:], x.stride[1:]).fits_blas  # type: ignore[arg-type]


def _plain(x: TensorSpec) -> tuple[int, ...]:
    """Strides of the batch as oneDNN gets it."""
    _, rows, columns = x.shape
    if x.is_contiguous or not _as_onednn_likes(x):
        return (rows * columns, columns, 1)
    return x.stride


def _batched(call: Call, a: TensorSpec, b: TensorSpec, target: Target, *, beta: float, alpha: float) -> None:
    batch, rows, inner = a.shape
    columns = b.shape[2]
    if batch * rows * inner * columns > LEAST_WORK and alpha != 0 and computes_in(a.dtype):
        for x in (a, b):
            call.take(0 if _as_onednn_likes(x) else x.nbytes)
        layouts = (
            Layout(a.dtype, a.shape, _plain(a)), Layout(a.dtype, b.shape, _plain(b)),
            Layout(a.dtype, (batch, rows, columns), (rows * columns, columns, 1)),
        )  # fmt: skip
        _scratchpad(call, layouts, target, beta=beta, alpha=alpha, typical=_TYPICAL_BYTES * thread_count(target))
    elif rows * inner * columns >= _NATIVE_WORK and not (_batch_fits_blas(a) and _batch_fits_blas(b)):
        # One product after the other: the clones of one item are gone before those of the next.
        for x in (a, b):
            call.take(0 if _batch_fits_blas(x) else x.nbytes // max(1, batch))


@rule("aten.bmm.default", kind="cpu")
def _bmm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    _batched(call, op.args[0], op.args[1], target, beta=0, alpha=1)
    return call.scratch()


@rule("aten.baddbmm.default", "aten.baddbmm_.default", kind="cpu")
def _baddbmm(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    if op.name == "aten.baddbmm.default":
        call.result()
    _batched(call, op.args[1], op.args[2], target, beta=op.kwargs.get("beta", 1), alpha=op.kwargs.get("alpha", 1))
    return call.scratch()


# ------------------------------------------------------------ vectors


@rule("aten.mv.default", "aten.addmv.default", "aten.dot.default", "aten.vdot.default", kind="cpu")
def _vector(op: Op, target: Target) -> list[Scratch]:
    """oneDNN takes a vector as a matrix of one column. Source: ATen/native/Blas.cpp."""
    a, b = op.args[1:3] if op.name == "aten.addmv.default" else op.args[:2]
    call = Call()
    call.result()
    if a.numel <= LEAST_WORK or not computes_in(a.dtype):
        return []
    rows, inner = a.shape if len(a.shape) == 2 else (1, a.shape[0])
    stride = a.stride if len(a.shape) == 2 else (inner, 1)
    layouts = (Layout(a.dtype, (rows, inner), stride), Layout(a.dtype, (inner, 1), (1, 1)), Layout(a.dtype, (rows, 1), (1, 1)))
    beta = argument(op, 3, "beta", 1) if op.name == "aten.addmv.default" else 0
    _scratchpad(call, layouts, target, beta=beta, alpha=1, typical=_TYPICAL_BYTES * thread_count(target))
    return call.scratch()
