"""Verdicts as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from estimator.check.verdict import Verdict, worst

CHECK_VERSION = 1


class CheckDocument(BaseModel):
    """What `batch-estimator check --json` prints; keys keep their meaning while `check_version` stays the same."""

    model_config = ConfigDict(frozen=True)

    check_version: int = CHECK_VERSION
    exit_code: int
    config: str
    """The file the jobs come from, as it was named."""
    baseline: str
    """Where the baseline is or would be."""
    baseline_updated: bool
    """Whether this run changed it."""
    jobs: tuple[Verdict, ...]


def check_document(verdicts: Sequence[Verdict], config: str, baseline: str, updated: bool) -> dict[str, Any]:
    """The document, ready for `json.dumps`."""
    document = CheckDocument(
        exit_code=worst(verdicts), config=config, baseline=baseline, baseline_updated=updated, jobs=tuple(verdicts)
    )
    return document.model_dump(mode="json")
