"""Library models on a CPU: the sample, its table, and one model of it to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks import cpu_models
from estimator import stages
from estimator.sources.torchvision_import import import_torchvision

pytestmark = pytest.mark.torch


def test_the_sample_is_of_three_libraries() -> None:
    found = cpu_models.names()
    assert len(found) == len(set(found)) >= 40
    assert {name.partition("/")[0] for name in found} == {"torchvision", "timm", "transformers"}
    assert set(cpu_models.CAUSES) <= set(found)


def test_the_table_names_what_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_models, "version", lambda name: "1")
    monkeypatch.setattr(cpu_models, "CAUSES", {"timm/b": "its cause"})
    rows: list[dict[str, Any]] = [
        {"model": "timm/a", "predicted": 1000, "measured": 1000, "difference": 0},
        {"model": "timm/b", "predicted": 990, "measured": 1000, "difference": -10},
        {"model": "timm/c", "predicted": 1020, "measured": 1000, "difference": 20},
        {"model": "timm/d", "error": "prediction: it | fails"},
    ]
    text = cpu_models.markdown(rows)
    assert "1 of 3 exact to the byte; largest under-estimate -1.000 %" in text
    assert "2.000 %. 1 of 4 could not be compared." in text
    assert "| timm/b | 990 | 1,000 | -10 | -1.000 | its cause |" in text
    assert "| timm/c | 1,020 | 1,000 | +20 | +2.000 | not known |" in text
    assert "prediction: it / fails" in text


def test_a_model_of_the_sample_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_torchvision(required=False)
    pytest.importorskip("transformers")
    monkeypatch.setattr(stages, "TOTAL_STEPS", stages.TOTAL_STEPS)  # `predicted` sets it
    # BART draws a number for each layer, and drops it below `layerdrop` (0).
    for name in ("transformers/gpt2", "transformers/bart"):
        assert cpu_models.predicted(name, tmp_path)["predicted"] == cpu_models.measured(name, tmp_path)["measured"]
