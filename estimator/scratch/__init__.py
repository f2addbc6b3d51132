"""Bytes that kernels and libraries take and that no tensor of the program shows."""

from estimator.scratch.registry import RULES, Scratch, rule, scratch_of

__all__ = ["RULES", "Scratch", "rule", "scratch_of"]
