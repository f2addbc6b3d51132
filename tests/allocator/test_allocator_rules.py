"""The allocator's rules one at a time, with the arithmetic beside each number."""

import pytest

from estimator.allocator import Allocator, AllocatorConfig, Replayer, layout, replay
from estimator.allocator.policy import SizePolicy
from estimator.errors import ConfigError
from estimator.ledger import Event, Ledger
from estimator.units import KIB, MIB

pytestmark = pytest.mark.pure


def taken(allocator):
    return [event.size_bytes if event.is_growth else -event.size_bytes for event in allocator.log]


def mib(size):
    return int(size * MIB)


@pytest.mark.parametrize(
    ("request_bytes", "rounded"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (MIB - 1, MIB), (MIB + 1, MIB + 512), (10 * MIB - 1, 10 * MIB)],
)
def test_requests_are_rounded_to_512_bytes(request_bytes, rounded):
    assert SizePolicy(AllocatorConfig()).round(request_bytes) == rounded
    allocator = Allocator()
    block = allocator.malloc(request_bytes)
    assert block.requested_bytes == request_bytes == allocator.requested_bytes
    assert SizePolicy(AllocatorConfig()).round(block.size_bytes) == block.size_bytes


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MIB),  # small pool
        (MIB, 2 * MIB),  # still small
        (MIB + 1, 20 * MIB),  # large pool, below 10 MiB
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),  # from here on to the next 2 MiB
        (10 * MIB + 1, 12 * MIB),
        (24 * MIB, 24 * MIB),
    ],
)
def test_a_segment_is_sized_to_its_first_request(size, segment):
    allocator = Allocator()
    allocator.malloc(size)
    assert taken(allocator) == [segment]


def test_a_cached_block_is_not_split_for_less_than_a_mebibyte():
    """20 MiB free, 19.2 MiB asked: 0.8 MiB rest is not above 1 MiB, so the block keeps it."""
    allocator = Allocator()
    allocator.free(allocator.malloc(mib(1.5)))
    assert taken(allocator) == [20 * MIB]
    block = allocator.malloc(mib(19.2))
    assert taken(allocator) == [20 * MIB]
    assert block.size_bytes == allocator.allocated_bytes == 20 * MIB
    assert allocator.requested_bytes == mib(19.2)


def test_a_new_segment_is_split_when_more_than_a_mebibyte_is_left():
    """12.3 MiB in a 14 MiB segment: 1.7 MiB rest is above 1 MiB."""
    allocator = Allocator()
    block = allocator.malloc(mib(12.3))
    assert taken(allocator) == [14 * MIB]
    assert block.size_bytes == allocator.allocated_bytes == -(-mib(12.3) // 512) * 512


def test_a_new_segment_is_not_split_when_a_mebibyte_or_less_is_left():
    """11.5 MiB in a 12 MiB segment leaves 0.5; 11 MiB leaves exactly 1, which is not above 1 either."""
    for size in (mib(11.5), 11 * MIB):
        allocator = Allocator()
        allocator.malloc(size)
        assert taken(allocator) == [12 * MIB]
        assert allocator.allocated_bytes == 12 * MIB


def test_small_blocks_are_split_down_to_512_bytes():
    allocator = Allocator()
    for _ in range(2 * MIB // 512):
        allocator.malloc(1)
    assert taken(allocator) == [2 * MIB]
    allocator.malloc(1)
    assert taken(allocator) == [2 * MIB, 2 * MIB]


def test_the_pool_is_chosen_by_the_rounded_size():
    """1 MiB - 1 rounds to 1 MiB and is small; 1 MiB + 1 is large and does not go into the rest of the small segment."""
    allocator = Allocator()
    allocator.malloc(MIB - 1)
    allocator.malloc(MIB + 1)
    allocator.malloc(MIB)
    assert taken(allocator) == [2 * MIB, 20 * MIB]


def test_the_smallest_block_that_serves_is_taken():
    allocator = Allocator()
    blocks = [allocator.malloc(size * MIB) for size in (40, 30, 50)]
    for block in blocks:
        allocator.free(block)
    assert allocator.malloc(29 * MIB).size_bytes == 30 * MIB  # 1 MiB rest: not split
    assert allocator.malloc(41 * MIB).size_bytes == 41 * MIB  # of the 50: 9 MiB rest, split
    assert taken(allocator) == [40 * MIB, 30 * MIB, 50 * MIB]


def test_of_equal_blocks_the_lower_address_is_taken():
    allocator = Allocator()
    first, second = allocator.malloc(40 * MIB), allocator.malloc(40 * MIB)
    lower = min(first.address, second.address)
    allocator.free(first)
    allocator.free(second)
    assert allocator.malloc(40 * MIB).address == lower


def test_free_neighbours_merge():
    """Three blocks of 6 MiB in one 20 MiB segment; freed in any order they are one block of 20 again."""
    for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1), (0, 2, 1)):
        allocator = Allocator()
        blocks = [allocator.malloc(6 * MIB) for _ in range(3)]
        assert len(layout(allocator)) == 4
        for index in order:
            allocator.free(blocks[index])
        assert [(size, used) for _, size, used in layout(allocator)] == [(20 * MIB, False)]


