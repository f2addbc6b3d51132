"""Ops that take memory no rule here speaks of, each with the reason; a trace that meets one must say so."""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.registry import Scratch, rule

_VALUES = "how much depends on the values, which a trace without data does not have"
_SOLVER = "work space of cuSOLVER or MAGMA, assumed between nothing and four times the matrices"
_BATCH_NORM = (
    "work space and reserve of cuDNN's batch norm, which cuDNN tells on a card alone and NVIDIA gives no bound for; "
    "believed below 1 MiB a layer"
)
_RARE = "rare in training, not modelled; up to some tens of bytes an element"
_ORDERED = "the deterministic way sorts its indices, not modelled; about 40 bytes an index and a copy of the source"

UNMODELLED: dict[str, str] = {
    **dict.fromkeys(
        (
            "aten._unique2.default", "aten.unique_dim.default",
            "aten.unique_consecutive.default", "aten.repeat_interleave.Tensor", "aten.bincount.default",
        ),
        _VALUES,
    ),
    **dict.fromkeys(
        (
            "aten.linalg_cholesky_ex.default", "aten.linalg_qr.default", "aten._linalg_svd.default",
            "aten._linalg_eigh.default", "aten.linalg_eig.default", "aten.linalg_inv_ex.default",
            "aten._linalg_solve_ex.default", "aten.linalg_lu_factor_ex.default", "aten.linalg_lu.default",
            "aten._linalg_det.default", "aten._linalg_slogdet.default", "aten.linalg_lstsq.default",
            "aten.linalg_solve_triangular.default", "aten.triangular_solve.default", "aten.cholesky_solve.default",
            "aten.cholesky_inverse.default", "aten.geqrf.default", "aten.ormqr.default",
            "aten.linalg_householder_product.default", "aten.linalg_ldl_factor_ex.default",
        ),
        _SOLVER,
    ),
    **dict.fromkeys(
        (
            "aten.nanmedian.default", "aten.mode.default", "aten.allclose.default", "aten.histc.default",
            "aten.renorm.default",
        ),
        _RARE,
    ),
    "aten.cudnn_batch_norm.default": _BATCH_NORM,
    "aten.cudnn_batch_norm_backward.default": _BATCH_NORM,
    "aten._cudnn_ctc_loss.default": "work space of cuDNN, not measured",
    "aten._grouped_mm.default": "pointers and a work space of CUTLASS, not modelled; below 1 MiB where measured (9.0)",
    "aten._scaled_grouped_mm.default": "pointers and a work space of CUTLASS, not modelled",
    "aten._sparse_addmm.default": "work space of cuSPARSE, not modelled",
    "aten._sparse_mm.default": "work space of cuSPARSE, not modelled",
}
"""Reason by op name."""

UNMODELLED_IF_DETERMINISTIC: dict[str, str] = dict.fromkeys(
    (
        "aten.scatter_add.default", "aten.scatter_add_.default", "aten.scatter.src", "aten.scatter_.src",
        "aten.index_copy.default", "aten.index_copy_.default", "aten.scatter_reduce.two",
    ),
    _ORDERED,
)  # fmt: skip
"""The same where `torch.use_deterministic_algorithms(True)` holds."""


def unknown_ops(target: Target) -> dict[str, str]:
    """Ops whose hidden memory on `target` is not known, each with the reason."""
    if target.device.kind != "cuda":
        return {}
    return UNMODELLED | (UNMODELLED_IF_DETERMINISTIC if target.deterministic else {})


@rule(*(name for name, reason in UNMODELLED.items() if reason is _SOLVER))
def solver(op: Op, target: Target) -> list[Scratch]:
    """A copy of the largest matrices, column by column, in which the library works.

    Source: aten/src/ATen/native/BatchLinearAlgebra.cpp, `cloneBatchedColumnMajor`, 2.11: the copy. Bound: the library's own
    work space is not known; none to three copies more.
    """
    operands = [a.nbytes for a in op.args if isinstance(a, TensorSpec)]
    one = max(operands, default=0)
    return [Scratch(one, confidence="assumed", low_bytes=0, high_bytes=4 * one)]
