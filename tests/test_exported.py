"""`__all__` is sorted, and everything in it is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import estimator

PACKAGE = Path(estimator.__file__).parent


def listed(path: Path) -> list[str] | None:
    """The `__all__` of a file, read and not imported."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def constants_then_classes(name: str) -> tuple[int, str]:
    """The order that ruff's RUF022 keeps: CONSTANTS, Classes, then the rest."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


@pytest.mark.pure
def test_every_list_is_sorted_and_names_nothing_twice() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        names = listed(path)
        if names is not None:
            assert names == sorted(set(names), key=constants_then_classes), path


@pytest.mark.pure
def test_the_public_names_are_these() -> None:
    assert estimator.__all__ == [
        "Advice", "BatchEstimate", "DeviceProfile", "Estimate", "EstimatorError", "Frontier", "Lengths", "TrainingJob",
        "advise", "estimate", "find_executable_batch_size", "frontier", "lengths", "watch",
    ]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("name", estimator.__all__)
def test_a_public_name_is_there_and_has_a_docstring(name: str) -> None:
    thing = getattr(estimator, name)
    assert thing.__name__ == name
    assert thing.__doc__


@pytest.mark.pure
def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'estimat'"):
        estimator.estimat  # noqa: B018
