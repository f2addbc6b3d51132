"""What this process has imported besides torch: a process that trains the same job imports it too."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

_OF_TORCH = frozenset({"torch", "torchgen", "functorch", "sympy", "mpmath"})
"""What a trace imports of torch, and of what torch calls then; a process that trains takes what it needs by itself."""
_OF_THE_COMMAND = frozenset({"typer", "shellingham", "annotated_doc", "rich", "markdown_it", "mdurl", "pygments", "tomli_w"})
"""What the command line imports for itself. Where the job imports it as well, it comes with what imports it."""
_HOMES = frozenset({"site-packages", "dist-packages"})
"""Folders of installed distributions. Source: site (Python's library reference), and Debian's Python policy."""
_OF_A_JOB = "estimator.job"
"""The one module of this program that a job's file imports."""


def installed_modules(modules: Mapping[str, ModuleType] | None = None) -> tuple[str, ...]:
    """Names of the modules that come from installed distributions, in the order in which they were imported.

    Left out are torch, what only this program takes, the standard library (which comes with those that use it), and
    files that are not installed: to import a user's own module runs it, and its weight is in what it imports.

    Args:
        modules: As of `sys.modules`; None: those of this process.
    """
    found = []
    for name, module in list((sys.modules if modules is None else modules).items()):
        top = name.partition(".")[0]
        if top in _OF_TORCH or top in _OF_THE_COMMAND:
            continue
        # Some put objects of their own among the modules; `__main__` has no name that could be imported.
        spec = getattr(module, "__spec__", None)
        file = getattr(spec, "origin", None)
        installed = isinstance(file, str) and not _HOMES.isdisjoint(Path(file).parts)
        if name == _OF_A_JOB or (installed and top != "estimator"):
            found.append(name)
    return tuple(found)
