"""What NCCL takes of a card for one process group: outside PyTorch's allocator, and known only within an interval."""

from __future__ import annotations

from collections.abc import Mapping

from estimator.units import MIB, round_up

LL_BYTES = 8 * 512 * 8 * 16
LL128_BYTES = 120 * 640 * 8 * 8
SIMPLE_BYTES = 4 * MIB
"""Buffers of the three protocols on the receiving side of one connection of one channel.

Source: NVIDIA/nccl src/init.cc, `DEFAULT_LL_BUFFSIZE` (lines a thread x threads x steps x 16 bytes),
`DEFAULT_LL128_BUFFSIZE` (elements a thread x threads x steps x 8 bytes), `DEFAULT_BUFFSIZE`."""
GRANULARITY_BYTES = 2 * MIB
"""Device memory is mapped in such pieces. Source: NVIDIA/nccl issue 1685: connections of 10,485,760 bytes (the three
buffers, 9.2 MiB, rounded up) and of 2,097,152 bytes on the sending side, 8 x H100."""

CHANNELS = (2, 16, 32)
"""Fewest, likely and most channels. Source: NVIDIA/nccl src/include/device.h, `MAXCHANNELS` (32 and more are split among
peers), src/graph/search.cc and connect.cc: two for a single PCIe path, 16 to 24 for NVLink switches; not measured."""
CONNECTIONS = (1, 3, 5)
"""Connections a channel: a ring alone, ring and a tree with a parent and a child, ring and a full tree node (two children,
twice). Source: NVIDIA/nccl src/transport.cc and enqueue.cc: algorithms are connected when first used
(`NCCL_RUNTIME_CONNECT`)."""
ALONE = (0, 64 * MIB, 512 * MIB)
"""A group of one rank connects nothing. Source: NVIDIA/nccl issue 2363: up to 536,870,912 bytes of shared buffers,
NCCL 2.28.9; the likely value is not measured."""


def nccl_interval(ranks: int | None, environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Give (low, likely, high) bytes of the communicator of a process group of `ranks` ranks; None is no group: zero.

    Bound: assumed throughout. Each further group (tensor, pipeline or expert parallelism) takes as much again; buckets
    of DistributedDataParallel are in PyTorch's allocator and not in here.
    """
    if ranks is None:
        return 0, 0, 0
    if ranks == 1:
        return ALONE
    simple = int(environment.get("NCCL_BUFFSIZE", SIMPLE_BYTES))
    one = round_up(LL_BYTES + LL128_BYTES + simple, GRANULARITY_BYTES) + GRANULARITY_BYTES
    low, likely, high = (channels * each * one for channels, each in zip(CHANNELS, CONNECTIONS, strict=True))
    return low, likely, high
