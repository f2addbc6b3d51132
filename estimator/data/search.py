"""Which lengths of a data set are traced, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from estimator.data.gather import Data
from estimator.data.order import Sample, histogram
from estimator.data.points import Points, Settings
from estimator.data.records import Asked, Bin, Distribution, Epoch, Lengths, Point, Row, Share, WorstBatch
from estimator.data.samplers import hardest
from estimator.data.tokens import telling_length, threshold_length, token_budget
from estimator.device import DeviceProfile
from estimator.errors import CannotPredictError
from estimator.result import Warning

PERCENTILES = (50.0, 90.0, 99.0)
"""Percentiles of the lengths that are always told."""
BINS = 16


class Search:
    """Which lengths to trace, and what comes of them."""

    def __init__(self, data: Data, points: Points, percentiles: Sequence[float], most: int) -> None:
        self._data, self._points, self._most = data, points, most
        self._sample = Sample(data.padded)
        self._percentiles = sorted({*map(float, percentiles), 100.0})
        self._hardest = hardest(data.batches) if data.batches is not None else []
        self._warnings: list[Warning] = []

    # ------------------------------------------------------------ which lengths

    def run(self) -> None:
        """Trace the lengths that are asked for, then those that tell most."""
        values = self._sample.values
        wanted = [values[-1], *(self._sample.percentile(p) for p in self._percentiles), values[0]]
        wanted += [longest for _, longest in self._hardest[: max(0, self._most - len(set(wanted)))]]
        asked: dict[int, list[int]] = {}
        for count, longest in self._worst_candidates():
            asked.setdefault(longest, []).append(count)
        self._points.expect(max(self._most, len(set(wanted))))
        self._data.check_longest(values[-1])
        self._points.solve(wanted, asked)
        self._check_longest(*self._points.found[values[-1]])
        for size in self._batch_sizes():
            self._narrow(size)
        while len(self._points.found) < self._most:
            length = telling_length(values, self._largest())
            if length is None or length in self._points.found:
                break
            self._points.solve([length])

    @staticmethod
    def _check_longest(point: Point) -> None:
        if point.error:
            first, *rest = point.error.splitlines()
            raise CannotPredictError(
                f"batches with the longest samples cannot be predicted: {first}", problems=[line.strip() for line in rest],
                where=f"length {point.size}", hint="cut the samples: --max-length N (max_length=)",
            )  # fmt: skip

    def _worst_candidates(self) -> list[tuple[int, int]]:
        if self._data.batches is not None:
            return self._hardest
        size = self._data.batch_size
        return [] if size is None else [(min(size, self._sample.count), self._sample.values[-1])]

    def _narrow(self, batch_size: int) -> None:
        """Find from which length of the data on batches of a size run out."""
        turn = 0
        while len(self._points.found) < self._most:
            turn += 1
            length = threshold_length(self._sample.values, self._largest(), batch_size, halve=turn % 3 == 0)
            if length is None or length in self._points.found:
                return
            self._points.solve([length])

    def _batch_sizes(self) -> list[int]:
        """Batch sizes of which the share that runs out is wanted: the one asked for first."""
        largest = self._largest()
        at = [largest.get(self._sample.percentile(p)) for p in self._percentiles]
        sizes = [self._data.batch_size, *sorted(n for n in at if n)]
        return list(dict.fromkeys(min(n, self._sample.count) for n in sizes if n))

    def _largest(self) -> dict[int, int]:
        points = (point for (point,) in self._points.found.values())
        return {p.size: p.max_batch_size for p in points if p.max_batch_size is not None}

    # ------------------------------------------------------------ the answer

    def answer(self, device: DeviceProfile, settings: Settings, begun: float) -> Lengths:
        """Put together what was found."""
        import torch

        points = tuple(point for _, (point,) in sorted(self._points.found.items()))
        largest = self._largest()
        inverted = [(a, b) for a, b in pairwise(sorted(largest)) if largest[a] < largest[b]]
        size = self._data.batch_size
        made = Lengths(
            job=self._data.name,
            over=settings.over,
            device=device.name,
            torch_version=settings.torch_version or torch.__version__.split("+")[0],
            data=self._distribution(),
            rows=tuple(self._row(p) for p in self._percentiles),
            batch_size=size,
            asked=self._share(size) if size is not None and self._data.batches is None else None,
            worst=self._worst(device),
            epoch=self._epoch(),
            tokens=token_budget(self._sample.values, largest),
            points=points,
            monotone=not inverted,
            warnings=(*self._data.warnings, *_warnings(points, inverted, largest)),
            seconds=round(time.perf_counter() - begun, 3),
        )
        return made

    def _distribution(self) -> Distribution:
        raw = Sample(self._data.lengths)
        counts = np.diff([0, *raw.cumulative]).tolist()
        return Distribution(
            source=self._data.source,
            count=raw.count,
            distinct_count=len(raw.values),
            shortest=raw.values[0],
            longest=raw.values[-1],
            mean=float(self._data.lengths.mean()),
            percentiles={f"{p:g}": raw.percentile(p) for p in sorted({*PERCENTILES, *self._percentiles})},
            histogram=tuple(Bin(low=a, high=b, count=c) for a, b, c in histogram(raw.values, counts, BINS)),
            cut_count=self._data.cut_count,
        )

    def _share(self, batch_size: int) -> Share:
        size = min(batch_size, self._sample.count)
        largest = self._largest()
        fits = {length: n >= size for length, n in largest.items()}
        good, bad = [x for x, ok in fits.items() if ok], [x for x, ok in fits.items() if not ok]
        monotone = not good or not bad or max(good) < min(bad)
        return self._sample.share(size, fits, monotone=monotone)

    def _row(self, percentile: float) -> Row:
        length = self._sample.percentile(percentile)
        (point,) = self._points.found[length]
        largest = point.max_batch_size
        return Row(
            percentile=percentile,
            length=length,
            max_batch_size=largest,
            device_bytes=point.device_bytes,
            share=self._share(largest) if largest else None,
        )

    def _worst(self, device: DeviceProfile) -> WorstBatch | None:
        """Of the batches that may take most, the one that does."""
        found: list[tuple[Asked, int]] = []
        for _, longest in self._worst_candidates():
            if longest in self._points.found:
                found += [(asked, longest) for asked in self._points.found[longest][0].asked]
        if not found:
            return None
        asked, length = max(found, key=lambda pair: (not pair[0].fits, pair[0].device_bytes))
        return WorstBatch(
            batch_size=asked.batch_size,
            length=length,
            device_bytes=asked.device_bytes,
            capacity_bytes=device.capacity_bytes,
            fits=asked.fits,
            why="any batch with a sample of the longest" if self._data.batches is None else "of the sampler's epoch",
        )

    def _epoch(self) -> Epoch | None:
        batches = self._data.batches
        if batches is None:
            return None
        largest = self._largest()
        out = unknown = 0
        for count, longest in batches:
            if any(length >= longest and count <= n for length, n in largest.items()):
                continue
            if any(length <= longest and count > n for length, n in largest.items()):
                out += 1
            else:
                unknown += 1
        counts = [count for count, _ in batches]
        return Epoch(
            batch_count=len(batches),
            least_batch_size=min(counts),
            most_batch_size=max(counts),
            most_padded=max(count * longest for count, longest in batches),
            out_of_memory_count=out,
            unknown_count=unknown,
        )


def _warnings(points: Sequence[Point], inverted: Sequence[tuple[int, int]], largest: dict[int, int]) -> list[Warning]:
    out = [
        Warning(
            code="not-monotone-in-length",
            message=f"samples of {b} leave room for {largest[b]} of a batch, shorter ones of {a} for {largest[a]}: what "
            "is said of lengths between the traced ones is not certain",
        )
        for a, b in inverted
    ]
    out += [
        Warning(code="length-not-predicted", message=p.error.splitlines()[0], where=str(p.size))
        for p in points
        if p.error
    ]
    # What the estimates themselves warn of: once a kind, with the lengths it is said at.
    said: dict[str, list[tuple[int, Warning]]] = {}
    for point in points:
        for warning in point.warnings:
            said.setdefault(warning.code, []).append((point.size, warning))
    for code, all_of_it in said.items():
        sizes = sorted({size for size, _ in all_of_it})
        one = len({warning.message for _, warning in all_of_it}) == 1
        told = all_of_it[-1][1].where if one and len(sizes) == len(points) else f"at {', '.join(map(str, sizes))}"
        message = all_of_it[-1][1].message
        out.append(Warning(code=code, message=message if one else f"{message}; and the like", where=told))
    return out
