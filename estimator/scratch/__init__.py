"""Bytes that kernels and libraries take and that no tensor of the program shows."""

from estimator.scratch import convolution as _convolution  # noqa: F401  registers its rules
from estimator.scratch.registry import RULES, Scratch, rule, scratch_of

__all__ = ["RULES", "Scratch", "rule", "scratch_of"]
