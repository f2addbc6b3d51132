"""The words of errors: nearest names, the user's line that failed, and the line that installs what is absent."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from estimator.errors import SourceError


def nearest(name: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the names that are spelt most like `name`, best first."""
    return get_close_matches(name, list(names), n=count, cutoff=0.6)


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A hint with the nearest names, or None where none is near."""
    close = nearest(name, names)
    return f"did you mean {' or '.join(close)}?" if close else None


def require(package: str, extra: str, what: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        SourceError: it is not installed (with the line that installs it), or its own import fails.
    """
    try:
        return import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            raise SourceError(
                f"{what} needs {package}, whose import fails: {error}", hint=f"pip install 'batch-estimator[{extra}]'"
            ) from error
        raise SourceError(
            f"{what} needs {package}, which is not installed", hint=f"pip install 'batch-estimator[{extra}]'"
        ) from None
    except Exception as error:
        raise SourceError(
            f"{what} needs {package}, whose import fails: {type(error).__name__}: {error}",
            hint=f"install a {package} that matches the installed torch",
        ) from error


def user_error(error: BaseException, doing: str, folder: Path | None = None) -> SourceError:
    """Say what went wrong in the user's code, with the file and line that it wrote.

    Args:
        error: what was raised.
        doing: what was being done, such as `loading train.py`.
        folder: where the user's code lies; the innermost frame in it is named, else the innermost of all.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if folder is not None and Path(f.filename).is_relative_to(folder)]
    ours = str(Path(__file__).parent)
    named = own or [f for f in frames if not f.filename.startswith((ours, "<frozen importlib"))]
    where = f"{named[-1].filename}:{named[-1].lineno} in {named[-1].name}" if named else None
    if isinstance(error, SyntaxError) and error.filename is not None:
        where = f"{error.filename}:{error.lineno}"
    text = str(error).strip().partition("\n")[0]
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    hint = None
    if isinstance(error, SystemExit):
        said, hint = f"it exits ({said})", 'put what runs the training under `if __name__ == "__main__":`'
    elif isinstance(error, ModuleNotFoundError) and error.name:
        hint = f"install {error.name.partition('.')[0]}, or put its folder on PYTHONPATH"
    return SourceError(f"{doing} failed: {said}", where=where, hint=hint)


def called(function: Callable[..., Any], doing: str, folder: Path | None, **kwargs: Any) -> Any:
    """Call a function of the user's; its errors come out as `SourceError` with file and line."""
    from estimator.errors import EstimatorError

    try:
        return function(**kwargs)
    except (EstimatorError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise user_error(error, doing, folder) from error
