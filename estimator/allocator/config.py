"""Settings of the caching allocator, in the syntax of `PYTORCH_ALLOC_CONF`.

Source: `AcceleratorAllocatorConfig::parseArgs` (c10/core/AllocatorConfig.cpp) and `CUDAAllocatorConfig::parseArgs`
(c10/cuda/CUDAAllocatorConfig.cpp), torch 2.11 to 2.13.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from estimator.errors import ConfigError
from estimator.units import MIB

INTERVAL_COUNT = 16
"""Intervals of `roundup_power2_divisions`: below 2 MiB, 2 to 4 MiB, ... from 32 GiB on.

Source: kRoundUpPowerOfTwoIntervals.
"""
_MIN_LARGE_ALLOC_MB = 10
"""`large_segment_size_mb` must be above this. Source: kMinLargeAlloc."""
_ENVIRONMENT = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")

_BOOLEAN_OPTIONS = (
    "release_lock_on_cudamalloc", "release_lock_on_hipmalloc", "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register", "pinned_use_background_threads", "pinned_free_catch_all",
    "graph_capture_record_stream_reuse", "throw_on_cudamalloc_oom",
)  # fmt: skip
_INTEGER_OPTIONS = (
    "pinned_num_register_threads", "pinned_reserve_segment_size_mb", "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb",
)  # fmt: skip
_TEXT_OPTIONS = ("expandable_segments_reserve_by_class",)
"""Of streams that a program has put into a class; a training step runs on one that is in none. From 2.15.

Source: `setExpandableSegmentReserveClassForStream`, c10/cuda/CUDACachingAllocator.h, 2.15.
"""
_WITHOUT_EFFECT = ("backend:native", *_BOOLEAN_OPTIONS, *_INTEGER_OPTIONS, *_TEXT_OPTIONS)
"""Options that change no size of device memory: accepted and kept in `other`.

Source: `getKeys` and the parsers of both config classes, torch 2.11 to 2.15.
"""


class AllocatorConfig(BaseModel):
    """Settings that decide the sizes of blocks and segments; names are those of `PYTORCH_ALLOC_CONF`.

    `roundup_power2_divisions` has one entry an interval: below 2 MiB, 2 to 4 MiB, ..., from 32 GiB on; 0 or 1 is off.
    `per_process_memory_fraction` below 1 is also what switches `garbage_collection_threshold` on (so does
    `torch.cuda.set_per_process_memory_fraction`: give it here). `other` keeps the options that change no size.

    Raises:
        ConfigError: a value is out of range; every problem is named at once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    expandable_segments: bool = False
    max_split_size_mb: int | None = None
    max_non_split_rounding_mb: int | None = None
    roundup_power2_divisions: tuple[int, ...] = (0,) * INTERVAL_COUNT
    garbage_collection_threshold: float = Field(default=0.0, ge=0.0, lt=1.0)
    large_segment_size_mb: int = Field(default=20, gt=_MIN_LARGE_ALLOC_MB)
    per_process_memory_fraction: float = Field(default=1.0, ge=0.0, le=1.0)
    other: Mapping[str, str] = Field(default_factory=dict)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
            raise ConfigError(
                "the allocator settings are not possible", problems=problems, where="AllocatorConfig",
                hint="see help(estimator.allocator.AllocatorConfig)",
            ) from None  # fmt: skip

    @model_validator(mode="after")
    def _consistent(self) -> AllocatorConfig:
        for name in ("max_split_size_mb", "max_non_split_rounding_mb"):
            value = getattr(self, name)
            least = self.large_segment_size_mb
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} (large_segment_size_mb) or more, got {value}")
        counts = self.roundup_power2_divisions
        if len(counts) != INTERVAL_COUNT:
            raise ValueError(f"roundup_power2_divisions takes {INTERVAL_COUNT} numbers, got {len(counts)}")
        if bad := [count for count in counts if not _power_of_two_or_zero(count)]:
            raise ValueError(f"roundup_power2_divisions takes powers of 2 or 0, got {bad[0]}")
        return self

    @property
    def max_split_size_bytes(self) -> int | None:
        """Blocks of this size or more are not split; None: all may be."""
        return None if self.max_split_size_mb is None else self.max_split_size_mb * MIB

    @property
    def max_non_split_rounding_bytes(self) -> int:
        """How much larger than its request an unsplittable block may be; the large segment size where not set.

        Source: `max_non_split_rounding_size_` takes `large_segment_size_` before the option is read.
        """
        given = self.max_non_split_rounding_mb
        return (self.large_segment_size_mb if given is None else given) * MIB

    @property
    def large_segment_size_bytes(self) -> int:
        return self.large_segment_size_mb * MIB

    @classmethod
    def from_string(cls, text: str, *, where: str = "PYTORCH_ALLOC_CONF") -> AllocatorConfig:
        """Read `key:value,key:value,...`; white space is ignored, "" gives the defaults.

        Raises:
            ConfigError: an option is unknown, ill-formed or out of range, or it selects another allocator;
                every problem is named at once.
        """
        fields: dict[str, Any] = {}
        other: dict[str, str] = {}
        problems: list[str] = []
        for option in _options(re.sub(r"\s", "", text)):
            key, separator, value = option.partition(":")
            try:
                if not separator or not value:
                    raise ValueError("has no value")
                if key in _PARSERS:
                    fields[key] = _PARSERS[key](value)
                elif key in _BOOLEAN_OPTIONS:
                    other[key] = str(_boolean(value))
                elif key in _INTEGER_OPTIONS:
                    other[key] = str(_integer(value))
                elif key in _TEXT_OPTIONS:
                    other[key] = value
                elif key == "backend":
                    other[key] = _backend(value)
                else:
                    raise ValueError("is not an option of PyTorch's CUDA allocator")
            except ValueError as error:
                problems.append(f"{key or option!r}: {error}")
        if not problems:
            try:
                return cls(**fields, other=other)
            except ConfigError as error:
                problems = list(error.problems)
        raise ConfigError(
            "the allocator settings do not parse", got=repr(text), where=where, problems=problems,
            allowed=f"{', '.join(sorted(AllocatorConfig.model_fields.keys() - {'other'}))}; without effect on sizes: {', '.join(_WITHOUT_EFFECT)}",
            hint="correct the options named above",
        )  # fmt: skip

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> AllocatorConfig:
        """Read the variable that PyTorch reads: `PYTORCH_ALLOC_CONF`, or the older `PYTORCH_CUDA_ALLOC_CONF`.

        Raises:
            ConfigError: as `from_string`; both variables are set and differ (which one wins depends on the
                release); or caching is switched off by `PYTORCH_NO_CUDA_MEMORY_CACHING`.
        """
        variables = os.environ if environment is None else environment
        if "PYTORCH_NO_CUDA_MEMORY_CACHING" in variables:
            raise ConfigError(
                "PyTorch's caching allocator is switched off", got="PYTORCH_NO_CUDA_MEMORY_CACHING is set",
                allowed="the caching allocator alone is replayed", where="environment", hint="unset it",
            )  # fmt: skip
        given = {name: variables[name] for name in _ENVIRONMENT if name in variables}
        if len(set(given.values())) > 1:
            both = ", ".join(f"{name}={text!r}" for name, text in given.items())
            raise ConfigError(
                "two variables give different allocator settings", got=both,
                allowed="one of them, or the same in both", where="environment", hint="unset PYTORCH_CUDA_ALLOC_CONF",
            )  # fmt: skip
        for name, text in given.items():
            return cls.from_string(text, where=name)
        return cls()


