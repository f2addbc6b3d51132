"""A batch of one that is another program is answered from a trace of its own, and nothing else is traced for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from estimator import one_sample
from estimator.errors import TraceError
from estimator.one_sample import with_one_sample

pytestmark = pytest.mark.pure


def evaluator(name: str) -> Any:
    return SimpleNamespace(model=name)


@pytest.mark.parametrize(("off", "said"), [(0, "lines"), (512, "own"), (None, "own")])
def test_a_batch_of_one_is_traced_once_and_only_when_asked(
    off: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[int] = []

    def trace_one() -> Any:
        traced.append(1)
        return "trace of one"

    monkeypatch.setattr(one_sample, "residual", lambda model, seen: off)
    of: Any = with_one_sample(evaluator("lines"), trace_one, lambda seen: evaluator("own"))
    assert (of(2).model, traced) == ("lines", [])
    assert (of(1).model, of(1).model, of(3).model, traced) == (said, said, "lines", [1])


def test_what_cannot_run_with_one_sample_follows_the_lines_and_is_said() -> None:
    def trace_one() -> Any:
        raise TraceError("more than one value per channel is expected")

    of: Any = with_one_sample(evaluator("lines"), trace_one, lambda seen: evaluator("own"))
    with pytest.warns(RuntimeWarning, match="more than one value"):
        assert of(1).model == "lines"