def test_a_block_is_reused_on_its_own_stream_only():
    allocator = Allocator()
    allocator.free(allocator.malloc(30 * MIB, stream=7))
    allocator.malloc(30 * MIB, stream=3)
    assert taken(allocator) == [30 * MIB, 30 * MIB]
    allocator.malloc(30 * MIB, stream=7)
    assert taken(allocator) == [30 * MIB, 30 * MIB]


def test_a_refused_segment_gives_whole_free_segments_back_and_tries_again():
    """Limit 100: 60 cached, then 70 asked. 60 + 70 > 100, so the 60 goes back, large pool first."""
    allocator = Allocator(limit_bytes=100 * MIB)
    small = allocator.malloc(KIB)
    allocator.free(allocator.malloc(60 * MIB))
    allocator.free(small)
    assert allocator.malloc(70 * MIB).size_bytes == 70 * MIB
    assert taken(allocator) == [2 * MIB, 60 * MIB, -60 * MIB, -2 * MIB, 70 * MIB]
    assert (allocator.num_alloc_retries, allocator.num_ooms) == (1, 0)
    assert allocator.peak_reserved_bytes == 70 * MIB


def test_a_split_segment_cannot_be_given_back():
    """20 MiB segment with 2 in use and 18 free; 90 more do not fit 100, and the 20 stay."""
    allocator = Allocator(limit_bytes=100 * MIB)
    allocator.malloc(2 * MIB)
    assert allocator.malloc(90 * MIB) is None
    assert taken(allocator) == [20 * MIB]
    assert (allocator.num_alloc_retries, allocator.num_ooms) == (1, 1)


def test_the_limit_may_be_filled_to_the_byte():
    assert Allocator(limit_bytes=30 * MIB).malloc(30 * MIB) is not None
    assert Allocator(limit_bytes=30 * MIB - 1).malloc(30 * MIB) is None


def test_empty_cache_gives_whole_free_segments_back():
    allocator = Allocator()
    kept = allocator.malloc(3 * MIB)
    allocator.free(allocator.malloc(64 * MIB))
    allocator.empty_cache()
    assert taken(allocator) == [20 * MIB, 64 * MIB, -64 * MIB]
    assert (allocator.num_alloc_retries, allocator.reserved_bytes) == (0, 20 * MIB)
    allocator.free(kept)


def test_a_block_is_freed_once():
    allocator = Allocator()
    block = allocator.malloc(1)
    allocator.free(block)
    with pytest.raises(ValueError, match="not in use"):
        allocator.free(block)


def test_nothing_is_asked_for_zero_bytes():
    with pytest.raises(ValueError, match="1 byte or more"):
        Allocator().malloc(0)
    result = replay(Ledger([Event(True, 0, 0), Event(False, 0, 0)]))
    assert (result.peak_reserved_bytes, result.peak_event, result.segments) == (0, -1, ())


