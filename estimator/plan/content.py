"""What an answer hangs on besides its settings: the job's own files, and the versions of what reads them."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import estimator
from estimator.sources import SCHEMES

_LIBRARIES = {"torchvision": ("torchvision",), "timm": ("timm",), "hf": ("transformers", "peft")}
_ALWAYS = ("torch", "transformers", "timm", "torchvision", "peft", "lightning", "bitsandbytes")
"""Packages whose version is part of every key, or of those of the user's own modules, which may use any of them."""

_AFTER = ("check", "cli.py", "commands", "integrations", "report")
"""Parts of this package that only tell what others found..."""
_CELL = Path(estimator.__file__).parent / "report" / "cell.py"
"""...but for what is kept of an answer."""


def digest(value: Any) -> str:
    """The SHA-256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def job_content(spec: str, folder: Path) -> dict[str, str]:
    """What the job's specification stands for: digests of files by path, and versions of packages.

    Of a file or module: itself, and every module it imports, directly or not, that lies in its folder or in the plan's
    (found by reading `import` lines; what is imported by a computed name is not seen). Of `hf:PATH`: the configuration.
    Of a library's model: the library's version.
    """
    scheme, colon, name = spec.partition(":")
    if colon and scheme in SCHEMES:
        found = _versions(("torch", *_LIBRARIES[scheme]))
        if scheme == "hf":
            config = folder / name
            found |= _digests([config if config.is_file() else config / "config.json"], folder)
        return found
    place, colon, attribute = spec.rpartition(":")
    if not colon or attribute.endswith(".py"):
        place = spec
    own = folder / place if place.endswith(".py") else None
    roots = [folder] if own is None else [own.parent, folder]
    start = [own] if own is not None else list(_files_of(place, roots))
    return _versions(_ALWAYS) | _digests(_reachable(start, roots), folder)


@lru_cache(maxsize=1)
def own_versions() -> dict[str, str]:
    """This package's version, a digest of its source, and the Python and torch that trace."""
    package = Path(estimator.__file__).parent
    files = sorted(p for p in package.rglob("*.py") if p.relative_to(package).parts[0] not in _AFTER or p == _CELL)
    source = digest([[str(p.relative_to(package)), _file_digest(p)] for p in files])
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"batch-estimator": estimator.__version__, "source": source, "python": python, **_versions(("torch",))}


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _digests(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """Digests by path, which is relative to the plan where it can be: a moved folder keeps its answers."""
    found = {}
    for file in files:
        path = file.resolve()
        name = path.relative_to(folder.resolve()) if path.is_relative_to(folder.resolve()) else path
        found[name.as_posix()] = _file_digest(path)
    return found


def _file_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:  # a cell whose file is missing is an error of that cell, told when it is solved
        return "unreadable"


def _reachable(start: Iterable[Path], roots: list[Path]) -> list[Path]:
    """The files, and those that they import from the roots, and so on."""
    found: dict[Path, None] = {}
    waiting = list(start)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found[file] = None
        for name in _imports(file):
            waiting += _files_of(name, roots)
    return sorted(found)


def _imports(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            for name in node.names:
                inner = f"{base}.{name.name}".lstrip(".")
                if node.level:
                    yield from _relative(file, node.level, inner)
                else:
                    yield inner


def _relative(file: Path, level: int, name: str) -> Iterator[str]:
    """Names that a relative import may mean, seen from every folder above the file."""
    package = file.parent
    for _ in range(level - 1):
        package = package.parent
    parts: list[str] = []
    for _ in range(8):
        parts.insert(0, package.name)
        yield ".".join((*parts, name))
        if package.parent == package:
            return
        package = package.parent


def _files_of(name: str, roots: list[Path]) -> Iterator[Path]:
    """Files under the roots that importing a dotted name runs: packages on the way, and the module."""
    parts = name.split(".")
    for root in roots:
        if not (root / parts[0]).is_dir() and not (root / f"{parts[0]}.py").is_file():
            continue
        for count in range(1, len(parts) + 1):
            place = root.joinpath(*parts[:count])
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file():
                    yield file
