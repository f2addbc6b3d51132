"""Device semantics: the decisions a device's build of torch would take, laid over a trace."""

from estimator.semantics.cuda import cuda_semantics
from estimator.semantics.overlay import DEVICE, Overlay

__all__ = ["DEVICE", "Overlay", "cuda_semantics"]