class TestReplay:
    LEDGER = Ledger(
        [
            Event(True, 0, 30 * MIB),
            Event(True, 1, 100),
            Event(True, 2, 50 * MIB),
            Event(False, 2, 50 * MIB),
            Event(True, 3, 40 * MIB),
        ],
        [("model", 0), ("step0.forward", 2)],
    )

    def test_levels_at_the_peaks(self):
        result = replay(self.LEDGER)
        assert result.peak_event == 2
        assert result.peak_requested_bytes == 80 * MIB + 100
        assert result.peak_allocated_bytes == 80 * MIB + 512
        assert result.peak_reserved_bytes == 82 * MIB == sum(result.segments)
        assert result.at_allocated_peak.rounding_bytes == 412
        assert result.at_allocated_peak.fragmentation_bytes == 2 * MIB - 512
        assert result.at_reserved_peak.event == 2
        assert result.at_end.event == 4
        assert result.phase_peaks == {"model": 30 * MIB + 512, "step0.forward": 80 * MIB + 512}
        assert (result.fits, result.first_retry) == (True, None)

    def test_the_peak_is_where_it_was_first_reached(self):
        again = [Event(False, 3, 40 * MIB), Event(True, 4, 50 * MIB)]
        result = replay(Ledger([*self.LEDGER.events, *again]))
        assert result.at_end.allocated_bytes == result.peak_allocated_bytes
        assert result.peak_event == 2

    def test_it_stops_where_memory_runs_out(self):
        result = replay(self.LEDGER, limit_bytes=60 * MIB)
        assert result.oom is not None
        assert (result.oom.event, result.oom.size_bytes, result.oom.phase) == (2, 50 * MIB, "step0.forward")
        assert result.peak_reserved_bytes == 32 * MIB
        assert (result.num_alloc_retries, result.num_ooms, result.first_retry) == (1, 1, 2)
        assert not result.fits

    def test_it_goes_on_where_the_program_did(self):
        """The failed block's free is passed over."""
        result = replay(self.LEDGER, limit_bytes=80 * MIB, may_fail={2})
        assert (result.oom, result.num_ooms) == (None, 1)
        assert result.at_end.requested_bytes == 70 * MIB + 100

    def test_what_is_refused_may_take_the_rest(self):
        """Of 80 MiB, 30 + 2 are held: 48 of the 50 MiB asked for are left in whole segments."""
        result = replay(self.LEDGER, limit_bytes=81 * MIB, may_fail={2}, takes_rest=True)
        assert (result.oom, result.num_ooms, result.num_survived) == (None, 1, 1)
        assert result.segments == (30 * MIB, 2 * MIB, 48 * MIB)
        assert result.at_allocated_peak.event == 2
        assert result.peak_allocated_bytes == 78 * MIB + 512

    def test_the_rest_is_a_free_block_or_what_cuda_has_in_whole_segments(self):
        """1.5 MiB come from a segment of 20, whose rest is 18.5; 12 of those leave 6.5, and so does a segment of 20."""
        allocator = Allocator(limit_bytes=41 * MIB)
        left = [allocator.grantable_bytes()]
        for size in (1.5, 12, 20, 6.5):
            allocator.malloc(mib(size))
            left.append(allocator.grantable_bytes())
        assert left == [40 * MIB, 20 * MIB, 20 * MIB, mib(6.5), 0]

    def test_expandable_segments_have_whole_pages_left(self):
        """Of 75 MiB one page of 20 is mapped, and two more can be."""
        allocator = Allocator(AllocatorConfig.from_string("expandable_segments:True"), limit_bytes=75 * MIB)
        allocator.malloc(15 * MIB)
        assert allocator.grantable_bytes() == 40 * MIB
        assert allocator.malloc(40 * MIB) is not None

    def test_a_part_can_be_played_until_the_state_is_steady(self):
        """A step that frees what it allocates: its second round takes nothing new and leaves the same layout."""
        step = [Event(True, 1, 30 * MIB), Event(True, 2, 7), Event(False, 1, 30 * MIB), Event(False, 2, 7)]
        ledger = Ledger([Event(True, 0, 5 * MIB), *step])
        player = Replayer(Allocator())
        player.play(ledger, 0, 1)
        layouts = []
        for _ in range(3):
            assert player.play(ledger, 1) is None
            layouts.append(layout(player.allocator))
        assert layouts[0] == layouts[1] == layouts[2]
        assert player.result().segments == (20 * MIB, 30 * MIB, 2 * MIB)

    @pytest.mark.parametrize(
        "events", [[Event(False, 0, 8)], [Event(True, 0, 8), Event(True, 0, 8)]], ids=["free", "alloc"]
    )
    def test_a_ledger_that_contradicts_itself_is_refused(self, events):
        with pytest.raises(ValueError, match="live"):
            replay(Ledger(events))

    def test_the_order_of_addresses_is_checked(self):
        with pytest.raises(ConfigError, match="order of addresses"):
            replay(Ledger(), addresses="random")

    def test_an_empty_ledger(self):
        result = replay(Ledger())
        assert (result.peak_allocated_bytes, result.peak_event, result.segments, result.fits) == (0, -1, (), True)
