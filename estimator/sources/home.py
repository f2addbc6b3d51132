"""The surroundings in which the user's file runs: its folder on `sys.path` and its siblings importable."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from estimator.job import TrainingJob
from estimator.random_state import random_kept
from estimator.sources.torchvision_import import torchvision_on_demand


class Home:
    """A folder whose modules are importable while the user's code runs, and only then.

    Modules that are found through the folder (`model.py` beside `train.py`) are kept here, not in `sys.modules`: two
    jobs of two folders may both have a `model.py`. A folder that is on `sys.path` already keeps its modules there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: dict[str, ModuleType] = {}
        self.environ: dict[str, str] = {}
        """Environment variables that the user's code set; they are set again whenever it runs."""
        self._inside = False

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the user's code here; `sys.path`, `sys.modules`, environment and folder come back as they were."""
        if self._inside:
            yield
            return
        with torchvision_on_demand():
            if str(self.folder) in sys.path:
                yield
                return
            with self._on_path():
                yield

    @contextmanager
    def _on_path(self) -> Iterator[None]:
        path, environ, cwd, names = list(sys.path), dict(os.environ), os.getcwd(), set(sys.modules)
        hidden = {name: sys.modules[name] for name in self.modules if name in sys.modules}
        sys.path.insert(0, str(self.folder))
        sys.modules.update(self.modules)
        os.environ.update(self.environ)
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            self.environ = {k: v for k, v in os.environ.items() if environ.get(k) != v}
            self._take_own(set(sys.modules) - names)
            sys.modules.update(hidden)
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environ)
            os.chdir(cwd)

    def keep(self, module: ModuleType) -> None:
        """Let a module loaded under a private name be found by that name while the user's code runs."""
        self.modules[module.__name__] = module

    def wrap(self, job: TrainingJob) -> TrainingJob:
        """The job with its functions run in this home, so that what they import inside is found."""
        fields = {name: getattr(job, name) for name in ("model", "batch", "loss", "optimizer", "step")}
        return job.with_(**{name: self._wrapped(f) for name, f in fields.items() if _is_function(f)})

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.entered():
                return function(*args, **kwargs)

        return call

    def _take_own(self, names: set[str]) -> None:
        own_tops = {n.partition(".")[0] for n in names if self._is_here(n.partition(".")[0])}
        for name in names:
            if name in self.modules or name.partition(".")[0] in own_tops:
                self.modules[name] = sys.modules.pop(name)

    def _is_here(self, top: str) -> bool:
        # A virtual environment may lie under the folder: only what was found through the folder itself is the user's.
        module = sys.modules.get(top)
        file = getattr(module, "__file__", None)
        if file is not None:
            return Path(file) in (self.folder / f"{top}.py", self.folder / top / "__init__.py")
        return str(self.folder / top) in map(str, getattr(module, "__path__", ()))


def _is_function(value: Any) -> bool:
    return isinstance(value, (FunctionType, MethodType, functools.partial))


@contextmanager
def quiet_process(argv0: str) -> Iterator[None]:
    """Import a user's module without its touching our arguments or anybody's random numbers."""
    argv = sys.argv
    sys.argv = [argv0]  # A script that parses its arguments gets its defaults, not ours.
    try:
        with random_kept():
            yield
    finally:
        sys.argv = argv
