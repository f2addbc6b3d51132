"""glibc's heap: what is given back, what stays, and its own library asked the same."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys

import pytest

from estimator.allocator.malloc import MMAP_THRESHOLD_BYTES, TOP_PAD_BYTES, Malloc, heap_holes, keeps_holes
from estimator.ledger import Event, Ledger

pytestmark = pytest.mark.pure

MIB = 1 << 20


def test_a_large_block_is_a_mapping_that_is_given_back() -> None:
    malloc = Malloc()
    malloc.allocate(1, 40 * MIB)
    assert 40 * MIB < malloc.resident_bytes <= 40 * MIB + 2 * 4096
    malloc.free(1)
    assert malloc.resident_bytes == 0


def test_a_freed_mapping_raises_the_threshold_and_the_next_comes_from_the_heap() -> None:
    """The second block of 4 MiB lies in the heap; below one that lives, it stays resident when it is freed."""
    malloc = Malloc()
    malloc.allocate(1, 5 * MIB)
    malloc.free(1)
    malloc.allocate(2, 4 * MIB)
    malloc.allocate(3, 1 * MIB)
    malloc.free(2)
    assert 5 * MIB < malloc.resident_bytes < 5 * MIB + 4096
    malloc.allocate(4, 3 * MIB)  # in the hole
    assert malloc.resident_bytes < 5 * MIB + 4096
    malloc.allocate(5, 2 * MIB)  # does not fit what is left of it
    assert 7 * MIB < malloc.resident_bytes < 7 * MIB + 4096


def test_above_32_mib_the_threshold_does_not_rise() -> None:
    malloc = Malloc()
    for block in (1, 2):
        malloc.allocate(block, 33 * MIB)
        malloc.free(block)
    assert malloc.resident_bytes == 0


def test_the_top_is_trimmed() -> None:
    """Blocks below the threshold, freed: what lies at the top goes back, down to the scraps that the cache holds."""
    malloc = Malloc()
    count = 20
    for block in range(count):
        malloc.allocate(block, MMAP_THRESHOLD_BYTES // 2)
    held = malloc.resident_bytes
    for block in reversed(range(count)):
        malloc.free(block)
    assert held > 1 * MIB
    assert TOP_PAD_BYTES < malloc.resident_bytes < held // 2


def test_holes_are_what_is_beyond_the_tensors() -> None:
    events = [(True, 0, 5 * MIB), (False, 0, 5 * MIB), (True, 1, 4 * MIB), (True, 2, MIB), (False, 1, 4 * MIB),
              (True, 3, 5 * MIB - 1000)]  # fmt: skip
    ledger = Ledger([Event(*event) for event in events])
    # 4 MiB of a hole, which does not take the last block, beside 1 and 5 MiB.
    assert 4 * MIB - 1000 < heap_holes(ledger, 6 * MIB - 1000) < 4 * MIB + 8192
    assert heap_holes(Ledger(), 0) == 0


def test_a_threshold_that_is_set_keeps_no_holes() -> None:
    assert not keeps_holes({"MALLOC_MMAP_THRESHOLD_": "131072"})
    assert keeps_holes({}) == (platform.libc_ver()[0] == "glibc")


CHILD = """
import ctypes, json, sys
libc = ctypes.CDLL(None)
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype = Info
libc.free.argtypes = [ctypes.c_void_p]
places, out = {}, []
first = libc.mallinfo2()
for block, size in json.loads(sys.argv[1]):
    if size:
        place = ctypes.c_void_p()
        assert libc.posix_memalign(ctypes.byref(place), ctypes.c_size_t(64), ctypes.c_size_t(size)) == 0
        places[block] = place
    else:
        libc.free(places.pop(block))
    info = libc.mallinfo2()
    out.append([info.arena - first.arena, info.hblkhd - first.hblkhd])
print(json.dumps(out))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc 2.33 or newer")
def test_the_real_one_takes_and_gives_back_the_same() -> None:
    """A program of large blocks, through this machine's glibc: heap and mappings after every request.

    The interpreter's own small blocks and what its heap had left over make the difference: less than 3 pads. No step
    hangs on the scraps of an alignment, which lie as that process' heap began: a block of 1 MiB stands above each large
    one of the heap, so that none borders on the top, and no request has the size of a hole.
    """
    program = [(0, 6), (0, 0), (1, 4), (2, 1), (3, 5), (11, 1), (1, 0), (4, 3), (5, 40), (3, 0), (6, 5.5), (12, 1), (7, 8),
               (5, 0), (8, 7), (2, 0), (4, 0), (9, 7), (7, 0), (10, 6.5), (13, 1), (6, 0), (8, 0), (9, 0), (10, 0)]  # fmt: skip
    steps = [(block, int(size * MIB) + 12345 * (size > 0)) for block, size in program]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(steps)], capture_output=True, text=True, check=True, env=environ
    )
    malloc = Malloc()
    for (block, size), (heap, mapped) in zip(steps, json.loads(done.stdout), strict=True):
        if size:
            malloc.allocate(block, size)
        else:
            malloc.free(block)
        assert malloc._mapped_bytes == mapped
        assert abs(malloc._end - heap) <= 3 * TOP_PAD_BYTES, (block, size)
