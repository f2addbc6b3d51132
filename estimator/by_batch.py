"""A step that is another program at every batch size, as where it goes over its samples one by one.

No lines lead from one batch size to another then: each size that is asked about has a trace, and so a model, of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from estimator.evaluate import Evaluator
from estimator.fit import MemoryModel
from estimator.solve import MOST, SEGMENT_BYTES, Solution, last_that_fits

MOST_OPS = 60_000
"""Ops of the longest trace that is made: a choice, of some fifteen seconds a size (measured: 5,000 ops a second)."""

STRIDE = 16
"""How many times as large as the largest batch so far the next may be: a choice, as a guess from small batches may be
several times too far, and its trace so many times as long as needed."""


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
        if of_large <= of_small:  # sizes alone follow no line
            return MOST
        return max(large, min(MOST, small + (MOST_OPS - of_small) * (large - small) // (of_large - of_small)))


def largest_traced(evaluator: EvaluatorByBatch, guess: int | None = None) -> Solution:
    """The largest batch that fits and whose next does not, in few traces; the sizes around it are not looked at.

    `guess` is what a model came to that was nearly right; None lets small batches lead there. Where even `most()` fits the
    search ends there, and the solution says why.
    """
    most = evaluator.most()
    tried: dict[int, bool] = {}

    def fits(n: int) -> bool:
        if n not in tried:
            tried[n] = evaluator.fits(n)
        return tried[n]

    def need_bytes(n: int) -> int:
        return evaluator.unlimited_peak_reserved_bytes(n, "high")

    near = 1
    if guess is None:
        guess, near = _approached(need_bytes, evaluator.limit_bytes("high"), evaluator.sizes, most)
    guess = min(guess, most)
    # The guess errs by a part of a segment; steps double from there, so that few sizes are traced on the way.
    low, high = last_that_fits(fits, guess, max(1, near // 8), most)
    if high <= most:
        return Solution(low, tried, by_batch=True)
    why = "" if most == MOST else (
        f"no memory: the search ended at batch {low}, as each further sample makes the step's program longer and a trace of it "
        f"would have more than {MOST_OPS} ops"
    )  # fmt: skip
    return Solution(low, tried, unlimited=True, ended=why, by_batch=True)


def _approached(need_bytes: Callable[[int], int], limit_bytes: int, sizes: tuple[int, int], most: int) -> tuple[int, int]:
    """About where the need meets the limit, in strides that grow: long traces take long; and samples to a segment there."""
    x0, x1 = sizes
    y0, y1 = need_bytes(x0), need_bytes(x1)
    while True:
        meets = x0 + (limit_bytes - y0) * (x1 - x0) // (y1 - y0) if y1 > y0 else most
        near = max(1, SEGMENT_BYTES * (x1 - x0) // (y1 - y0)) if y1 > y0 else 1
        following = max(1, min(meets, most, STRIDE * x1))
        if following <= x1 or following - x1 <= max(near, x1 // 64):  # between two that are known the search takes over
            return following, near
        x0, y0, x1, y1 = x1, y1, following, need_bytes(following)


def with_traces_elsewhere(evaluator: Evaluator, by_batch: Callable[[], Evaluator]) -> Callable[[int], Evaluator]:
    """Give the evaluator of a batch size: `evaluator` where the traces it was fitted to lie, else one that traces each.

    Args:
        evaluator: of a job whose step is another program at the largest batch than at small ones.
        by_batch: makes an `EvaluatorByBatch`; called once, when a batch size elsewhere is asked about.
    """
    sizes = evaluator.model.calibration_sizes
    elsewhere = cache(by_batch)
    return lambda n: evaluator if min(sizes) <= n <= max(sizes) + 1 else elsewhere()
