"""`batch-estimator schema`: the JSON schema of what `predict --json` prints."""

from __future__ import annotations

from estimator.commands.run import FITS, guarded, write_json


@guarded
def schema() -> int:
    """Print the JSON schema of what `predict --json` prints."""
    from estimator.report.json import schema as make

    write_json(make())
    return FITS
