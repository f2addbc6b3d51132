"""What the C library's allocator makes of a CPU job's tensors: mappings of their own, and a heap with holes.

PyTorch's CPU allocator asks `posix_memalign` for every tensor, so glibc decides what stays resident. A request from the
threshold up gets a mapping that is given back when freed, and each such free raises the threshold, up to 32 MiB. Smaller
ones come from the heap, best fit first; what is freed there stays resident unless it lies at the top.

Source: glibc 2.36, malloc/malloc.c: _int_malloc, sysmalloc, _int_free, munmap_chunk in __libc_free, systrim.
Bound: the main arena alone, without what Python's and torch's own objects take of it between tensors, so the holes of
a run are other, mostly more (measured, beyond the tensors and the process: a GPT of 4 layers at batch sizes 30, 60, 101:
75, 72, 126 MiB by these rules, 131, 199, 297 in truth; a perceptron of 2048 at 2000, 8000, 33542: 81, 36, 22 and 44, 66,
31). Another C library (musl, macOS) keeps other books.
"""

from __future__ import annotations

import os
import platform
from bisect import bisect_left, insort
from collections.abc import Mapping

from estimator.ledger import Ledger

PAGE_BYTES = 4096
MIN_CHUNK_BYTES = 32
HEADER_BYTES = 16
MMAP_THRESHOLD_BYTES = 128 * 1024
"""Source: DEFAULT_MMAP_THRESHOLD_MIN."""
MMAP_THRESHOLD_MAX_BYTES = 32 << 20
"""Source: DEFAULT_MMAP_THRESHOLD_MAX, 4 * 1024 * 1024 * sizeof(long)."""
TOP_PAD_BYTES = 128 * 1024
"""Source: DEFAULT_TOP_PAD: what the heap grows by beyond the request, and keeps when it is trimmed."""
TRIM_THRESHOLD_BYTES = 128 * 1024
"""Source: DEFAULT_TRIM_THRESHOLD."""
TRIM_FROM_BYTES = 64 * 1024
"""Source: FASTBIN_CONSOLIDATION_THRESHOLD: only such a free chunk has the top looked at."""
CACHED_MAX_BYTES, CACHED_COUNT = 1040, 7
"""Source: MAX_TCACHE_SIZE, TCACHE_FILL_COUNT: chunks that a thread keeps of each size."""
FAST_MAX_BYTES = 128
"""Source: DEFAULT_MXFAST: 64 * SIZE_SZ / 4."""
ALIGNMENT_BYTES = 64
"""Source: c10/core/alignment.h, gAlignment."""


