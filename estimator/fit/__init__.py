"""From traces at a few batch sizes to a model that gives the ledger at any: `fit(graphs, ...) -> MemoryModel`."""

from estimator.fit.align import compare
from estimator.fit.confirm import first_step_vouches, residual
from estimator.fit.host_batch import as_one
from estimator.fit.lines import is_rising_line
from estimator.fit.model import MemoryModel, fit
from estimator.fit.repeat import unlike_steps

__all__ = ["MemoryModel", "as_one", "compare", "first_step_vouches", "fit", "is_rising_line", "residual", "unlike_steps"]
