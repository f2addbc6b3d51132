"""Drawing from what tensors say: permutations, categories; and whether two tensors are equal.

Source: aten/src/ATen/native/cuda/Randperm.cu, MultinomialKernel.cu, aten/src/ATen/native/Distributions.cpp, 2.11.
"""

from __future__ import annotations

import math

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.reduction import contiguous, reduction
from estimator.scratch.registry import Scratch, rule
from estimator.scratch.sort import cub_sort, topk_scratch

_LOG_THRESHOLD = 12 * math.log(0.9)
"""Source: Randperm.cu, `randperm_out_cuda`: as many bits of a key that two of them are rarely the same."""


@rule("aten.randperm.default")
def randperm(op: Op, target: Target) -> list[Scratch]:
    """The numbers in order, random keys, sorted keys, CUB's storage.

    Source: Randperm.cu, `randperm_out_cuda`; measured.
    """
    out = op.outputs[0]
    n = out.numel
    if n == 0:
        return []
    bits = min(64, math.ceil(math.log2(n - (6.0 * n * n + 1) / _LOG_THRESHOLD)))
    key = 4 if bits <= 32 else 8
    keys = Scratch(key * n)
    sorting = cub_sort(n, key, target, bits)
    return [Scratch(8, freed_early=True), Scratch(out.nbytes), keys, keys, sorting]


@rule("aten.multinomial.default")
def multinomial(op: Op, target: Target) -> list[Scratch]:
    """Without replacement: checks, then the probabilities over exponential noise, of which the largest are taken.
    With it: copies of the probabilities, of these normalised, and their running sums.

    Source: Distributions.cpp, `multinomial_out`; MultinomialKernel.cu, `multinomial_with_replacement_kernel_impl`; measured.
    """
    self: TensorSpec = op.args[0]
    samples: int = op.args[1]
    if argument(op, 2, "replacement", False) and samples != 1:
        return [Scratch(self.nbytes)] * 3
    rows = self.shape[0] if len(self.shape) > 1 else 1
    # Largest and smallest, each with its truth, then both truths in one, which lives as long as the call.
    extremes = [Scratch(size, freed_after=4 - n) for n, size in enumerate((self.itemsize, 1, self.itemsize, 1))]
    sums = [Scratch(rows * self.itemsize, freed_after=2), Scratch(rows, freed_after=1)]  # then whether any is zero
    noise = TensorSpec(self.dtype, self.shape, contiguous(self).stride)
    found = [*extremes, Scratch(1), *sums, Scratch(1), Scratch(1, freed_early=True), Scratch(self.nbytes)]
    if samples == 1:
        return found
    drawn = TensorSpec(self.dtype, op.outputs[0].shape, op.outputs[0].stride)
    return [*found, Scratch(drawn.nbytes), *topk_scratch(noise, samples, -1, drawn, target)]


@rule("aten.equal.default")
def equal(op: Op, target: Target) -> list[Scratch]:
    """A truth for each element, and whether all hold.

    Source: aten/src/ATen/native/cuda/Equal.cpp, `cuda_equal`, 2.11.
    """
    each = TensorSpec("bool", op.args[0].shape, contiguous(op.args[0]).stride)
    over = reduction(each, None, target, out_dtype="bool", accumulator_bytes=1) if each.numel > 1 else []
    return [Scratch(each.nbytes), Scratch(1), *over]
