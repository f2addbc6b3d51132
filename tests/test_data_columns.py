"""Lengths read from files and tables: what is taken, and what is refused with the row and the nearest name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from estimator.data.columns import checked, lengths_of_file, lengths_of_table, split_spec
from estimator.errors import ConfigError

pytestmark = pytest.mark.pure


def refused(call: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("a.csv", "id,length\n7,3\n8,5\n", "length"),
        ("a.csv", "length\n3\n5\n", None),
        ("a.tsv", "id\tlength\n7\t3\n8\t5\n", "length"),
        ("a.csv", "\ufefflength,id\n3,1\n\n5,2\n", "length"),
        ("a.jsonl", '{"length": 3}\n\n{"length": 5.0}\n', "length"),
        ("a.jsonl", '{"ids": [1, 2, 3], "x": 1}\n{"ids": [1, 2, 3, 4, 5], "x": 1}\n', "ids"),
        ("a.jsonl", "3\n5\n", None),
        ("a.json", "[3, 5]", None),
        ("a.json", '{"length": [3, 5], "id": [1, 2]}', "length"),
        ("a.json", '[{"length": 3}, {"length": 5}]', None),
        ("a.txt", "3\n5\n", None),
    ],
)
def test_numbers_and_lists_are_lengths(tmp_path: Path, name: str, text: str, column: str | None) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert lengths_of_file(path, column).tolist() == [3, 5]


def test_a_column_that_is_not_there_gets_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("input_ids,label\n3,1\n")
    text = refused(lambda: lengths_of_file(path, "inputs_ids"))
    assert "did you mean input_ids?" in text
    assert "input_ids, label" in text
    assert "several columns" in refused(lambda: lengths_of_file(path))


def test_a_file_that_is_not_there_gets_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("3\n")
    assert "did you mean train.jsonl?" in refused(lambda: lengths_of_file(tmp_path / "tran.jsonl"))


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.xlsx"])
def test_other_formats_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PAR1")
    assert "JSON lines" in refused(lambda: lengths_of_file(tmp_path / name))


@pytest.mark.parametrize("value", [0, -3, 2.5, float("nan"), float("inf"), True, None, [], {}, ""])
def test_what_is_no_length_is_named_with_its_row(value: Any) -> None:
    text = refused(lambda: checked([4, value, 6, value], "here"))
    assert "2 of 4 rows hold no length" in text
    assert "row 2: " in text
    assert "row 4: " in text


def test_a_text_must_be_made_into_tokens_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "a long story"}))
    assert "made into tokens" in refused(lambda: lengths_of_file(path, "text"))


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.csv", "length\n"), ("a.txt", "\n"), ("a.json", "[]")])
def test_an_empty_file_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert "empty" in refused(lambda: lengths_of_file(tmp_path / name))


@pytest.mark.parametrize(("name", "data"), [("a.jsonl", b"{3\n"), ("a.json", b"\xff\xfe\x00"), ("a.txt", b"\xff\n")])
def test_a_broken_file_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert "cannot be read" in refused(lambda: lengths_of_file(tmp_path / name))


class Table:
    """What `datasets.Dataset` shows of itself."""

    column_names = ("input_ids", "n")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, name: str) -> Any:
        return {"input_ids": [[1, 2, 3], [1, 2, 3, 4, 5]], "n": np.asarray([3, 5])}[name]


def test_a_column_of_a_table_is_numbers_or_lists() -> None:
    for column in Table.column_names:
        assert lengths_of_table(Table(), column).tolist() == [3, 5]
    assert "did you mean input_ids?" in refused(lambda: lengths_of_table(Table(), "input_id"))


def test_a_dataset_of_several_splits_is_refused() -> None:
    class Splits:
        column_names = {"train": ["n"], "test": ["n"]}  # noqa: RUF012

    assert "dataset['train']" in refused(lambda: lengths_of_table(Splits(), "n"))


def test_rows_are_told_as_they_are_read() -> None:
    told: list[tuple[int, int]] = []
    checked([1] * 40_000, "here", advance=lambda done, total, _: told.append((done, total)), total=40_000)
    assert told == [(16384, 40_000), (32768, 40_000)]


def test_the_column_is_what_follows_the_last_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert split_spec("data/train.jsonl:length") == (Path("data/train.jsonl"), "length")
    assert split_spec("train.jsonl") == (Path("train.jsonl"), None)
    monkeypatch.chdir(tmp_path)
    Path("odd:name.csv").write_text("1\n")
    assert split_spec("odd:name.csv") == (Path("odd:name.csv"), None)
