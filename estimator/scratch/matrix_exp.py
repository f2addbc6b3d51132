"""The exponential of matrices: powers of them and polynomials, of a degree that hangs on their norms.

Source: aten/src/ATen/native/LinearAlgebra.cpp, `mexp_impl`, `compute_T1` to `compute_T18_scale_square`, 2.13, the same on every
device; measured on a CPU (profiler): 5 matrices with the result at norm 0, 10 at 1, 13 at 10; 11 to 13 of a batch.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op
from estimator.scratch.registry import Scratch, rule

_FEWEST, _MOST = 4, 12


@rule("aten.linalg_matrix_exp.default", kind="cuda")
@rule("aten.linalg_matrix_exp.default", kind="cpu")
def matrix_exp(op: Op, target: Target) -> list[Scratch]:
    """As many matrices of the input's size as the highest degree takes.

    Bound: norms are not known, so this errs high: small ones take a third.
    """
    one = op.args[0].nbytes
    return [Scratch(_MOST * one, when="before", confidence="modelled", low_bytes=_FEWEST * one, high_bytes=_MOST * one)]
