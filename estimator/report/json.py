"""The answer as JSON: the document, its writer, its reader and its schema.

The document's keys keep their order and their meaning while `schema_version` stays the same; bytes are whole numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from estimator.device import DeviceProfile
from estimator.errors import ConfigError
from estimator.host_memory import HostMemory
from estimator.result import (
    SCHEMA_VERSION,
    BatchEstimate,
    Counts,
    Estimate,
    Interval,
    ModuleBytes,
    TimelinePoint,
    Warning,
)


class BatchDocument(BatchEstimate):
    """Memory of the job at one batch size, as `at` of the document holds it."""

    # `fits` and the sums may be wrong only if the record is: nothing is computed here but what it derives.
    @computed_field  # type: ignore[prop-decorator]
    @property
    def by_category(self) -> dict[str, int]:
        """Bytes by category at the peak; sums to `device_bytes`."""
        return {line.name: line.size_bytes for line in self.lines}


class Document(BaseModel):
    """What `batch-estimator predict --json` prints.

    The figures at the top are those at `best_batch_size`: the largest batch that fits, or 1 where nothing fits.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int
    job: str
    settings: dict[str, Any]
    device: DeviceProfile
    torch_version: str
    max_batch_size: int
    max_batch_size_low: int
    max_batch_size_without_retries: int
    limited_by: str
    best_batch_size: int
    next_batch_size: int | None
    """Key in `at` of the next batch up, which does not fit; null where there is none."""
    requested_batch_size: int | None
    """Key in `at` of the batch size that was asked about; null where none was."""
    fits: bool
    """Of the batch that was asked about, or whether any batch fits."""
    peak_requested_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    device_bytes: int
    device_interval: Interval
    capacity_bytes: int
    headroom_bytes: int
    by_category: dict[str, int]
    """Bytes by category at the peak; sums to `device_bytes`."""
    at: dict[str, BatchDocument]
    """By batch size (a JSON key is a string): the best, the next, the one that was asked about."""
    counts: Counts
    modules: tuple[ModuleBytes, ...]
    timeline: tuple[TimelinePoint, ...]
    warnings: tuple[Warning, ...]
    seconds: dict[str, float]
    host: HostMemory | None
    """The job's memory of the host; null where nothing is known of how its data comes."""


def to_json(estimate: Estimate, requested: BatchEstimate | None = None) -> dict[str, Any]:
    """Make the document of an estimate, ready for `json.dumps`.

    Args:
        estimate: the answer.
        requested: `estimate.at(n)` of a batch size that was asked about besides.
    """
    best, following = estimate.best, estimate.next
    batches = {b.batch_size: b for b in (best, following, requested) if b is not None}
    document = Document(
        schema_version=estimate.schema_version,
        job=estimate.job,
        settings=dict(estimate.settings),
        device=estimate.device,
        torch_version=estimate.torch_version,
        max_batch_size=estimate.max_batch_size,
        max_batch_size_low=estimate.max_batch_size_low,
        max_batch_size_without_retries=estimate.max_batch_size_without_retries,
        limited_by=estimate.limited_by,
        best_batch_size=best.batch_size,
        next_batch_size=None if following is None else following.batch_size,
        requested_batch_size=None if requested is None else requested.batch_size,
        fits=estimate.max_batch_size > 0 if requested is None else requested.fits,
        peak_requested_bytes=best.peak_requested_bytes,
        peak_allocated_bytes=best.peak_allocated_bytes,
        peak_reserved_bytes=best.peak_reserved_bytes,
        device_bytes=best.device_bytes,
        device_interval=best.device_interval,
        capacity_bytes=best.capacity_bytes,
        headroom_bytes=best.headroom_bytes,
        by_category=best.by_category,
        at={str(size): BatchDocument(**dict(batch)) for size, batch in sorted(batches.items())},
        counts=estimate.counts,
        modules=estimate.modules,
        timeline=estimate.timeline,
        warnings=estimate.warnings,
        seconds=dict(estimate.seconds),
        host=estimate.host,
    )
    return document.model_dump(mode="json")


def from_json(document: Mapping[str, Any]) -> Estimate:
    """Read an estimate back; its `at` knows the batch sizes that the document holds, and no graph or model.

    Raises:
        ConfigError: not such a document, or one of another schema version.
    """
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ConfigError(
            "not an estimate that this version can read",
            got=f"schema_version {version!r}",
            allowed=str(SCHEMA_VERSION),
            hint="predict again with this version of batch-estimator",
        )
    try:
        read = Document.model_validate(document)
        batches = {int(size): BatchEstimate(**_fields(batch)) for size, batch in read.at.items()}
        estimate = Estimate(
            best=batches[read.best_batch_size],
            next=None if read.next_batch_size is None else batches[read.next_batch_size],
            **{name: getattr(read, name) for name in Estimate.model_fields if name not in ("best", "next")},
        )
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("not an estimate in JSON", problems=problems, hint="see batch-estimator schema") from None
    except KeyError as error:
        raise ConfigError(
            "an estimate in JSON lacks a batch size that it names", got=f"no at[{error.args[0]}]"
        ) from None

    def at(batch_size: int) -> BatchEstimate:
        if batch_size not in batches:
            held = ", ".join(map(str, batches))
            raise RuntimeError(
                f"this estimate was read from JSON, which holds only the batch sizes {held}; got {batch_size}"
            )
        return batches[batch_size]

    estimate._at = at
    return estimate


def schema() -> dict[str, Any]:
    """The JSON schema of the document, made from the records."""
    return Document.model_json_schema(mode="serialization")


def _fields(batch: BatchDocument) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in BatchEstimate.model_fields}
