"""Reductions: sum, mean, norms, variance, extrema, any and all."""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, dtype_name, is_integral, is_reduced, reduced_dims
from estimator.scratch.iterator import reduce_iterator
from estimator.scratch.reduce_kernel import reduce_scratch
from estimator.scratch.registry import Scratch, rule


def reduction(
    self: TensorSpec,
    dim: object,
    target: Target,
    *,
    out_dtype: str,
    accumulator_bytes: int,
    keepdim: bool = False,
    input_vector: int = 4,
    accumulates_in_output: bool = True,
) -> list[Scratch]:
    """What one `gpu_reduce_kernel` over dimensions `dim` of `self` takes; the building block of the rules."""
    ndim = len(self.shape)
    out_bytes = TensorSpec(out_dtype, (), ()).itemsize
    layout = reduce_iterator(self.shape, self.stride, self.itemsize, out_bytes, reduced_dims(dim, ndim), keepdim)
    return reduce_scratch(
        layout, self.itemsize, accumulator_bytes, target.device, input_vector=input_vector,
        max_threads=256 if self.dtype == "complex128" else 512, accumulates_in_output=accumulates_in_output,
        output_itemsize=out_bytes,
    )  # fmt: skip


def cast(self: TensorSpec, dtype: str) -> tuple[TensorSpec, list[Scratch]]:
    """`self.to(dtype)` inside an op: the tensor to go on with, and the copy if there is one."""
    if self.dtype == dtype:
        return self, []
    copy = TensorSpec(dtype, self.shape, dense_stride(self))
    return copy, [Scratch(copy.nbytes)]


def contiguous(self: TensorSpec) -> TensorSpec:
    """The tensor as `contiguous()` would lay it out."""
    stride, step = [0] * len(self.shape), 1
    for d in range(len(self.shape) - 1, -1, -1):
        stride[d] = step
        step *= max(1, self.shape[d])
    return TensorSpec(self.dtype, self.shape, tuple(stride))


def dense_stride(self: TensorSpec) -> tuple[int, ...]:
    """Strides of a copy that preserves the order of dimensions (`torch.preserve_format`).

    Source: c10/core/TensorImpl.h and aten/src/ATen/ExpandUtils.cpp, `infer_dense_strides_dim_last_packed`.
    """
    ordered = sorted(range(len(self.shape)), key=lambda d: (self.stride[d], self.shape[d], d), reverse=False)
    stride, step = [0] * len(self.shape), 1
    for d in ordered:
        stride[d] = step
        step *= max(1, self.shape[d])
    return tuple(stride)


def in_and_out_dtype(self: TensorSpec, out_dtype: str) -> str:
    """Dtype in which the kernel reads: 16-bit floats are read as they are where the result is float32.

    Source: aten/src/ATen/native/ReduceOpsUtils.h, `make_reduction_from_out_ty`.
    """
    return self.dtype if is_reduced(self.dtype) and out_dtype == "float32" else out_dtype


def _sum_like(op: Op, target: Target, dim: object, keepdim: bool, given: object, promote: bool) -> list[Scratch]:
    self: TensorSpec = op.args[0]
    out = dtype_name(given, "int64" if promote and is_integral(self.dtype) else self.dtype)
    source, copies = cast(self, in_and_out_dtype(self, out))
    acc = 4 if is_reduced(source.dtype) else source.itemsize
    return copies + reduction(
        source, dim, target, out_dtype=out, accumulator_bytes=acc, keepdim=keepdim,
        accumulates_in_output=not (is_reduced(source.dtype) and out == source.dtype),
    )  # fmt: skip


@rule("aten.sum.dim_IntList", "aten.nansum.default")
def sum_over_dims(op: Op, target: Target) -> list[Scratch]:
    """Sum over dimensions; integers are first copied to int64.

    Source: aten/src/ATen/native/ReduceOps.cpp `sum_out`, cuda/ReduceSumProdKernel.cu.
    """
    dim, keepdim = argument(op, 1, "dim"), argument(op, 2, "keepdim", False)
    return _sum_like(op, target, dim, keepdim, op.kwargs.get("dtype"), promote=True)


@rule("aten.sum.default")
def sum_all(op: Op, target: Target) -> list[Scratch]:
    """Sum of all elements."""
    return _sum_like(op, target, None, False, op.kwargs.get("dtype"), promote=True)


@rule("aten.mean.default")
def mean_all(op: Op, target: Target) -> list[Scratch]:
    """Mean of all elements."""
    return _sum_like(op, target, None, False, op.kwargs.get("dtype"), promote=False)


