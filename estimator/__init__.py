"""How much memory a PyTorch job takes and the largest batch that fits, without a trial run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from estimator.advice.records import Advice
    from estimator.advice.run import advise
    from estimator.data.frontier import frontier
    from estimator.data.lengths import lengths
    from estimator.data.records import Frontier, Lengths
    from estimator.device import DeviceProfile
    from estimator.errors import EstimatorError
    from estimator.integrations.accelerate import find_executable_batch_size
    from estimator.integrations.watch import watch
    from estimator.job import TrainingJob
    from estimator.pipeline import estimate
    from estimator.result import BatchEstimate, Estimate

_HOMES = {
    "Advice": "estimator.advice.records",
    "BatchEstimate": "estimator.result",
    "DeviceProfile": "estimator.device",
    "Estimate": "estimator.result",
    "EstimatorError": "estimator.errors",
    "Frontier": "estimator.data.records",
    "Lengths": "estimator.data.records",
    "TrainingJob": "estimator.job",
    "advise": "estimator.advice.run",
    "estimate": "estimator.pipeline",
    "find_executable_batch_size": "estimator.integrations.accelerate",
    "frontier": "estimator.data.frontier",
    "lengths": "estimator.data.lengths",
    "watch": "estimator.integrations.watch",
}

__all__ = [
    "Advice",
    "BatchEstimate",
    "DeviceProfile",
    "Estimate",
    "EstimatorError",
    "Frontier",
    "Lengths",
    "TrainingJob",
    "advise",
    "estimate",
    "find_executable_batch_size",
    "frontier",
    "lengths",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: `import estimator` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'estimator' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
