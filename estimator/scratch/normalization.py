"""Layer, RMS, group and batch normalisation.

Source: aten/src/ATen/native/cuda/layer_norm_kernel.cu, group_norm_kernel.cu, Normalization.cu and Normalization.cuh,
torch 2.11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.reduction import reduction
from estimator.scratch.registry import Scratch, rule

_PARTIAL_ROWS = 65536
"""Above so many rows the gradients of weight and bias are summed in two passes."""


def _copies(*operands: Any) -> list[Scratch]:
    """`expect_contiguous` of each operand."""
    specs = [s for s in operands if isinstance(s, TensorSpec)]
    return [Scratch(s.nbytes, when="before") for s in specs if not s.is_contiguous]


@rule("aten.native_layer_norm.default")
def layer_norm(op: Op, target: Target) -> list[Scratch]:
    """Contiguous copies of what is not."""
    return _copies(op.args[0], argument(op, 2, "weight"), argument(op, 3, "bias"))


@rule("aten._fused_rms_norm.default")
def rms_norm(op: Op, target: Target) -> list[Scratch]:
    """Contiguous copies of what is not."""
    return _copies(op.args[0], argument(op, 2, "weight"))


@rule("aten.native_layer_norm_backward.default")
def layer_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """Copies; for very many rows partial gradients of weight and bias and the sum over them."""
    grad, self, shape = op.args[:3]
    mask: Sequence[bool] = argument(op, 7, "output_mask", (True, True, True))
    parameters = [argument(op, 5, "weight"), argument(op, 6, "bias")]
    wanted = [spec for spec, want in zip(parameters, mask[1:], strict=True) if want and spec is not None]
    copies = _copies(self, *parameters)
    return copies + _gamma_beta(grad, self, shape, wanted, int(mask[0]), target)


@rule("aten._fused_rms_norm_backward.default")
def rms_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """The same without a bias."""
    grad, self, shape = op.args[:3]
    mask: Sequence[bool] = argument(op, 5, "output_mask", (True, True))
    weight = argument(op, 4, "weight")
    wanted = [weight] if weight is not None and mask[1] else []
    return _copies(self, weight) + _gamma_beta(grad, self, shape, wanted, int(mask[0]), target)


def _gamma_beta(
    grad: TensorSpec, self: TensorSpec, shape: Sequence[int], wanted: list[TensorSpec], results: int, target: Target
) -> list[Scratch]:
    """What the gradients of weight and bias take; `results` are allocated before.

    Source: layer_norm_kernel.cu, `LayerNormBackwardKernelImplInternal`, `LaunchGammaBetaBackwardCUDAKernel`.
    """
    columns = math.prod(shape)
    rows = self.numel // columns if columns else 0
    grad_copy = [] if grad.is_contiguous else [Scratch(grad.nbytes)]
    multiprocessors = target.device.multiprocessor_count or 1
    if not wanted or rows <= _PARTIAL_ROWS or columns // 32 >= multiprocessors // 2:
        return grad_copy
    blocks = min(-(-rows // 32), 32768 // -(-columns // 32))
    partial = TensorSpec(wanted[0].dtype, (blocks, columns), (columns, 1))
    sums = reduction(partial, 0, target, out_dtype=partial.dtype, accumulator_bytes=4 if partial.itemsize < 8 else 8)
    first = [Scratch(w.nbytes) for w in wanted]
    if len(wanted) == 2:
        # The first gradient is replaced by its sum and goes before the second sum begins.
        first[0] = first[0]._replace(freed_after=1 + len(grad_copy) + 2 + len(sums))
    found = first + grad_copy + [Scratch(partial.nbytes) for _ in wanted]
    found = [s._replace(results_before=results) for s in found]
    for n in range(len(wanted)):
        found += [s._replace(results_before=results + 1 + n) for s in sums]
    return found


def _accumulate_bytes(dtype: str) -> int:
    return 8 if dtype == "float64" else 4


@rule("aten.native_group_norm.default")
def group_norm(op: Op, target: Target) -> list[Scratch]:
    """A scale and a shift for every sample and channel, where there is a weight or a bias.

    Source: group_norm_kernel.cu, `GroupNormKernelImplInternal`.
    """
    self, weight, bias, batch, channels, spatial, groups = op.args[:7]
    copies = _copies(self, weight, bias)
    if (weight is None and bias is None) or spatial == 1 or self.numel == 0:
        return copies
    factor = Scratch(batch * channels * _accumulate_bytes(self.dtype))
    return [*copies, factor, factor]


@rule("aten.native_group_norm_backward.default")
def group_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """Sums over the pixels of a sample and channel, and factors of channels and groups.

    Source: group_norm_kernel.cu, `GroupNormBackwardKernelImplInternal`, `GroupNorm1dBackward`.
    """
    grad, self, _, _, weight, batch, channels, spatial, groups, mask = op.args[:10]
    item = _accumulate_bytes(self.dtype)
    per_channel, per_group = Scratch(batch * channels * item), Scratch(batch * groups * item)
    found = [*_copies(self, grad), per_channel, per_channel]
    if mask[0]:
        if spatial == 1:
            found += [per_group, per_group]
        else:
            found += [per_group, per_group, per_channel] if weight is not None else [per_group, per_group]
    return found


def _reads_channels_last(self: TensorSpec) -> bool:
    """Whether the kernels for channels beside each other run.

    Source: Normalization.cu, `batch_norm_use_channels_last_kernels`.
    """
    return self.is_channels_last or (self.is_contiguous and len(self.shape) > 1 and self.stride[1] == 1)


def _channels_last_grid(rows: int, channels: int) -> tuple[int, int]:
    """Thread blocks over channels and over rows.

    Source: Normalization.cuh, `flexible_launch_configs`.
    """
    most_threads, per_thread = 512, 16

    def pow2(n: int) -> int:
        return 1 << (max(1, n).bit_length() - 1)

    width = min(pow2(channels), 32)
    height = min(pow2(-(-rows // per_thread)), most_threads // width)
    if width * height != most_threads:
        width = min(pow2(channels), most_threads // height)
    blocks = min(-(-rows // (height * per_thread)), 128)
    return -(-channels // width), blocks if blocks >= 8 else 1


def _staging(self: TensorSpec, values: int) -> list[Scratch]:
    """`values` partial results a channel from every block of rows, and a counter a column."""
    channels = self.shape[1]
    columns, blocks = _channels_last_grid(self.numel // channels, channels)
    if blocks == 1:
        return []
    return [Scratch(values * channels * blocks * 4, freed_after=1), Scratch(columns * 4, freed_early=True)]


@rule(
    "aten.native_batch_norm.default",
    "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit.no_stats",
)
def batch_norm(op: Op, target: Target) -> list[Scratch]:
    """Statistics of channels that lie beside each other are gathered through memory.

    Source: Normalization.cuh, `batch_norm_stats_channels_last_cuda_template`.
    """
    self: TensorSpec = op.args[0]
    train: bool = argument(op, 3 if op.name.endswith("no_stats") else 5, "training", False)
    if not train or not _reads_channels_last(self) or self.numel == 0:
        return []
    return _staging(self, 4)


@rule("aten.native_batch_norm_backward.default")
def batch_norm_backward(op: Op, target: Target) -> list[Scratch]:
    """Two sums a channel, gathered through memory; one kernel without any where channels lie apart.

    Source: Normalization.cu, `batch_norm_backward_cuda`.
    """
    _, self, weight, _, _, save_mean, save_invstd, train, _, mask = op.args[:10]
    channels = self.shape[1]
    if not _reads_channels_last(self) and mask[0]:
        return []
    found = []
    if not train and (save_invstd is None or save_invstd.numel == 0):
        found.append(Scratch(channels * 4, when="before"))
    found += [Scratch(channels * 4, when="before")] * 2
    sums = 2 if weight is not None and mask[1] else 0
    return found + [s._replace(results_before=sums) for s in _staging(self, 2)]
