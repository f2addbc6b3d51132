"""What must hold of any program under any settings."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.allocator import Allocator, AllocatorConfig, Replayer, layout, replay
from estimator.ledger import Event, Ledger
from estimator.units import MIB

pytestmark = pytest.mark.pure

CONFIGS = [
    AllocatorConfig.from_string(text)
    for text in (
        "",
        "expandable_segments:True",
        "expandable_segments:True,max_split_size_mb:24",
        "max_split_size_mb:24",
        "max_split_size_mb:32,max_non_split_rounding_mb:64",
        "roundup_power2_divisions:[1:4,32:2,>:8]",
        "large_segment_size_mb:40",
        "per_process_memory_fraction:0.5",
        "garbage_collection_threshold:0.4,per_process_memory_fraction:0.7",
        "garbage_collection_threshold:0.4,per_process_memory_fraction:0.7,expandable_segments:True",
    )
]
SIZES = st.one_of(
    st.integers(1, MIB),
    st.integers(MIB, 10 * MIB),
    st.integers(10 * MIB, 60 * MIB),
    st.sampled_from([512, MIB, MIB + 1, 2 * MIB, 10 * MIB, 10 * MIB + 1, 20 * MIB, 24 * MIB]),
)
# (size, stream) asks for memory; a number frees the live block at that place.
STEPS = st.lists(st.one_of(st.tuples(SIZES, st.integers(0, 1)), st.integers(0, 30)), max_size=60)
LIMITS = st.one_of(st.none(), st.integers(4 * MIB, 300 * MIB))
TOTAL = 300 * MIB


class Program:
    """Runs steps and checks the whole state after each."""

    def __init__(self, config, limit, order="descending"):
        self.allocator = Allocator(config, limit, total_bytes=TOTAL, addresses=order)
        self.live = []

    def run(self, steps):
        for step in steps:
            if isinstance(step, tuple):
                size, stream = step
                block = self.allocator.malloc(size, stream)
                if block is not None:
                    assert block.free_list.stream == stream
                    self.live.append((block, size))
            elif self.live:
                self.allocator.free(self.live.pop(step % len(self.live))[0])
            self.check()
        return self

    def check(self):
        allocator = self.allocator
        blocks = {block.address: block for block, _ in self.live}
        assert len(blocks) == len(self.live)
        for pool in (allocator.small_pool, allocator.large_pool):
            for block in pool.free_blocks():
                assert block.address not in blocks
                assert block.mapped
                assert not block.allocated
                blocks[block.address] = block
        in_order = [blocks[address] for address in sorted(blocks)]
        for block, following in pairwise(in_order):
            assert block.address + block.size_bytes <= following.address  # nothing overlaps
            assert (block.next is following) == (following.previous is block)
            if block.next is following:
                assert block.address + block.size_bytes == following.address  # blocks tile their segment
                assert block.allocated or following.allocated  # free neighbours have merged
        assert sum(block.size_bytes for block in in_order) == allocator.reserved_bytes
        assert sum(block.size_bytes for block, _ in self.live) == allocator.allocated_bytes
        assert sum(size for _, size in self.live) == allocator.requested_bytes
        assert allocator.requested_bytes <= allocator.allocated_bytes <= allocator.reserved_bytes
        assert allocator.reserved_bytes <= allocator.peak_reserved_bytes
        assert allocator.allocated_bytes <= allocator.peak_allocated_bytes
        if allocator.limit_bytes is not None:
            assert allocator.peak_reserved_bytes <= allocator.limit_bytes
        assert sum(event.size_bytes if event.is_growth else -event.size_bytes for event in allocator.log) == (
            allocator.reserved_bytes
        )


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS), LIMITS)
def test_blocks_tile_their_segments_and_the_limit_holds(steps, config, limit):
    Program(config, limit).run(steps)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS), LIMITS)
def test_freeing_everything_merges_each_segment_and_gives_it_back(steps, config, limit):
    program = Program(config, limit).run(steps)
    program.run([0] * len(program.live))
    allocator = program.allocator
    assert allocator.allocated_bytes == allocator.requested_bytes == 0
    free = [*allocator.small_pool.free_blocks(), *allocator.large_pool.free_blocks()]
    if config.expandable_segments:
        for block in free:
            assert all(side is None or not side.mapped for side in (block.previous, block.next))
    else:
        assert not any(block.is_split for block in free)
    allocator.empty_cache()
    assert allocator.reserved_bytes == 0
    assert layout(allocator) == ()


@settings(max_examples=40, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS), LIMITS, st.sampled_from(["descending", "ascending"]))
def test_the_same_program_has_the_same_outcome(steps, config, limit, order):
    first, second = (Program(config, limit, order).run(steps).allocator for _ in range(2))
    assert first.log == second.log
    assert layout(first) == layout(second)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([c for c in CONFIGS if not c.expandable_segments]))
def test_a_limit_that_suffices_changes_nothing(steps, config):
    ledger = ledger_of(steps)
    free = replay(ledger, config, total_bytes=2**50)
    tight = replay(ledger, config, free.peak_reserved_bytes, total_bytes=2**50)
    assert tight == free


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS), LIMITS, st.integers(0, 100))
def test_a_replay_in_two_parts_is_the_replay_of_the_whole(steps, config, limit, cut):
    ledger = ledger_of(steps)
    cut = min(cut, len(ledger.events))
    whole = replay(ledger, config, limit, total_bytes=TOTAL)
    player = Replayer(Allocator(config, limit, total_bytes=TOTAL))
    if player.play(ledger, 0, cut) is None:
        player.play(ledger, cut)
    parts = player.result()
    for name in (
        "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_event", "at_allocated_peak",
        "at_reserved_peak", "at_end", "segments", "num_alloc_retries", "num_ooms", "oom", "first_retry",
    ):  # fmt: skip
        assert getattr(parts, name) == getattr(whole, name), name


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(CONFIGS))
def test_peaks_bound_one_another_and_what_plain_addition_gives(steps, config):
    ledger = ledger_of(steps)
    result = replay(ledger, config, total_bytes=2**50)
    assert result.peak_requested_bytes == max(ledger.live_bytes(), default=0)
    assert result.peak_requested_bytes <= result.peak_allocated_bytes <= result.peak_reserved_bytes
    assert result.at_allocated_peak.allocated_bytes == result.peak_allocated_bytes
    assert result.at_reserved_peak.reserved_bytes == result.peak_reserved_bytes


def ledger_of(steps):
    events, live = [], []
    for step in steps:
        if isinstance(step, tuple):
            live.append(Event(True, len(events), step[0]))
            events.append(live[-1])
        elif live:
            events.append(live.pop(step % len(live))._replace(is_alloc=False))
    return Ledger(events)
