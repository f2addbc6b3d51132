"""torchvision's models, also beside a CPU-only torch.

torchvision has no wheel for CPU: the one that pip takes is linked with CUDA, does not load its own operators beside a
CPU torch, and then fails on import, because its Python half describes operators that nobody defined. Classification
models use none of them. Declaring the names is enough for the import; a call of one still fails.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

_DECLARED: list[Any] = []  # a Library takes its declarations back when it is collected


def models() -> Any:
    """`torchvision.models`.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        import torchvision.models
    except (RuntimeError, NotImplementedError):
        _declare()
        import torchvision.models
    return torchvision.models


def _declare() -> None:
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed")
    home = Path(spec.origin).parent
    halves = (home / "_meta_registrations.py", home / "_autograd_registrations.py")
    text = "".join(half.read_text() for half in halves if half.exists())
    names = set(re.findall(r'(?:register_meta\("|"torchvision::)(\w+)"', text))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in sorted(names):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    _DECLARED.append(library)
