"""Bytes that kernels and libraries take and that no tensor of the program shows."""

from estimator.scratch import attention as _attention  # noqa: F401
from estimator.scratch import convolution as _convolution  # noqa: F401  registers its rules
from estimator.scratch import cpu as _cpu  # noqa: F401
from estimator.scratch import embedding as _embedding  # noqa: F401
from estimator.scratch import loss as _loss  # noqa: F401
from estimator.scratch import matmul as _matmul  # noqa: F401
from estimator.scratch import normalization as _normalization  # noqa: F401
from estimator.scratch import reduction as _reduction  # noqa: F401
from estimator.scratch import softmax as _softmax  # noqa: F401
from estimator.scratch.registry import CPU_RULES, RULES, Scratch, has_rule, rule, scratch_of

__all__ = ["CPU_RULES", "RULES", "Scratch", "has_rule", "rule", "scratch_of"]
