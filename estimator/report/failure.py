"""An error for a person and for a program."""

from __future__ import annotations

from typing import Any

from estimator.errors import EstimatorError
from estimator.report.page import printable


def failure_text(error: EstimatorError) -> str:
    """The error as text: what is wrong, then what was got, what is allowed, where, what to do."""
    return f"error: {printable(str(error))}\n"


def failure_json(error: EstimatorError) -> dict[str, Any]:
    """The error's facts under the key `error`; a fact that is not known is null."""
    from estimator.result import SCHEMA_VERSION

    return {
        "schema_version": SCHEMA_VERSION,
        "error": {
            "kind": type(error).__name__,
            "exit_code": error.exit_code,
            "what": error.what,
            "problems": list(error.problems),
            "got": error.got,
            "allowed": error.allowed,
            "where": error.where,
            "do": error.hint,
        },
    }