def keeps_holes(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the C library here is glibc with its own threshold, which grows.

    Source: mallopt(3), M_MMAP_THRESHOLD: setting it, also by MALLOC_MMAP_THRESHOLD_, ends the adjustment.
    """
    return platform.libc_ver()[0] == "glibc" and "MALLOC_MMAP_THRESHOLD_" not in environ


def heap_holes(ledger: Ledger, peak_requested_bytes: int) -> int:
    """Bytes that stay resident beyond the tensors at the most, by glibc's rules."""
    malloc = Malloc()
    peak = 0
    for is_alloc, block, size_bytes in ledger.requests(0, len(ledger.events)):
        if is_alloc:
            malloc.allocate(block, size_bytes)
            peak = max(peak, malloc.resident_bytes)
        else:
            malloc.free(block)
    return max(0, peak - peak_requested_bytes)


class Malloc:
    """The main arena and the mappings; `resident_bytes` is what of them is in memory."""

    def __init__(self) -> None:
        self._threshold, self._trim = MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES
        self._mapped: dict[int, int] = {}
        self._used: dict[int, tuple[int, int]] = {}  # block to (start, end) of its chunk in the heap
        self._free: list[tuple[int, int]] = []  # (size, start), sorted: best fit
        self._free_by_start: dict[int, int] = {}
        self._free_by_end: dict[int, int] = {}
        self._cached: dict[int, int] = {}  # chunks of a size that the thread keeps
        self._fast: list[tuple[int, int]] = []  # small chunks, merged with their neighbours at the next request
        self._top = self._end = self._touched = 0  # where the top begins, where the heap ends, what was ever used
        self._mapped_bytes = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory: the mappings, and the heap as far as it was used."""
        return self._mapped_bytes + self._touched

    def allocate(self, block: int, size_bytes: int) -> None:
        """Take a block by posix_memalign; its name is the caller's.

        Source: _int_memalign: asks for enough to align within, and frees what is left over on either side. Such a
        scrap keeps the neighbours of its own from being merged while the thread's cache holds it.
        """
        size = _chunk(size_bytes)
        asked = _chunk(size + ALIGNMENT_BYTES + MIN_CHUNK_BYTES)
        self._merge_fast()
        found = self._from_heap(asked)
        if found is None:
            whole = _pages(asked + HEADER_BYTES // 2)
            self._mapped[block] = whole
            self._mapped_bytes += whole
            return
        start, end = found
        lead = -(start + HEADER_BYTES) % ALIGNMENT_BYTES
        if 0 < lead < MIN_CHUNK_BYTES:
            lead += ALIGNMENT_BYTES
        place = start + lead
        keeps = place + size if end - place > size + MIN_CHUNK_BYTES else end
        self._used[block] = (place, keeps)
        if lead:
            self._give_back(start, place)
        if keeps < end:
            self._give_back(keeps, end)

    def free(self, block: int) -> None:
        """Give a block back."""
        whole = self._mapped.pop(block, None)
        if whole is None:
            self._give_back(*self._used.pop(block))
            return
        self._mapped_bytes -= whole
        if self._threshold < whole <= MMAP_THRESHOLD_MAX_BYTES:
            self._threshold, self._trim = whole, 2 * whole

    def _from_heap(self, asked: int) -> tuple[int, int] | None:
        """(start, end) of a chunk: the smallest hole that holds it, else the top; None: it becomes a mapping."""
        place = bisect_left(self._free, (asked, 0))
        if place < len(self._free):
            hole, start = self._free[place]
            self._take(hole, start)
            if hole - asked < MIN_CHUNK_BYTES:
                return start, start + hole
            self._put(start + asked, start + hole)
            return start, start + asked
        room = self._end - self._top
        if room < asked + MIN_CHUNK_BYTES:
            if asked >= self._threshold:
                return None
            self._end += _pages(asked + TOP_PAD_BYTES + MIN_CHUNK_BYTES - room)
        start = self._top
        self._top += asked
        self._touched = max(self._touched, self._top)
        return start, self._top

    def _give_back(self, start: int, end: int) -> None:
        size = end - start
        if size <= CACHED_MAX_BYTES and self._cached.get(size, 0) < CACHED_COUNT:
            self._cached[size] = self._cached.get(size, 0) + 1
        elif size <= FAST_MAX_BYTES:
            self._fast.append((start, end))
        else:
            self._merge(start, end)

    def _merge_fast(self) -> None:
        """Source: malloc_consolidate, which every large request and every large free begin with."""
        while self._fast:
            self._merge(*self._fast.pop())

    def _merge(self, start: int, end: int) -> None:
        before = self._free_by_end.get(start)
        if before is not None:
            self._take(start - before, before)
            start = before
        after = self._free_by_start.get(end)
        if after is not None:
            self._take(after - end, end)
            end = after
        if end == self._top:
            self._top, end = start, self._end
        else:
            self._put(start, end)
        if end - start >= TRIM_FROM_BYTES:
            self._merge_fast()
            self._trim_top()

    def _trim_top(self) -> None:
        room = self._end - self._top
        spare = room - MIN_CHUNK_BYTES - 1 - TOP_PAD_BYTES
        if room >= self._trim and spare > 0:
            self._end -= spare // PAGE_BYTES * PAGE_BYTES
            self._touched = min(self._touched, self._end)

    def _put(self, start: int, end: int) -> None:
        insort(self._free, (end - start, start))
        self._free_by_start[start], self._free_by_end[end] = end, start

    def _take(self, size: int, start: int) -> None:
        del self._free[bisect_left(self._free, (size, start))]
        del self._free_by_start[start], self._free_by_end[start + size]


def _chunk(size_bytes: int) -> int:
    """Bytes of the chunk of a request. Source: request2size: a word more, in multiples of 16."""
    return max(MIN_CHUNK_BYTES, (size_bytes + 8 + 15) // 16 * 16)


def _pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
