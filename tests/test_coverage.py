"""The coverage: which models it takes, how a result is told, and that a failure keeps its cause."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from benchmarks import coverage, coverage_configs, coverage_models, coverage_report

pytestmark = pytest.mark.torch


def result(name: str, **more: Any) -> dict[str, Any]:
    good = {
        "group": "timm", "name": name, "ok": True, "seconds": 2.0, "cpu_seconds": 1.0, "peak_rss_bytes": 3 << 20,
        "steps": 1, "ops": 5, "parameter_count": 1000, "warnings": [],
    }  # fmt: skip
    return {**good, **more}


def test_small_config_has_two_layers_and_lists_to_match() -> None:
    fields = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "text_config": {"n_layer": 12}, "hidden_size": 8}
    small = coverage_configs.small("kind", fields)
    assert small["num_hidden_layers"] == small["text_config"]["n_layer"] == 2
    assert small["layer_types"] == ["a", "b"]
    assert small["hidden_size"] == 8
    assert fields["layer_types"] == ["a", "b", "c"], "the fields that were given are not changed"


def test_backbone_keeps_its_stages() -> None:
    fields = {"num_hidden_layers": 12, "out_indices": [3, 11]}
    assert coverage_configs.small("kind", fields)["num_hidden_layers"] == 12


def test_types_are_eighty_or_more_and_none_twice() -> None:
    assert len(set(coverage_configs.TYPES)) == len(coverage_configs.TYPES) >= 80


def test_timm_families_are_all_there() -> None:
    from benchmarks.vision import settle

    settle()
    timm = pytest.importorskip("timm")
    names = coverage_models.timm_names()
    assert len(names) == len(set(names)) >= coverage_models.TIMM_LEAST
    chosen = set(names)
    assert all(chosen & set(timm.list_models(module=module)) for module in timm.list_modules())


def test_report_sums_and_names_what_failed() -> None:
    bad = {
        "group": "timm", "name": "b", "ok": False, "kind": "DataDependentError", "what": "w", "got": "aten.a|b",
        "where": "x/site-packages/timm/f.py:3", "seconds": 1.0, "with_real_run": True,
    }  # fmt: skip
    text = coverage_report.markdown([result("a"), bad])
    assert "| timm | 2 | 1 | 50.0% | 2 | 1.0 | 1.0 | 2.0 | 2.0 | 3 |" in text
    assert "| timm/b | DataDependentError | aten.a\\|b | timm/f.py:3 | traced |" in text
    assert "| timm/a | 1,000 | 1 | 5 | 1.0 | 2.0 | 3 |  |" in text


def test_last_result_of_a_model_counts(tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    file.write_text('{"group": "timm", "name": "a", "ok": false}\n{"group": "timm", "name": "a", "ok": true}\n')
    assert coverage.read(file) == {"timm/a": {"group": "timm", "name": "a", "ok": True}}
    assert coverage.read(tmp_path / "none") == {}


def test_model_that_is_not_there_is_a_failure_with_its_cause() -> None:
    row = coverage_models.Row("torchvision", "nothing", "benchmarks/zoo/mlp.py:nothing")
    said = coverage.one(row, 60)
    assert (said["ok"], said["kind"]) == (False, "SourceError")
    assert "no attribute" in said["what"]


def test_model_that_traces_tells_what_it_took() -> None:
    said = coverage.one(coverage_models.Row("torchvision", "mlp", "benchmarks/zoo/mlp.py:job"), 60)
    assert said["ok"], said
    assert said["parameter_count"] > 0
    assert said["seconds"] > 0
    assert said["peak_rss_bytes"] > 1 << 20
