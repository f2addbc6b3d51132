"""A frontier and the lengths of a data set, made up: every number follows from the ones beside it."""

from __future__ import annotations

from estimator.data.records import (
    Asked,
    Bin,
    Distribution,
    Frontier,
    Lengths,
    Point,
    Row,
    Share,
    TokenBudget,
    WorstBatch,
)
from estimator.result import Warning

TOKENS = 65_536
"""That a device holds in the made-up world; the larger one holds four times as many."""
SIZES = (64, 128, 256, 512, 2048)


def point(size: int, device: str, tokens: int, warning: Warning) -> Point:
    largest = tokens // size
    return Point(
        size=size, device=device, max_batch_size=largest, max_batch_size_low=largest + largest // 10,
        device_bytes=largest * size << 10, capacity_bytes=tokens << 10, sample_bytes=size << 10, peak_phase="backward",
        peak_module="blocks.3", warnings=(warning,),
    )  # fmt: skip


def frontier(job: str = "gpt", devices: tuple[str, ...] = ("small", "large"), words: str = "a guess") -> Frontier:
    warning = Warning(code="context-assumed", message=words)
    points = [
        point(size, device, TOKENS * 4**index, warning) for index, device in enumerate(devices) for size in SIZES[:-1]
    ]
    # The largest of the sizes does not fit on the first, and could not be predicted on the others.
    none = Point(size=SIZES[-1], device=devices[0], max_batch_size=0, device_bytes=9 << 30, capacity_bytes=1 << 26)
    others = [Point(size=SIZES[-1], device=device, error=f"{words} went wrong\n  got: x") for device in devices[1:]]
    ordered = sorted([*points, none, *others], key=lambda one: (devices.index(one.device), one.size))
    return Frontier(
        job=job, over="sequence_length", devices=devices, sizes=SIZES, torch_version="2.11.0", points=tuple(ordered)
    )


def lengths(job: str = "gpt", source: str = "train.jsonl:length", words: str = "a guess") -> Lengths:
    warning = Warning(code="context-assumed", message=words)
    points = tuple(point(size, "small", TOKENS, warning) for size in SIZES[:-1])
    share = Share(
        batch_size=300, longest_that_fits=128, shortest_that_does_not=256, low=0.25, high=0.5, expected_longest=400.0
    )
    none = Share(batch_size=128, longest_that_fits=512, low=0.0, high=0.0, expected_longest=410.0)
    worst = Asked(batch_size=300, fits=False, peak_requested_bytes=0, device_bytes=300 * 512 << 10)
    return Lengths(
        job=job, over="sequence_length", device="small", torch_version="2.11.0",
        data=Distribution(
            source=source, count=1000, distinct_count=4, shortest=64, longest=512, mean=200.0,
            percentiles={"50": 128, "99": 256, "100": 512},
            histogram=(Bin(low=64, high=191, count=700), Bin(low=192, high=319, count=295), Bin(low=320, high=512, count=5)),
        ),
        rows=(
            Row(percentile=99, length=256, max_batch_size=256, device_bytes=TOKENS << 10, share=share),
            Row(percentile=100, length=512, max_batch_size=128, device_bytes=TOKENS << 10, share=none),
        ),
        batch_size=300, asked=share,
        worst=WorstBatch(
            batch_size=300, length=512, device_bytes=worst.device_bytes, capacity_bytes=TOKENS << 10, fits=False,
            why="any batch with a sample of the longest",
        ),
        tokens=TokenBudget(max_tokens=64_000, certain_tokens=33_000, at_length=512),
        points=points, warnings=(warning,),
    )  # fmt: skip
