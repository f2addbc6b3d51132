"""A predicted timeline in the form of PyTorch's memory snapshots, which pytorch.org/memory_viz draws.

Source: torch/csrc/cuda/Module.cpp (`_cuda_memorySnapshot`: the keys) and torch/cuda/_memory_viz.py, torch 2.11 to 2.13.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from estimator.allocator.blocks import AddressOrder, Block
from estimator.allocator.caching import Allocator
from estimator.allocator.config import AllocatorConfig
from estimator.ledger import Event, Ledger


class Frame(NamedTuple):
    """One line of the stack that the viewer shows for a block."""

    name: str
    filename: str
    line: int = 0


class _Op(Protocol):
    name: str
    module: str


FramesOf = Callable[[Event, str], Sequence[Frame]]
"""Gives the stack of an event in a phase, innermost frame first."""


def frames_of_ops(ops: Sequence[_Op]) -> FramesOf:
    """Make stacks of op, module and phase; `ops` are those of the `StepGraph` that the events name."""

    def frames(event: Event, phase: str) -> list[Frame]:
        stack = frames_of_category(event, phase)
        if event.op < 0:
            return stack
        op = ops[event.op]
        return [Frame(op.name, op.module or "(root)", event.op), *stack]

    return frames


def frames_of_category(event: Event, phase: str) -> list[Frame]:
    """What an event tells by itself: its category and its phase."""
    return [Frame(event.category.value, "category"), Frame(phase or "(no phase)", "phase")]


def snapshot(
    ledger: Ledger,
    config: AllocatorConfig | None = None,
    limit_bytes: int | None = None,
    *,
    total_bytes: int | None = None,
    addresses: AddressOrder = "descending",
    frames: FramesOf = frames_of_category,
) -> dict[str, Any]:
    """Replay a ledger and write it down as PyTorch would have: plain dicts, lists, str and int.

    Stops at the first request that cannot be served, which becomes an `oom` entry. An event's time is its index in
    the ledger, in microseconds.
    """
    allocator = Allocator(config, limit_bytes, total_bytes=total_bytes, addresses=addresses)
    writer = _Writer(allocator, frames)
    begins = [*ledger.phases, ("", len(ledger.events) + 1)]
    phase, following = "", 0
    for index, event in enumerate(ledger.events):
        while begins[following][1] <= index:
            phase = begins[following][0]
            following += 1
        if event.size_bytes and not writer.play(index, event, phase):
            break
    return writer.snapshot()


def write_snapshot(path: str | Path, content: dict[str, Any]) -> None:
    """Write a snapshot as the pickle that the viewer takes (of plain data; nothing here reads one)."""
    Path(path).write_bytes(pickle.dumps(content, protocol=4))


class _Writer:
    def __init__(self, allocator: Allocator, frames: FramesOf) -> None:
        self.allocator = allocator
        self.frames = frames
        self.trace: list[dict[str, Any]] = []
        self.live: dict[int, tuple[Block, list[dict[str, Any]]]] = {}
        self.made: dict[int, list[dict[str, Any]]] = {}
        """Frames under which each segment was taken, by its address."""

    def play(self, index: int, event: Event, phase: str) -> bool:
        """Play one event; False where its request cannot be served."""
        if not event.is_alloc:
            block, stack = self.live.pop(event.block)
            for action in ("free_requested", "free_completed"):
                self._add(action, block.address, event.size_bytes, index, stack)
            self.allocator.free(block)
            return True
        stack = [frame._asdict() for frame in self.frames(event, phase)]
        logged = len(self.allocator.log)
        served = self.allocator.malloc(event.size_bytes)
        for change in self.allocator.log[logged:]:
            self._add(change.action, change.address, change.size_bytes, index, stack)
            if change.is_growth:
                self.made[change.address] = stack
        if served is None:
            limit = self.allocator.limit_bytes or 0
            free = max(0, limit - self.allocator.reserved_bytes)
            self._add("oom", free, self.allocator.policy.round(event.size_bytes), index, stack)
            return False
        self.live[event.block] = (served, stack)
        self._add("alloc", served.address, event.size_bytes, index, stack)
        return True

    def _add(self, action: str, address: int, size_bytes: int, time_us: int, stack: list[dict[str, Any]]) -> None:
        self.trace.append(
            {
                "action": action,
                "device_free" if action == "oom" else "addr": address,
                "size": size_bytes,
                "stream": 0,
                "time_us": time_us,
                "compile_context": "N/A",
                "user_metadata": "",
                "frames": stack,
            }
        )

    def snapshot(self) -> dict[str, Any]:
        stacks = {block.address: stack for block, stack in self.live.values()}
        segments = (self._segment(blocks, stacks) for blocks in self._segments())
        config = self.allocator.config
        largest = config.max_split_size_bytes
        return {
            "segments": sorted(segments, key=itemgetter("address")),
            "device_traces": [self.trace],
            "allocator_settings": {
                "PYTORCH_CUDA_ALLOC_CONF": "",
                "max_split_size": -1 if largest is None else largest,
                "garbage_collection_threshold": config.garbage_collection_threshold,
                "expandable_segments": config.expandable_segments,
                "roundup_power2_divisions": {str(1 << i): n for i, n in enumerate(config.roundup_power2_divisions)},
            },
            "external_annotations": [],
        }

    def _segments(self) -> Iterator[list[Block]]:
        """The mapped blocks of each stretch of memory, by address."""
        blocks = {block.address: block for block, _ in self.live.values()}
        for pool in (self.allocator.small_pool, self.allocator.large_pool):
            blocks |= {block.address: block for block in pool.free_blocks()}
        for block in blocks.values():
            if block.previous is None or not block.previous.mapped:
                stretch = [block]
                while (following := stretch[-1].next) is not None and following.mapped:
                    stretch.append(following)
                yield stretch

    def _segment(self, blocks: list[Block], stacks: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
        allocated = [block for block in blocks if block.allocated]
        first = blocks[0]
        return {
            "device": 0,
            "address": first.address,
            "total_size": sum(block.size_bytes for block in blocks),
            "allocated_size": sum(block.size_bytes for block in allocated),
            "active_size": sum(block.size_bytes for block in allocated),
            "requested_size": sum(block.requested_bytes for block in allocated),
            "stream": first.free_list.stream,
            "segment_type": "small" if first.free_list.pool.is_small else "large",
            "segment_pool_id": (0, 0),
            "is_expandable": first.expandable is not None,
            "frames": self.made.get(first.address, []),
            "blocks": [
                {
                    "address": block.address,
                    "size": block.size_bytes,
                    "requested_size": block.requested_bytes if block.allocated else 0,
                    "state": "active_allocated" if block.allocated else "inactive",
                    "frames": stacks.get(block.address, []) if block.allocated else [],
                }
                for block in blocks
            ],
        }
