"""What is said beside the figures is of the same moment as they are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from estimator.assemble import _modules
from estimator.ledger import Category, Event, Ledger
from estimator.result import ModuleBytes

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("peak_event", "rows"),
    [
        # Event 1: the weight of `a` (100 B) and the activation of op 0 in `a` (40 B).
        (1, [ModuleBytes(module="a", parameter_bytes=100, activation_bytes=40)]),
        # Event 3: that activation is freed, op 1 in `b` has a temporary of 30 B.
        (3, [ModuleBytes(module="a", parameter_bytes=100), ModuleBytes(module="b", temporary_bytes=30)]),
    ],
)
def test_bytes_by_module_are_those_of_the_peak_that_is_shown(peak_event: int, rows: list[ModuleBytes]) -> None:
    # Under a limit the peak may lie elsewhere than without one, where cached memory was given back in between.
    ledger = Ledger(
        [
            Event(True, 0, 100, Category.PARAMETER),
            Event(True, 1, 40, Category.ACTIVATION, 0),
            Event(False, 1, 40, Category.ACTIVATION, 0),
            Event(True, 2, 30, Category.TEMPORARY, 1),
        ]
    )
    model = SimpleNamespace(
        ops=[SimpleNamespace(module="a"), SimpleNamespace(module="b")], graph=SimpleNamespace(names={0: "a.weight"})
    )
    evaluator = SimpleNamespace(model=model, ledger=lambda n: ledger)
    best = SimpleNamespace(batch_size=8, peak_event=peak_event)
    assert list(_modules(evaluator, best)) == rows  # type: ignore[arg-type]
