"""The order in which kernels allocate their results, where it is not the order in which they return them.

It decides which free block each result takes, and so what is reserved; the sizes are the same either way.
"""

from __future__ import annotations

from estimator.graph import Op

RESULT_ORDER: dict[str, tuple[int, ...]] = {
    # The mask is made before the result.
    # Source: dropout_cuda in aten/src/ATen/native/cuda/Dropout.cu; measured: histories of a simulated card, 2.11.
    "aten.native_dropout.default": (1, 0),
}
"""Numbers of the results in the order in which they are allocated."""


def result_order(op: Op) -> tuple[int, ...] | None:
    """The order of an op's results, None where it is that of the return value."""
    return RESULT_ORDER.get(op.name)
