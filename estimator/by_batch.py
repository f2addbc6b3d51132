"""A step that is another program at every batch size, as where it goes over its samples one by one.

No lines lead from one batch size to another then: each size that is asked about has a trace, and so a model, of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from estimator.evaluate import Evaluator
from estimator.fit import MemoryModel
from estimator.solve import MOST, Solution, guessed, last_that_fits

MOST_OPS = 60_000
"""Ops of the longest trace that is made: a choice, of some fifteen seconds a size (measured: 5,000 ops a second)."""


class EvaluatorByBatch(Evaluator):
    """An evaluator whose `model_of(n)` is right for batch size `n` alone; `sizes` are the first two that it is asked of."""

    def __init__(self, model_of: Callable[[int], MemoryModel], sizes: tuple[int, int], *args: Any, **options: Any) -> None:
        super().__init__(model_of(sizes[1]), *args, **options)
        self.sizes, self._model_of = sizes, model_of
        self._told: dict[int, MemoryModel] = {}

    def model_at(self, n: int) -> MemoryModel:
        """The model of a trace at `n`, which says by the smallest one what a further sample takes."""
        if n not in self._told:
            model = self._told[n] = self._model_of(n)
            smallest = self._model_of(self.sizes[0])
            if model is not smallest:
                model.lean_on(smallest)
        return self._told[n]

    @property
    def traced(self) -> list[int]:
        """The batch sizes that were asked about so far, in order."""
        return sorted(self._told)

    def most(self) -> int:
        """The largest batch size whose trace has `MOST_OPS` ops, by the line through the first two."""
        small, large = self.sizes
        of_small, of_large = (len(self.model_at(n).ops) for n in self.sizes)
        each = max(1, of_large - of_small)
        return max(large, min(MOST, small + (MOST_OPS - of_small) * (large - small) // each))


def largest_traced(evaluator: EvaluatorByBatch) -> Solution:
    """The largest batch that fits and whose next does not, in few traces; the sizes around it are not looked at.

    Where even `most()` fits the search ends there, and the solution says why.
    """
    most = evaluator.most()
    tried: dict[int, bool] = {}

    def fits(n: int) -> bool:
        if n not in tried:
            tried[n] = evaluator.fits(n)
        return tried[n]

    def need_bytes(n: int) -> int:
        return evaluator.unlimited_peak_reserved_bytes(n, "high")

    guess, near = guessed(need_bytes, evaluator.limit_bytes("high"), evaluator.sizes[0], most)
    low, high = last_that_fits(fits, guess, near, most)
    if high <= most:
        return Solution(low, tried, by_batch=True)
    why = "" if most == MOST else (
        f"no memory: the search ended at batch {low}, as each further sample makes the step's program longer and a trace of it "
        f"would have more than {MOST_OPS} ops"
    )  # fmt: skip
    return Solution(low, tried, unlimited=True, ended=why, by_batch=True)
