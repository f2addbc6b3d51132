"""Imports run down the floors of the house that CONTRIBUTING.md draws, and torch waits until it is needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import estimator

pytestmark = pytest.mark.pure

PACKAGE = Path(estimator.__file__).parent
FLOORS = (
    ("errors",),
    ("units", "heap", "random_state"),
    ("ledger", "device", "environment", "phases", "host_memory"),
    ("job", "graph"),
    ("trace", "semantics", "scratch", "fit", "allocator"),
    ("result", "replays"),
    ("evaluate", "timeline", "solve", "counts", "traces", "host"),
    ("assemble", "beside", "by_batch", "fxgraph", "devices", "one_sample"),
    ("stages",),
    ("pipeline",),
    ("report", "sources"),
    ("advice", "calibrate", "check", "data", "plan", "slurm"),
    ("commands", "integrations"),
    ("cli",),
    ("__main__", "__init__"),
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
BESIDE: set[tuple[str, str]] = set()
"""Parts of one floor of which the first may import the second."""
UP = {("graph", "fxgraph")}
"""Imports inside a function that go up a floor, and may: a record that draws itself when asked."""


class Import(NamedTuple):
    importer: str
    """Dotted, below `estimator`: `fit.model`."""
    imported: str
    """Dotted in full: `estimator.fit.lines`, `torch.nn`."""
    at_import: bool
    """Not inside a function."""


def imports() -> Iterator[Import]:
    """Every import of the package that really happens; those under TYPE_CHECKING do not."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        yield from _within(ast.parse(path.read_text()), module, True)


def _within(node: ast.AST, module: str, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _within(other, module, at_import)
        elif isinstance(child, ast.Import):
            yield from (Import(module, name.name, at_import) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}: imports are written in full"
            base = child.module or ""
            for name in child.names:
                inner = PACKAGE / base.removeprefix("estimator").strip(".").replace(".", "/") / name.name
                is_module = base.split(".")[0] == "estimator" and (inner.is_dir() or inner.with_suffix(".py").exists())
                yield Import(module, f"{base}.{name.name}" if is_module else base, at_import)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _within(child, module, at_import and not inside)


FOUND = list(imports())


def part(module: str) -> str:
    return module.removeprefix("estimator.").split(".")[0]


PARTS = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}


def test_every_part_has_a_floor() -> None:
    homeless = PARTS - set(FLOOR)
    assert not homeless, "say in FLOORS, and in CONTRIBUTING.md, where it stands"


def test_imports_run_down() -> None:
    wrong = []
    for i in FOUND:
        if not i.imported.startswith("estimator."):
            continue
        above, below = part(i.importer), part(i.imported)
        down = FLOOR[above] > FLOOR[below] or above == below
        if not down and (above, below) not in BESIDE and (i.at_import or (above, below) not in UP):
            wrong.append(f"{i.importer} imports {i.imported}")
    assert not wrong


def test_exceptions_are_needed() -> None:
    used = {(part(i.importer), part(i.imported)) for i in FOUND if i.imported.startswith("estimator.")}
    assert used >= BESIDE | UP


def reached(module: str) -> dict[str, str]:
    """What importing a module imports, and then those, each with who asks for it."""
    asks: dict[str, set[str]] = {}
    for i in FOUND:
        if i.at_import:
            asks.setdefault(f"estimator.{i.importer}".removesuffix(".__init__"), set()).add(i.imported)
    seen = {module: ""}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        parents = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)}  # importing a.b imports a
        for other in asks.get(name, set()) | parents:
            if other not in seen:
                seen[other] = name
                waiting.append(other)
    return seen


@pytest.mark.parametrize("module", ["estimator.cli", "estimator.pipeline", "estimator.sources"])
def test_torch_waits_until_it_is_needed(module: str) -> None:
    found = reached(module)
    assert "estimator.errors" in found
    slow = {name: who for name, who in found.items() if name.split(".")[0] in ("torch", "numpy", "fvcore", "rich")}
    assert not slow


def test_the_map_names_every_part() -> None:
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text()
    missing = [p for p in sorted(PARTS) if p != "__init__" and f"`{p}.py`" not in text and f"`{p}/`" not in text]
    assert not missing
