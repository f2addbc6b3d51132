"""Distances, transforms and other kernels with plain copies.

Source: aten/src/ATen/native/Distance.cpp, cuda/DistanceKernel.cu, cuda/SpectralOps.cpp, torch 2.11.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.blas import cublas
from estimator.scratch.reduction import contiguous, reduction
from estimator.scratch.registry import Scratch, rule


@rule("aten._cdist_backward.default")
def cdist_backward(op: Op, target: Target) -> list[Scratch]:
    """The gradient of every pair, before it is summed over one of them.

    Source: DistanceKernel.cu, `cdist_backward_kernel_impl`.
    """
    first, distances = op.args[1], op.args[4]
    return [Scratch(distances.numel * first.shape[-1] * first.itemsize)]


@rule("aten._pdist_backward.default")
def pdist_backward(op: Op, target: Target) -> list[Scratch]:
    """The gradient of every ordered pair.

    Source: DistanceKernel.cu, `pdist_backward_kernel_impl`.
    """
    self: TensorSpec = op.args[1]
    rows, columns = self.shape
    return [Scratch((rows - 1) * rows * columns * self.itemsize)] if rows > 1 else []


@rule("aten._euclidean_dist.default")
def euclidean_dist(op: Op, target: Target) -> list[Scratch]:
    """Squared norms, and both operands with two more columns, so that one product gives all distances.

    Source: Distance.cpp, `_euclidean_dist`.
    """
    first, second = op.args[:2]
    one, two = (s.numel // s.shape[-1] * s.itemsize for s in (first, second))
    found = [
        Scratch(first.nbytes, freed_after=1), Scratch(one, freed_after=6), Scratch(one, freed_after=5),
        Scratch(second.nbytes, freed_after=1), Scratch(two, freed_after=4), Scratch(two, freed_after=3),
        Scratch(first.nbytes, freed_after=1), Scratch(first.nbytes + 2 * one), Scratch(second.nbytes + 2 * two),
    ]  # fmt: skip
    return [*(s._replace(when="before") for s in found), *cublas(op, target)]


@rule("aten._fft_r2c.default", "aten._fft_c2c.default", "aten._fft_c2r.default")
def fft(op: Op, target: Target) -> list[Scratch]:
    """cuFFT's work area, and the copy that a transform to real numbers destroys.

    Source: SpectralOps.cpp, `_fft_c2r_cufft`.
    Bound: the work area depends on the factors of the lengths, from nothing to twice the transformed data; not measured.
    """
    self, out = op.args[0], op.outputs[0]
    copies = [Scratch(self.nbytes)] if op.name == "aten._fft_c2r.default" else []
    larger = max(self.nbytes, out.nbytes)
    return [*copies, Scratch(larger, confidence="assumed", low_bytes=0, high_bytes=2 * larger)]


@rule("aten.abs.default", "aten.angle.default")
def complex_abs(op: Op, target: Target) -> list[Scratch]:
    """Complex magnitudes and angles are made in complex numbers first; an angle's before there is a result.

    Source: aten/src/ATen/native/UnaryOps.cpp, `unary_op_impl_with_complex_to_float_out`; measured.
    """
    self: TensorSpec = op.args[0]
    if not self.dtype.startswith("complex"):
        return []
    return [Scratch(self.nbytes, when="before" if op.name == "aten.angle.default" else "after")]


@rule("aten.isinf.default")
def is_infinite(op: Op, target: Target) -> list[Scratch]:
    """The magnitudes that are compared with infinity; of complex numbers first the real parts, then the others.

    Source: aten/src/ATen/native/TensorCompare.cpp, `isinf`, 2.11; measured (real numbers, CUDA).
    """
    self: TensorSpec = op.args[0]
    if self.dtype.startswith("complex"):
        return [Scratch(self.nbytes // 2, when="before"), Scratch(self.nbytes // 2), Scratch(op.outputs[0].nbytes)]
    return [Scratch(self.nbytes, when="before")] if "float" in self.dtype else []


@rule("aten.dist.default")
def dist(op: Op, target: Target) -> list[Scratch]:
    """The difference, whose norm is taken.

    Source: aten/src/ATen/native/Distance.cpp, `dist`, 2.11; measured.
    """
    apart = TensorSpec(op.args[0].dtype, op.args[0].shape, contiguous(op.args[0]).stride)
    over = reduction(apart, None, target, out_dtype=apart.dtype, accumulator_bytes=max(4, apart.itemsize))
    return [Scratch(apart.nbytes, when="before"), *over]


@rule("aten.pow.Scalar")
def power_of_a_number(op: Op, target: Target) -> list[Scratch]:
    """The number as a tensor on the device: float64 or int64; powers of one are filled in.

    Source: aten/src/ATen/native/Pow.cpp, `pow_Scalar_out`; measured, 2.11.
    """
    return [] if op.args[0] == 1 else [Scratch(16 if isinstance(op.args[0], complex) else 8)]


@rule("aten.normal.Tensor_float")
def normal(op: Op, target: Target) -> list[Scratch]:
    """The mean, broadcast.

    Source: aten/src/ATen/native/DistributionTemplates.h, `normal_out_impl`.
    """
    return [Scratch(op.outputs[0].nbytes)]
