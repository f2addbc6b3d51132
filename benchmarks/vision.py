"""torchvision's models for the cases: plain on a machine where it works, else as the estimator imports it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def models() -> Any:
    """`torchvision.models`.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        import torchvision.models
    except RuntimeError:  # its library is linked with CUDA and this torch is not
        from estimator.sources.torchvision_import import import_torchvision

        import_torchvision()
        import torchvision.models
    return torchvision.models


def settle() -> None:
    """Make torchvision importable where it is installed: transformers imports it in passing, and fails with it."""
    with suppress(ModuleNotFoundError):
        models()
