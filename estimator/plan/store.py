"""What is solved so far: one line of JSON a cell, on the disk before the next is begun."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from estimator.errors import ConfigError
from estimator.plan.work import Solved

FILE = "cells.jsonl"
_LOCK = "cells.lock"


class Store:
    """The file of a plan's folder that results are appended to. Use it as a context manager: it is for one at a time.

    A line that a killed process left unfinished at the end is cut off when the store is opened, and so is done again.

    Raises:
        ConfigError: the folder cannot be written, or another process works in it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.results: dict[str, dict[str, Any]] = {}
        """By key, as they were read and as they were added."""
        self.dropped = 0
        """Lines that were no result: cut off at the end, skipped elsewhere."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Store:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._folder / _LOCK)
            self._file = self.path.open("ab+")
        except OSError as error:
            raise ConfigError(
                "the plan's folder cannot be written",
                got=error.strerror,
                where=str(self._folder),
                hint="name another: -o DIR",
            ) from None
        self._read(self._file)
        _sync_folder(self._folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._file, self._lock):
            if file is not None:
                file.close()

    def add(self, solved: Iterable[Solved]) -> None:
        """Append results; they are on the disk when this returns."""
        assert self._file is not None
        for one in solved:
            self.results[one.key] = one.result
            self._file.write(json.dumps({"key": one.key, "result": one.result}, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, file: IO[bytes]) -> None:
        file.seek(0)
        end = 0
        for line in file:
            found = _parsed(line)
            if found is None:
                self.dropped += 1
            else:
                self.results[found[0]] = found[1]
            if line.endswith(b"\n"):
                end += len(line)
        file.truncate(end)
        file.seek(0, os.SEEK_END)


def _parsed(line: bytes) -> tuple[str, dict[str, Any]] | None:
    """A result and its key, or None for what is no whole line of ours."""
    if not line.endswith(b"\n"):
        return None
    try:
        document = json.loads(line)
        key, result = document["key"], document["result"]
    except (ValueError, KeyError, TypeError):
        return None
    return (key, result) if isinstance(key, str) and isinstance(result, dict) else None


def _locked(path: Path) -> IO[bytes]:
    """Take the lock of a folder; the system gives it back when the process ends, however it ends."""
    file = path.open("ab")
    try:
        import fcntl
    except ImportError:  # no such locks on this system: two plans at once in one folder are not refused there
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(
            "another process works in the plan's folder",
            where=str(path.parent),
            hint="wait for it, or name another: -o DIR",
        ) from None
    except OSError:  # a file system without locks
        pass
    return file


def _sync_folder(folder: Path) -> None:
    """Let a file that was just made be found after a crash of the machine."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
