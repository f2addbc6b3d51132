"""The baseline: a committed file that holds what each job took when it was last accepted.

The file is the same byte for byte whenever the figures are: sorted keys, and no time, path or fact of the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from estimator.check.footprint import Footprint, Versions
from estimator.errors import ConfigError

BASELINE_VERSION = 1
"""Of this file's form; raised with every change that an older reader would misread."""
UPDATE = "batch-estimator check --update-baseline"
_ABOUT = f"Predicted memory of the jobs that `batch-estimator check` looks at. Made by `{UPDATE}`; commit it."
_NAMES = {"batch_estimator": "batch-estimator", "torch": "PyTorch", "traced_with": "the PyTorch that traces"}


class Baseline(BaseModel):
    """The file's content: a footprint by job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = _ABOUT
    baseline_version: int = BASELINE_VERSION
    jobs: dict[str, Footprint]


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        ConfigError: it cannot be read, is no baseline, or has another form than this version writes.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "cannot read the baseline", got=error.strerror, where=str(path), hint=f"make it: {UPDATE}"
        ) from None
    except ValueError as error:  # neither JSON nor text
        raise ConfigError(
            "the baseline is not JSON", got=str(error), where=str(path),
            hint=f"after a merge conflict, make it anew: {UPDATE}",
        ) from None  # fmt: skip
    version = document.get("baseline_version") if isinstance(document, dict) else None
    if version != BASELINE_VERSION:
        raise ConfigError(
            "the baseline was written in another form, by another version of batch-estimator",
            got=f"baseline_version {version!r}",
            allowed=str(BASELINE_VERSION),
            where=str(path),
            hint=f"use the version that wrote it, or accept today's figures: {UPDATE}",
        )
    try:
        return Baseline.model_validate(document)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigError(
            "the baseline is damaged", where=str(path), problems=problems, hint=f"make it anew: {UPDATE}"
        ) from None


def refuse_other_versions(before: Footprint, now: Versions) -> None:
    """Refuse to compare what hangs on other versions: the difference would not be the job's.

    Raises:
        ConfigError: a version differs; says which, and what to do.
    """
    old, new = before.versions.model_dump(), now.model_dump()
    if old == new:
        return
    differ = [name for name in new if old[name] != new[name]]
    hint = f"install the versions of the baseline, or accept today's figures: {UPDATE}"
    if differ == ["torch"]:
        hint = f'torch_version = "{old["torch"]}" in the job asks for the baseline\'s; or {UPDATE}'
    raise ConfigError(
        "the baseline was made with other versions, so the figures cannot be compared",
        got="; ".join(f"{_NAMES[name]} {new[name]}" for name in differ),
        allowed="; ".join(f"{_NAMES[name]} {old[name]}" for name in differ) + ", as in the baseline",
        hint=hint,
    )


def write_baseline(path: Path, jobs: Mapping[str, Footprint]) -> bool:
    """Write a baseline in one step: whoever reads meanwhile, or a crash, finds the old file or the new one whole.

    Returns:
        Whether the file was changed; one that holds the same already is left alone.

    Raises:
        ConfigError: it cannot be written.
    """
    text = baseline_text(jobs)
    path = path.resolve()  # a link stays a link
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == text.encode():
                return False
        try:
            with part.open("w", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError("cannot write the baseline", got=error.strerror, where=str(path)) from None
    return True


def baseline_text(jobs: Mapping[str, Footprint]) -> str:
    """The file's text."""
    document: dict[str, Any] = Baseline(jobs=dict(jobs)).model_dump(mode="json")
    return json.dumps(document, indent=1, sort_keys=True) + "\n"
