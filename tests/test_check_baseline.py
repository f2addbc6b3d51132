"""The baseline file: the same figures give the same bytes, and nothing but figures of the same versions is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_check import made_up_answer
from test_check_compare import BUSY, FOOTPRINTS, NAMES

from estimator.check.baseline import (
    BASELINE_VERSION,
    baseline_text,
    read_baseline,
    refuse_other_versions,
    write_baseline,
)
from estimator.check.footprint import Footprint, footprint
from estimator.errors import ConfigError

pytestmark = pytest.mark.pure


def taken() -> Footprint:
    answer = made_up_answer()
    return footprint(answer, answer.at(16))


def turned(value: Any) -> Any:
    """The same document with the keys of every object in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(value[key]) for key in reversed(list(value))}
    return value


@BUSY
@given(st.dictionaries(NAMES, FOOTPRINTS, max_size=3))
def test_the_order_of_keys_leaves_no_trace(jobs: dict[str, Footprint]) -> None:
    other = {name: Footprint.model_validate(turned(jobs[name].model_dump())) for name in reversed(list(jobs))}
    text = baseline_text(jobs)
    assert baseline_text(other) == text
    assert text.isascii()
    assert text.endswith("}\n")


@BUSY
@given(st.dictionaries(NAMES, FOOTPRINTS, max_size=3))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, jobs: dict[str, Footprint]) -> None:
    path = tmp_path_factory.mktemp("baseline") / "b.json"
    write_baseline(path, jobs)
    assert read_baseline(path).jobs == jobs


def test_it_holds_no_time_no_path_and_no_fact_of_the_machine() -> None:
    """The keys are these and no others."""
    document = json.loads(baseline_text({"a": taken()}))
    assert sorted(document) == ["about", "baseline_version", "jobs"]
    assert sorted(document["jobs"]["a"]) == [
        "by_category", "max_batch_size", "modules", "peak_at", "peak_bytes", "settings", "versions",
    ]  # fmt: skip
    assert sorted(document["jobs"]["a"]["settings"]) == ["batch_size", "device", "precision"]
    assert sorted(document["jobs"]["a"]["versions"]) == ["batch_estimator", "torch", "traced_with"]


def test_a_file_that_holds_the_same_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    assert write_baseline(path, {"a": taken()})
    before = path.stat()
    assert not write_baseline(path, {"a": taken()})
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert write_baseline(path, {"b": taken()})
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_a_failure_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written to its end never takes the old one's place."""
    path = tmp_path / "b.json"
    write_baseline(path, {"a": taken()})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match="cannot write") as caught:
        write_baseline(path, {"b": taken()})
    assert "No space left" in str(caught.value)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.json"]


def test_whoever_reads_meanwhile_finds_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    write_baseline(path, {"a": taken()})
    before = path.read_text()
    with path.open() as reader:
        write_baseline(path, {"b": taken(), "c": taken()})
        assert reader.read() == before
    assert list(read_baseline(path).jobs) == ["b", "c"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "b.json").symlink_to("real.json")
    write_baseline(tmp_path / "b.json", {"a": taken()})
    assert (tmp_path / "b.json").is_symlink()
    assert list(read_baseline(tmp_path / "real.json").jobs) == ["a"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("<<<<<<< ours\n{}", "not JSON"),
        ("[]", "another form"),
        ('{"jobs": {}}', "another form"),
        (f'{{"baseline_version": {BASELINE_VERSION + 1}, "jobs": {{}}}}', "another form"),
        (f'{{"baseline_version": {BASELINE_VERSION}, "jobs": {{"a": {{}}}}}}', "damaged"),
        (f'{{"baseline_version": {BASELINE_VERSION}, "jobs": {{}}, "more": 1}}', "damaged"),
    ],
)
def test_files_that_are_no_baseline(tmp_path: Path, text: str, what: str) -> None:
    """Exit code 2, the file's name, and the line that makes it anew."""
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=what) as caught:
        read_baseline(path)
    assert (caught.value.exit_code, caught.value.where) == (2, str(path))
    assert "--update-baseline" in str(caught.value)


def test_a_size_that_is_no_whole_number(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    document = json.loads(baseline_text({"a": taken()}))
    document["jobs"]["a"]["peak_bytes"]["device"] = "1e9"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        read_baseline(path)
    assert caught.value.problems[0].startswith("jobs.a.peak_bytes.device: ")


@pytest.mark.parametrize("name", ["batch_estimator", "torch", "traced_with"])
def test_other_versions_are_not_compared(name: str) -> None:
    now = taken()
    before = now.model_copy(update={"versions": now.versions.model_copy(update={name: "1.2.3"})})
    refuse_other_versions(now, now.versions)
    with pytest.raises(ConfigError, match="other versions") as caught:
        refuse_other_versions(before, now.versions)
    assert caught.value.exit_code == 2
    assert caught.value.got is not None
    assert getattr(now.versions, name) in caught.value.got
    assert "1.2.3" in str(caught.value.allowed)
    assert "--update-baseline" in str(caught.value.hint)
    assert ('torch_version = "1.2.3"' in str(caught.value.hint)) is (name == "torch")
