"""Trace a job's step on tensors without data: `trace(job, target, n)` gives the `StepGraph` at one batch size."""

from estimator.trace.tracer import trace

__all__ = ["trace"]