@rule("aten.mean.dim")
def mean_over_dims(op: Op, target: Target) -> list[Scratch]:
    """Mean over dimensions: a sum with a factor, without the promotion of integers."""
    dim, keepdim = argument(op, 1, "dim"), argument(op, 2, "keepdim", False)
    return _sum_like(op, target, dim, keepdim, op.kwargs.get("dtype"), promote=False)


@rule("aten.prod.default", "aten.prod.dim_int")
def product(op: Op, target: Target) -> list[Scratch]:
    """Product; integers are first copied to int64.

    Source: aten/src/ATen/native/ReduceOps.cpp `impl_func_prod`.
    """
    whole = op.name == "aten.prod.default"
    dim = None if whole else argument(op, 1, "dim")
    keepdim = False if whole else argument(op, 2, "keepdim", False)
    return _sum_like(op, target, dim, keepdim, op.kwargs.get("dtype"), promote=True)


@rule("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def count_nonzero(op: Op, target: Target) -> list[Scratch]:
    """A mask, its copy in int64, and the sum of that.

    Source: aten/src/ATen/native/TensorAdvancedIndexing.cpp `count_nonzero_cuda`.
    """
    self: TensorSpec = op.args[0]
    dim = argument(op, 1, "dim") if op.name.endswith("dim_IntList") else None
    mask = TensorSpec("bool", self.shape, dense_stride(self))
    wide, copy = cast(mask, "int64")
    return [Scratch(mask.nbytes, when="before"), *copy,
            *reduction(wide, dim, target, out_dtype="int64", accumulator_bytes=8)]  # fmt: skip


@rule("aten.linalg_vector_norm.default")
def vector_norm(op: Op, target: Target) -> list[Scratch]:
    """A norm, accumulated in float32 for 16-bit floats.

    Source: aten/src/ATen/native/LinearAlgebra.cpp `linalg_vector_norm_out`, cuda/ReduceNormKernel.cu.
    """
    self: TensorSpec = op.args[0]
    out = dtype_name(op.kwargs.get("dtype"), self.dtype)
    dim, keepdim = argument(op, 2, "dim"), argument(op, 3, "keepdim", False)
    if self.shape and all(self.shape[d] == 1 for d in reduced_dims(dim, len(self.shape))):
        return cast(self, out)[1]  # nothing to add up: the absolute values
    source, copies = cast(self, in_and_out_dtype(self, out))
    acc = 4 if is_reduced(source.dtype) else source.itemsize
    return copies + reduction(
        source, dim, target, out_dtype=out, accumulator_bytes=acc, keepdim=keepdim,
        accumulates_in_output=not (is_reduced(source.dtype) and out == source.dtype),
    )  # fmt: skip


@rule(
    "aten.std.correction", "aten.std.dim", "aten.std.default",
    "aten.var.correction", "aten.var.dim", "aten.var.default",
    "aten.std_mean.correction", "aten.var_mean.correction", "aten.std_mean.dim", "aten.var_mean.dim",
)  # fmt: skip
def variance(op: Op, target: Target) -> list[Scratch]:
    """Welford's running mean, sum of squares and two counts for each partial result.

    Source: aten/src/ATen/native/SharedReduceOps.h `WelfordData`, cuda/ReduceMomentKernel.cu `std_var_kernel_impl`.
    """
    self: TensorSpec = op.args[0]
    whole = op.name.endswith(".default")
    dim = None if whole else argument(op, 1, "dim")
    keepdim = op.kwargs.get("keepdim", argument(op, 3, "keepdim", False) if op.name.endswith(".dim") else False)
    return reduction(
        self, dim, target, out_dtype=self.dtype, accumulator_bytes=32 if self.dtype == "float64" else 16,
        keepdim=keepdim, input_vector=2, accumulates_in_output=False,
    )  # fmt: skip


@rule("aten.any.default", "aten.any.dim", "aten.any.dims", "aten.all.default", "aten.all.dim", "aten.all.dims")
def truth(op: Op, target: Target) -> list[Scratch]:
    """Whether any or all are true; partial results have the input's type.

    Source: aten/src/ATen/native/ReduceOps.cpp `allany_impl`, cuda/ReduceLogicKernel.cu.
    """
    self: TensorSpec = op.args[0]
    if self.numel <= 1:
        return []
    dim = None if op.name.endswith(".default") else argument(op, 1, "dim")
    keepdim = False if op.name.endswith(".default") else argument(op, 2, "keepdim", False)
    return reduction(self, dim, target, out_dtype="bool", accumulator_bytes=self.itemsize, keepdim=keepdim)


@rule("aten.amax.default", "aten.amin.default")
def extreme_values(op: Op, target: Target) -> list[Scratch]:
    """Largest or smallest values over dimensions.

    Source: aten/src/ATen/native/ReduceOps.cpp `amax_out`, cuda/ReduceMaxValuesKernel.cu.
    """
    self: TensorSpec = op.args[0]
    dim, keepdim = argument(op, 1, "dim"), argument(op, 2, "keepdim", False)
    return reduction(
        self, dim, target, out_dtype=self.dtype, accumulator_bytes=self.itemsize, keepdim=keepdim,
        accumulates_in_output=not is_reduced(self.dtype),
    )  # fmt: skip


@rule("aten.max.default", "aten.min.default", "aten.aminmax.default")
def extremes_of_all(op: Op, target: Target) -> list[Scratch]:
    """The extreme of all elements, read from a contiguous copy; `aminmax` also over one dimension.

    Source: aten/src/ATen/native/ReduceAllOps.cpp `max`, TensorCompare.cpp `aminmax_out`, cuda/ReduceAMinMaxKernel.cu.
    """
    self: TensorSpec = op.args[0]
    both = op.name.startswith("aten.aminmax")
    dim = op.kwargs.get("dim") if both else None
    copies = []
    if dim is None and not self.is_contiguous:
        copies = [Scratch(self.nbytes)]
        self = contiguous(self)
    return copies + reduction(
        self, dim, target, out_dtype=self.dtype, accumulator_bytes=self.itemsize * (2 if both else 1),
        keepdim=op.kwargs.get("keepdim", False), accumulates_in_output=not both and not is_reduced(self.dtype),
    )  # fmt: skip


@rule("aten.max.dim", "aten.min.dim")
def extremes_with_indices(op: Op, target: Target) -> list[Scratch]:
    """Extreme values over one dimension and where they are: partial results are pairs of value and index.

    Source: aten/src/ATen/native/cuda/TensorCompare.cpp `max_kernel_impl`, ReduceMaxValuesKernel.cu `max_launch_kernel`.
    """
    self: TensorSpec = op.args[0]
    dim, keepdim = argument(op, 1, "dim"), argument(op, 2, "keepdim", False)
    return reduction(
        self, dim, target, out_dtype=self.dtype, accumulator_bytes=16, keepdim=keepdim, accumulates_in_output=False
    )


@rule("aten.argmax.default", "aten.argmin.default")
def extreme_indices(op: Op, target: Target) -> list[Scratch]:
    """Where the extreme is: over one dimension, or of the tensor laid out flat (copied where it is not contiguous).

    Source: aten/src/ATen/native/ReduceOps.cpp `argmax_argmin_impl`, cuda/ReduceArgMaxKernel.cu.
    """
    self: TensorSpec = op.args[0]
    dim, keepdim = argument(op, 1, "dim"), argument(op, 2, "keepdim", False)
    copies = []
    if dim is None:
        keepdim = False
        if not self.is_contiguous:
            copies = [Scratch(self.nbytes)]
        self = TensorSpec(self.dtype, (self.numel,), (1,))
    elif self.shape and self.shape[dim] == 1:
        return []
    return copies + reduction(
        self, dim, target, out_dtype="int64", accumulator_bytes=16, keepdim=keepdim, accumulates_in_output=False
    )


@rule("aten.logsumexp.default")
def log_sum_exp(op: Op, target: Target) -> list[Scratch]:
    """The maxima, their absolute values and a mask, the shifted exponentials, and their sum.

    Source: aten/src/ATen/native/ReduceOps.cpp `logsumexp_out_impl`.
    """
    self: TensorSpec = op.args[0]
    if self.numel == 0:
        return []
    dim = argument(op, 1, "dim")
    over = reduced_dims(dim, len(self.shape))
    kept = TensorSpec(self.dtype, tuple(1 if d in over else n for d, n in enumerate(self.shape)), ())
    before = [Scratch(kept.nbytes)]
    before += reduction(
        self, dim, target, out_dtype=self.dtype, accumulator_bytes=self.itemsize, keepdim=True,
        accumulates_in_output=not is_reduced(self.dtype),
    )  # fmt: skip
    shifted = TensorSpec(self.dtype, self.shape, dense_stride(self))
    before += [Scratch(kept.nbytes, freed_after=1), Scratch(kept.numel, freed_early=True), Scratch(shifted.nbytes)]
    return [s._replace(when="before") for s in before] + reduction(
        shifted, dim, target, out_dtype=self.dtype, accumulator_bytes=4 if is_reduced(self.dtype) else self.itemsize,
        keepdim=argument(op, 2, "keepdim", False), accumulates_in_output=not is_reduced(self.dtype),
    )  # fmt: skip
