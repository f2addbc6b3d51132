"""Bytes that kernels and libraries take and that no tensor of the program shows."""

from estimator.scratch import attention as _attention  # noqa: F401
from estimator.scratch import bilinear as _bilinear  # noqa: F401
from estimator.scratch import convolution as _convolution  # noqa: F401  registers its rules
from estimator.scratch import cpu as _cpu  # noqa: F401
from estimator.scratch import distance as _distance  # noqa: F401
from estimator.scratch import embedding as _embedding  # noqa: F401
from estimator.scratch import foreach as _foreach  # noqa: F401
from estimator.scratch import indexing as _indexing  # noqa: F401
from estimator.scratch import jagged as _jagged  # noqa: F401
from estimator.scratch import loss as _loss  # noqa: F401
from estimator.scratch import masks as _masks  # noqa: F401
from estimator.scratch import matmul as _matmul  # noqa: F401
from estimator.scratch import matrix_exp as _matrix_exp  # noqa: F401
from estimator.scratch import normalization as _normalization  # noqa: F401
from estimator.scratch import recurrent as _recurrent  # noqa: F401
from estimator.scratch import reduction as _reduction  # noqa: F401
from estimator.scratch import sampling as _sampling  # noqa: F401
from estimator.scratch import softmax as _softmax  # noqa: F401
from estimator.scratch import sort as _sort  # noqa: F401
from estimator.scratch import spatial as _spatial  # noqa: F401
from estimator.scratch import varlen_attention as _varlen_attention  # noqa: F401
from estimator.scratch.registry import CPU_RULES, RULES, Scratch, has_rule, rule, scratch_of
from estimator.scratch.unmodelled import unknown_ops

__all__ = ["CPU_RULES", "RULES", "Scratch", "has_rule", "rule", "scratch_of", "unknown_ops"]