def _options(text: str) -> Iterator[str]:
    """Split at the commas outside brackets; an empty last option is none, as in PyTorch."""
    for option in re.findall(r"(?:\[[^\]]*\]?|[^,\[])*(?:,|$)", text):
        if option.rstrip(",") or option == ",":
            yield option.removesuffix(",")


def _power_of_two_or_zero(count: int) -> bool:
    return count >= 0 and count & (count - 1) == 0


def _boolean(value: str) -> bool:
    if value not in ("True", "False"):
        raise ValueError(f"takes True or False, got {value!r}")
    return value == "True"


def _integer(value: str) -> int:
    if not re.fullmatch(r"[0-9]+", value):
        raise ValueError(f"takes a whole number, got {value!r}")
    return int(value)


def _fraction(value: str) -> float:
    """A fraction, 0 and 1 included."""
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"takes a number from 0 to 1, got {value!r}") from None
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"takes a number from 0 to 1, got {value}")
    return number


def _threshold(value: str) -> float:
    number = _fraction(value)
    if number in (0.0, 1.0):
        raise ValueError(f"takes a number above 0 and below 1, got {value}")
    return number


def _backend(value: str) -> str:
    if value == "cudaMallocAsync":
        raise ValueError("cudaMallocAsync is CUDA's own allocator, whose sizes cannot be replayed; only native can")
    if value != "native":
        raise ValueError(f"takes native or cudaMallocAsync, got {value!r}")
    return value


def _reserve(value: str) -> None:
    raise ValueError(
        "is not replayed: what becomes of a range of addresses that is smaller than the card and full is not known here; "
        "predict without it"
    )


def _divisions(value: str) -> tuple[int, ...]:
    """Read `4` or `[256:1,512:2,1024:4,>:8]` (upper ends in MiB, the last for all above).

    Source: `parseRoundUpPower2Divisions`: the first entry also covers the intervals below it, `>` those above the
    entry before it; intervals that no entry names stay 0.
    """
    if not value.startswith("["):
        count = _integer(value)
        if count == 0 or not _power_of_two_or_zero(count):
            raise ValueError(f"takes a power of 2, got {count}")
        return (count,) * INTERVAL_COUNT
    if not value.endswith("]"):
        raise ValueError(f"takes a list such as [256:1,512:2,>:4], got {value!r}")
    divisions = [0] * INTERVAL_COUNT
    last, first = 0, True
    for entry in value[1:-1].removesuffix(",").split(",") if value != "[]" else ():
        end, separator, text = entry.partition(":")
        if not separator:
            raise ValueError(f"has an entry without a number of divisions, {entry!r}")
        count = _integer(text)
        if not _power_of_two_or_zero(count):
            raise ValueError(f"takes powers of 2 or 0 as divisions, got {count}")
        if end == ">":
            divisions[last + 1 :] = [count] * (INTERVAL_COUNT - last - 1)
            continue
        boundary = _integer(end)
        if boundary == 0 or not _power_of_two_or_zero(boundary):
            raise ValueError(f"takes powers of 2 as ends of intervals, got {boundary}")
        last = min(boundary.bit_length() - 1, INTERVAL_COUNT - 1)
        if first:
            divisions[:last] = [count] * last
        divisions[last], first = count, False
    return tuple(divisions)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "expandable_segments": _boolean,
    "expandable_segments_reserve": _reserve,
    "garbage_collection_threshold": _threshold,
    "large_segment_size_mb": _integer,
    "max_non_split_rounding_mb": _integer,
    "max_split_size_mb": _integer,
    "per_process_memory_fraction": _fraction,
    "roundup_power2_divisions": _divisions,
}
