"""Trace a job's step on tensors without data: `trace(job, target, n)` gives the `StepGraph` at one batch size."""

from estimator.trace.tracer import trace, warm_up

__all__ = ["trace", "warm_up"]
