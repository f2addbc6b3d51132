"""The answers about samples that vary in size. Every size of memory is in bytes, every length in the job's own units."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import log

from pydantic import BaseModel, ConfigDict, Field

from estimator.result import Warning


class Asked(BaseModel):
    """Memory at one batch size that was asked about."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    fits: bool
    peak_requested_bytes: int
    device_bytes: int


class Point(BaseModel):
    """The largest batch of samples of one size on one device, from traces at that size."""

    model_config = ConfigDict(frozen=True)

    size: int
    device: str
    max_batch_size: int | None = None
    """None where it cannot be predicted; `error` says why."""
    max_batch_size_low: int | None = None
    """At the low end of the interval."""
    unlimited: bool = False
    """Memory does not limit the batch; `max_batch_size` is where the search ended."""
    peak_requested_bytes: int = 0
    """This and what follows at `max_batch_size`, or at 1 where nothing fits."""
    peak_allocated_bytes: int = 0
    peak_reserved_bytes: int = 0
    device_bytes: int = 0
    capacity_bytes: int = 0
    sample_bytes: int | None = None
    """By which a sample raises the peak of the requested bytes, in the mean from half that batch on."""
    peak_phase: str = ""
    peak_module: str = ""
    peak_op: str = ""
    limited_by: str = ""
    confirmed_at: int | None = None
    """Batch size at which a further trace found the predicted bytes to be those of the step."""
    asked: tuple[Asked, ...] = ()
    warnings: tuple[Warning, ...] = ()
    error: str = ""
    seconds: float = 0.0

    @property
    def padded(self) -> int:
        """Samples times their size: the padded tokens of the largest batch."""
        return self.size * (self.max_batch_size or 0)


class Frontier(BaseModel):
    """The largest batch for each size of a sample, on one device or several."""

    model_config = ConfigDict(frozen=True)

    job: str
    over: str
    """What varies: `sequence_length`, `image_size`, `frames`, or `length`."""
    devices: tuple[str, ...]
    sizes: tuple[int, ...]
    torch_version: str
    points: tuple[Point, ...]
    """By device, then by size."""
    seconds: float = 0.0

    def on(self, device: str) -> tuple[Point, ...]:
        """The points of one device, by size."""
        return tuple(point for point in self.points if point.device == device)

    def growth(self, device: str) -> dict[int, float]:
        """The power of the size by which the bytes of one sample grow, from each size to the next.

        1 is linear; with attention that keeps a matrix of all pairs it goes to 2.
        """
        known = [p for p in self.on(device) if p.sample_bytes]
        return {
            b.size: log((b.sample_bytes or 1) / (a.sample_bytes or 1)) / log(b.size / a.size)
            for a, b in pairwise(known)
        }


class Bin(BaseModel):
    """Lengths from `low` to `high`, both included."""

    model_config = ConfigDict(frozen=True)

    low: int
    high: int
    count: int


class Distribution(BaseModel):
    """The lengths of a data set."""

    model_config = ConfigDict(frozen=True)

    source: str
    count: int
    distinct_count: int
    shortest: int
    longest: int
    mean: float
    percentiles: Mapping[str, int]
    """By percentile, such as "99": the least length that so many percent of the samples do not exceed."""
    histogram: tuple[Bin, ...]
    cut_count: int = 0
    """Samples that were longer than `max_length`."""


class Share(BaseModel):
    """How many of the random batches of one size run out of memory."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    """Samples, drawn without replacement, padded to their longest."""
    longest_that_fits: int | None = None
    """Of the lengths traced; None: none fits."""
    shortest_that_does_not: int | None = None
    low: float
    high: float
    """The share lies between; they are equal where no length of the data set lies between the two lengths above."""
    expected_longest: float
    """Mean of the longest sample of such a batch."""

    @property
    def exact(self) -> bool:
        """Whether the verdict is known for every length of the data set."""
        return self.low == self.high


class Row(BaseModel):
    """The largest batch whose longest sample is at a percentile of the data set."""

    model_config = ConfigDict(frozen=True)

    percentile: float
    length: int
    max_batch_size: int | None
    device_bytes: int
    share: Share | None = None


class WorstBatch(BaseModel):
    """The batch of the data set that takes most."""

    model_config = ConfigDict(frozen=True)

    batch_size: int
    length: int
    device_bytes: int
    capacity_bytes: int
    fits: bool
    why: str

    @property
    def padded(self) -> int:
        """Padded tokens."""
        return self.batch_size * self.length


class TokenBudget(BaseModel):
    """For batches that are filled up to a number of padded tokens: samples times the longest of them."""

    model_config = ConfigDict(frozen=True)

    max_tokens: int
    """Batches of so many padded tokens fit, whatever their longest, where the bytes of a sample grow with its length in a
    straight line or steeper between the lengths that were traced, as those of tensors do."""
    certain_tokens: int
    """The same if all that is known is that they grow."""
    at_length: int
    """The length that holds `max_tokens` down."""


class Epoch(BaseModel):
    """The batches of one epoch, as a sampler gave them."""

    model_config = ConfigDict(frozen=True)

    batch_count: int
    least_batch_size: int
    most_batch_size: int
    most_padded: int
    out_of_memory_count: int
    """Batches that are known to run out."""
    unknown_count: int
    """Batches of which the traced lengths do not tell."""


class Lengths(BaseModel):
    """What the lengths of a data set mean for the batch."""

    model_config = ConfigDict(frozen=True)

    job: str
    over: str
    device: str
    torch_version: str
    data: Distribution
    rows: tuple[Row, ...]
    batch_size: int | None = None
    """The one that was asked about, or the DataLoader's."""
    asked: Share | None = None
    """Of random batches of `batch_size`."""
    worst: WorstBatch | None = None
    epoch: Epoch | None = None
    tokens: TokenBudget | None = None
    points: tuple[Point, ...] = ()
    """Every length that was traced."""
    monotone: bool = True
    """Whether no traced length holds a larger batch than a shorter one."""
    warnings: tuple[Warning, ...] = ()
    seconds: float = Field(default=0.0)

    @property
    def fits(self) -> bool:
        """Whether every batch that was asked about fits, or at least one sample of the longest."""
        if self.worst is not None and not self.worst.fits:
            return False
        if self.epoch is not None and self.epoch.out_of_memory_count:
            return False
        return bool(self.rows[-1].max_batch_size)
