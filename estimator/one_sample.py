"""Memory at a batch of one, where the step is another program than with more samples.

Many an op takes another way for a single sample: a copy that larger batches need is a view, an expanded operand is plain.
The lines of larger batches then do not lead there, so a batch of one that is asked about has a trace of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

from estimator.errors import EstimatorError
from estimator.evaluate import Evaluator
from estimator.fit import residual
from estimator.graph import StepGraph


def with_one_sample(
    evaluator: Evaluator, trace_one: Callable[[], StepGraph], evaluator_of: Callable[[StepGraph], Evaluator]
) -> Callable[[int], Evaluator]:
    """Give the evaluator of a batch size: `evaluator`, but for a batch of one that of its own trace, made when first asked.

    Args:
        evaluator: of the fitted job.
        trace_one: traces the job at a batch of one.
        evaluator_of: an evaluator for the batch size of one trace alone.
    """

    @cache
    def of_one() -> Evaluator:
        try:
            seen = trace_one()
        except EstimatorError as error:  # statistics over a batch, say, which one sample does not have
            warnings.warn(
                f"a batch of one cannot be traced ({error.what}): its bytes are those that larger batches lead to",
                RuntimeWarning,
                stacklevel=3,
            )
            return evaluator
        return evaluator if residual(evaluator.model, seen) == 0 else evaluator_of(seen)

    return lambda n: of_one() if n == 1 else evaluator
