"""Pooling, resizing, padding, sampling and unfolding: copies of what does not lie as the kernel reads it.

Source: aten/src/ATen/native/cuda/*.cu of each op, torch 2.11; measured: simulated card, PyTorch 2.11 CUDA build.
"""

from __future__ import annotations

import math

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.registry import Scratch, rule


def _lies_as(spec: TensorSpec, like: TensorSpec) -> bool:
    """Whether it is contiguous in the memory format that `like` suggests."""
    if like.is_channels_last and not like.is_contiguous:
        return spec.is_channels_last
    return spec.is_contiguous


@rule(
    "aten.max_pool2d_with_indices_backward.default", "aten.avg_pool2d_backward.default",
    "aten._adaptive_avg_pool2d_backward.default", "aten.avg_pool3d_backward.default",
    "aten.max_pool3d_with_indices_backward.default", "aten._adaptive_avg_pool3d_backward.default",
)  # fmt: skip
def pool_backward(op: Op, target: Target) -> list[Scratch]:
    """A copy of the gradient in the input's memory format; the adaptive kernel reads channels last by strides."""
    grad, self = op.args[:2]
    if op.name == "aten._adaptive_avg_pool2d_backward.default" and not self.is_contiguous:
        return []
    return [] if _lies_as(grad, self) else [Scratch(grad.nbytes)]


@rule(
    "aten.upsample_bilinear2d_backward.default", "aten.upsample_bicubic2d_backward.default",
    "aten.upsample_nearest2d_backward.default", "aten._upsample_nearest_exact2d_backward.default",
    "aten.upsample_trilinear3d_backward.default", "aten.upsample_nearest3d_backward.default",
    "aten.upsample_linear1d_backward.default", "aten.upsample_nearest1d_backward.default",
    "aten._upsample_bilinear2d_aa_backward.default", "aten.reflection_pad2d_backward.default",
    "aten.reflection_pad1d_backward.default",
)  # fmt: skip
def contiguous_gradient(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of an operand that is neither contiguous nor channels last."""
    grad: TensorSpec = op.args[0]
    reads_either = op.name.startswith(("aten.upsample_bilinear2d", "aten.upsample_nearest", "aten._upsample_nearest"))
    reads = grad.is_contiguous or (grad.is_channels_last and reads_either)
    return [] if reads else [Scratch(grad.nbytes)]


@rule(
    "aten.upsample_nearest1d.default", "aten._upsample_nearest_exact1d.default", "aten.upsample_nearest2d.default",
    "aten._upsample_nearest_exact2d.default", "aten.upsample_nearest3d.default", "aten._upsample_nearest_exact3d.default",
)  # fmt: skip
def nearest(op: Op, target: Target) -> list[Scratch]:
    """Contiguous copies of output and input, where the kernel for channels last does not take the call.

    Source: cuda/UpSampleNearest2d.cu, `upsample_nearest2d_out_cuda_template`: channels last from 4 channels on;
    UpSampleNearest1d.cu, UpSampleNearest3d.cu: never. Measured.
    """
    self, out = op.args[0], op.outputs[0]
    if self.shape == out.shape:  # a plain copy
        return []
    if len(self.shape) == 4 and self.shape[1] >= 4 and out.is_channels_last and not out.is_contiguous:
        return [] if self.is_channels_last else [Scratch(self.nbytes)]  # the output shows what the input suggests
    return [Scratch(spec.nbytes) for spec in (out, self) if not spec.is_contiguous]


@rule("aten.reflection_pad2d.default", "aten.reflection_pad1d.default")
def reflection_pad(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of the input."""
    self: TensorSpec = op.args[0]
    return [] if self.is_contiguous else [Scratch(self.nbytes)]


@rule("aten._upsample_bilinear2d_aa.default", "aten._upsample_bicubic2d_aa.default")
def antialiased(op: Op, target: Target) -> list[Scratch]:
    """For channels last input a contiguous copy of it and of the output.

    Source: cuda/UpSampleBilinear2d.cu, `upsample_gen2d_aa_out_cuda_template`.
    """
    self, out = op.args[0], op.outputs[0]
    return [] if self.is_contiguous else [Scratch(out.nbytes), Scratch(self.nbytes)]


@rule("aten.adaptive_max_pool2d.default")
def adaptive_max_pool(op: Op, target: Target) -> list[Scratch]:
    """For channels last input contiguous copies of output, indices and input.

    Source: cuda/AdaptiveMaxPooling2d.cu.
    """
    self: TensorSpec = op.args[0]
    return [] if self.is_contiguous else [Scratch(s.nbytes) for s in (*op.outputs, self)]


@rule("aten.adaptive_max_pool2d_backward.default")
def adaptive_max_pool_backward(op: Op, target: Target) -> list[Scratch]:
    """Contiguous copies of gradient and indices, and for channels last of the result."""
    grad, self, indices = op.args[:3]
    found = [Scratch(s.nbytes) for s in (grad, indices) if not s.is_contiguous]
    return found if self.is_contiguous else [*found, Scratch(self.nbytes)]


@rule("aten.affine_grid_generator.default")
def affine_grid(op: Op, target: Target) -> list[Scratch]:
    """The grid before it is moved, one number more than axes for each place, and each axis' steps as it is filled.

    Source: AffineGridGenerator.cpp, `make_base_grid_4D`, `make_base_grid_5D`, `linspace_from_neg_one`; measured.
    """
    theta, size, align_corners = op.args[0], op.args[1], op.args[2]
    axes = size[2:]
    places = math.prod((size[0], *axes))
    found = [Scratch(places * (len(axes) + 1) * theta.itemsize, when="before")]
    for steps in reversed(axes):
        # Corners aligned, the steps are those of a linspace; else it is multiplied and divided, each a tensor more.
        count = 1 if align_corners or steps <= 1 else 3
        of_axis = max(1, steps) * theta.itemsize
        found += [Scratch(of_axis, when="before", freed_after=count - 1 - i) for i in range(count)]
    return found


@rule("aten.im2col.default")
def im2col(op: Op, target: Target) -> list[Scratch]:
    """A copy of the input, twice where it is not contiguous.

    Source: cuda/Im2Col.cu, `im2col_out_cuda_template`; measured.
    """
    self: TensorSpec = op.args[0]
    return [Scratch(self.nbytes, when="before")] * (1 if self.is_contiguous else 2)


@rule("aten.col2im.default")
def col2im(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of the columns; the result keeps a storage as large as they are.

    Source: cuda/Col2Im.cu, `col2im_out_cuda_template`; measured.
    """
    columns: TensorSpec = op.args[0]
    copies = [] if columns.is_contiguous else [Scratch(columns.nbytes)]
    return [Scratch(max(columns.nbytes, op.outputs[0].nbytes), result=0), *copies]


@rule("aten.unfold_backward.default")
def unfold_backward(op: Op, target: Target) -> list[Scratch]:
    """An int64 for each place along the unfolded dimension that a window reaches.

    Source: UnfoldBackward.h, `_make_unfold_backward_iter_over_grad_out`; measured.
    """
    sizes, dim, size, step = op.args[1:5]
    if not sizes:
        return []
    windows = (sizes[dim] - size) // step + 1
    return [Scratch(8 * min(sizes[dim], (windows - 1) * step + size))]


@rule("aten.fractional_max_pool2d_backward.default", "aten.fractional_max_pool3d_backward.default")
def fractional_pool_backward(op: Op, target: Target) -> list[Scratch]:
    """A contiguous copy of the gradient."""
    grad: TensorSpec = op.args[0]
    return [] if grad.is_contiguous else [Scratch(grad.nbytes, when="before")]
