"""Lengths from a column: of a text file (CSV, JSON lines, one number a line) or of a table such as a HF dataset."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from estimator.errors import ConfigError
from estimator.sources.words import did_you_mean

Advance = Callable[[int, int, str], object]
"""Told (done, total, what): as `estimator.report.bar.Bar` is; the total is 0 where it is not known."""
FORMATS = ".csv, .tsv, .jsonl, .ndjson, .json or .txt"
_SHOWN = 3
_EVERY = 1 << 14
"""Rows between two words of progress."""


def split_spec(text: str) -> tuple[Path, str | None]:
    """The file and the column of `FILE:COLUMN`; a file whose own name has a colon is found all the same."""
    if Path(text).exists() or ":" not in text:
        return Path(text), None
    file, _, column = text.rpartition(":")
    return Path(file), column or None


def lengths_of_file(path: Path, column: str | None = None, advance: Advance | None = None) -> NDArray[np.int64]:
    """Read one length a row: a number, or a list whose elements are counted.

    Args:
        path: a text file; its ending says how it is read.
        column: which column (CSV: of the header) or key; it may be left out where there is but one.
        advance: told how many rows have been read.

    Raises:
        ConfigError: no such file or column, a format that is not known, or a row that holds no length of 1 or more.
    """
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise ConfigError(
            "there is no such file of lengths", got=str(path), where="--lengths", hint=did_you_mean(path.name, names)
        )
    readers: dict[str, Callable[[Path, str | None], Iterator[Any]]] = {
        ".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".txt": _lines,
    }  # fmt: skip
    reader = readers.get(path.suffix.lower())
    if reader is None:
        hint = "write the column as JSON lines" + (
            ", or give the dataset itself to estimator.lengths" if path.suffix in (".parquet", ".arrow") else ""
        )
        raise ConfigError("lengths are not read from such a file", got=path.name, allowed=FORMATS, hint=hint)
    where = f"{path}{f':{column}' if column else ''}"
    try:
        return checked(reader(path, column), where, advance=advance)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ConfigError("the file of lengths cannot be read", got=str(error), where=where) from None


def lengths_of_table(table: Any, column: str | None, advance: Advance | None = None) -> NDArray[np.int64]:
    """Read a column of a table with `column_names` and `table[name]`, as `datasets.Dataset` is.

    Raises:
        ConfigError: as for `lengths_of_file`.
    """
    if isinstance(table.column_names, Mapping):
        splits = list(table.column_names)
        raise ConfigError(
            "the dataset has several splits", got=", ".join(map(str, splits)), where="lengths=",
            hint=f"give one of them: dataset[{splits[0]!r}]" if splits else None,
        )  # fmt: skip
    names = [str(name) for name in table.column_names]
    name = _chosen(names, column, "the dataset")
    return checked(table[name], f"column {name}", advance=advance, total=len(table))


def checked(values: Iterable[Any], where: str, *, advance: Advance | None = None, total: int = 0) -> NDArray[np.int64]:
    """The values as lengths of 1 or more.

    Raises:
        ConfigError: a value is none; the first few rows are named. Or there is no value at all.
    """
    found: list[int] = []
    problems: list[str] = []
    wrong = 0
    texts = False
    for row, value in enumerate(values):
        length, problem = _length(value)
        if problem:
            wrong, texts = wrong + 1, texts or isinstance(value, str)
            if wrong <= _SHOWN:
                problems.append(f"row {row + 1}: {problem}")
        found.append(length)
        if advance is not None and row % _EVERY == _EVERY - 1:
            advance(row + 1, total, "")
    if wrong:
        raise ConfigError(
            f"{wrong} of {len(found)} rows hold no length", problems=problems, where=where,
            allowed="a whole number of 1 or more, or a list that is not empty",
            hint="a text must be made into tokens first: give the column of token ids, or of their number"
            if texts else "drop these rows, as the training has to",
        )  # fmt: skip
    if not found:
        raise ConfigError("there are no lengths: the data are empty", where=where, hint="give at least one sample")
    return np.asarray(found, dtype=np.int64)


def _length(value: Any) -> tuple[int, str]:
    """The length that a value is or has, and what is wrong with it."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, str):
        text = value.strip()
        try:
            value = float(text) if "." in text or "e" in text.lower() else int(text)
        except ValueError:
            return 0, f"{text[:30]!r} is a text" if text else "nothing"
    if isinstance(value, bool) or value is None:
        return 0, repr(value)
    if isinstance(value, (int, float)):
        if value != value or value in (float("inf"), float("-inf")) or value != int(value) or value < 1:
            return 0, f"{value!r}"
        return int(value), ""
    if isinstance(value, Mapping) or not hasattr(value, "__len__"):
        return 0, f"a {type(value).__name__}"
    return len(value), "" if len(value) else "an empty list"


def _chosen(names: list[str], column: str | None, what: str) -> str:
    if column is None and len(names) == 1:
        return names[0]
    if column is None:
        raise ConfigError(
            f"{what} has several columns, and none was named", got=", ".join(names[:12]), where="the lengths",
            hint="name it: FILE:COLUMN, or column=",
        )  # fmt: skip
    if column not in names:
        raise ConfigError(
            f"{what} has no such column", got=column, allowed=", ".join(names[:12]) or "none: it has no column",
            where="the lengths", hint=did_you_mean(column, names),
        )  # fmt: skip
    return column


def _csv(path: Path, column: str | None) -> Iterator[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = next(rows, [])
        index = names.index(_chosen(names, column, str(path)))
        for row in rows:
            if row:
                yield row[index] if index < len(row) else None


def _json_lines(path: Path, column: str | None) -> Iterator[Any]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield _of(json.loads(line), column, str(path))


def _json(path: Path, column: str | None) -> Iterator[Any]:
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, Mapping):  # columns by name
        yield from content[_chosen([str(name) for name in content], column, str(path))]
        return
    if not isinstance(content, list):
        raise ConfigError("the file holds no list", got=type(content).__name__, where=str(path))
    for row in content:
        yield _of(row, column, str(path))


def _of(row: Any, column: str | None, what: str) -> Any:
    if isinstance(row, Mapping):
        return row[_chosen([str(name) for name in row], column, what)]
    if column is not None:
        raise ConfigError(
            "a row has no columns", got=f"a {type(row).__name__}", where=what, hint=f"leave out :{column}"
        )
    return row


def _lines(path: Path, column: str | None) -> Iterator[Any]:
    if column is not None:
        raise ConfigError("a text file has no columns", got=column, where=str(path), hint="one number a line")
    with path.open(encoding="utf-8-sig") as file:
        yield from (line for line in file if line.strip())
