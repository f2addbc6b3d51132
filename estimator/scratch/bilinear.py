"""The product of three tensors behind `nn.Bilinear` and its gradients: two pairwise products for each slice."""

from __future__ import annotations

import math
from collections.abc import Collection

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.blas import cublas
from estimator.scratch.registry import Scratch, rule


@rule("aten._trilinear.default")
def trilinear(op: Op, target: Target) -> list[Scratch]:
    """For each slice along `unroll_dim` the product of the first two tensors, then that with the third.

    A product that sums over nothing is elementwise; one that sums is a batch of matrix products.

    Source: aten/src/ATen/native/Linear.cpp, `_trilinear` and `sumproduct_pair`, 2.13; order measured: simulated card, 2.11.
    Bound: low where an operand has to be copied to be reshaped (a transposed input): a slice of it is left out.
    """
    tensors: tuple[TensorSpec, ...] = op.args[:3]
    expands, summed = [tuple(e) for e in op.args[3:6]], set(op.args[6])
    unrolled: int = argument(op, 7, "unroll_dim", 1)
    if 0 in (t.numel for t in tensors):
        return []
    shapes = [_expanded(t.shape, e) for t, e in zip(tensors, expands, strict=True)]
    slices = max(shape[unrolled] for shape in shapes)
    for shape in shapes:
        shape[unrolled] = 1
    inner = summed - {unrolled}
    first_sums = inner & set(expands[2])
    between = _product(shapes[0], shapes[1], first_sums)
    last = _product(between, shapes[2], inner - first_sums)
    item = op.outputs[0].itemsize
    found: list[Scratch] = []
    for number in range(slices):
        workspaces = [cublas(op, target) if sums and not number else [] for sums in (first_sums, inner - first_sums)]
        found.append(Scratch(math.prod(between) * item, freed_after=1 + sum(map(len, workspaces))))
        found += workspaces[0]
        found.append(Scratch(math.prod(last) * item, freed_after=len(workspaces[1])))
        found += workspaces[1]
    return found


def _expanded(shape: tuple[int, ...], expand: Collection[int]) -> list[int]:
    """A shape with a dimension of one at each place of `expand`."""
    left = list(shape)
    return [1 if d in expand else left.pop(0) for d in range(len(shape) + len(expand))]


def _product(left: list[int], right: list[int], sums: Collection[int]) -> list[int]:
    return [1 if d in sums else max(a, b) for d, (a, b) in enumerate(zip(left, right, strict=True))]
