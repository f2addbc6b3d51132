"""What each setting changes, with the arithmetic beside each number."""

import pytest

from estimator.allocator import Allocator, AllocatorConfig, layout
from estimator.allocator.policy import SizePolicy
from estimator.errors import ConfigError
from estimator.units import GIB, MIB

pytestmark = pytest.mark.pure


def config(text):
    return AllocatorConfig.from_string(text)


def taken(allocator):
    return [event.size_bytes if event.is_growth else -event.size_bytes for event in allocator.log]


class TestRoundup:
    @pytest.mark.parametrize(
        ("size", "rounded"),
        [
            (1200, 1536),  # 1200 <= 512 * 4: to 512 bytes
            (2049, 2560),  # above: steps of 2048 / 4 = 512
            (5 * MIB, 5 * MIB),  # 4 MiB to 8 MiB in steps of 1 MiB
            (5 * MIB + 1, 6 * MIB),
            (8 * MIB, 8 * MIB),  # powers of two stay
            (100 * MIB, 112 * MIB),  # 64 + 3 * 16
        ],
    )
    def test_four_divisions_between_powers_of_two(self, size, rounded):
        assert SizePolicy(config("roundup_power2_divisions:4")).round(size) == rounded

    def test_each_interval_has_its_own(self):
        policy = SizePolicy(config("roundup_power2_divisions:[4:2,16:8,>:1]"))
        assert policy.round(3 * MIB + 1) == 4 * MIB  # up to 8 MiB: halves, [2, 4) in steps of 1
        assert policy.round(17 * MIB + 1) == 18 * MIB  # 16 to 32 MiB: eighths, steps of 2 MiB
        assert policy.round(33 * MIB + 1) == 33 * MIB + 512  # above: off

    def test_no_rounding_below_512_bytes(self):
        assert SizePolicy(config("roundup_power2_divisions:16")).round(1) == 512


class TestMaxSplitSize:
    def test_large_blocks_stay_whole_for_large_requests(self):
        """A 100 MiB block serves 90 MiB unsplit: 100 < 90 + 20. For 70 MiB it is too large."""
        allocator = Allocator(config("max_split_size_mb:64"))
        allocator.free(allocator.malloc(100 * MIB))
        assert allocator.malloc(90 * MIB).size_bytes == 100 * MIB
        other = Allocator(config("max_split_size_mb:64"))
        other.free(other.malloc(100 * MIB))
        assert other.malloc(70 * MIB).size_bytes == 70 * MIB
        assert taken(other) == [100 * MIB, 70 * MIB]

    def test_the_excess_is_below_twenty_mebibytes(self):
        """110 for 90 would waste exactly 20: refused. 108 for 90 wastes 18."""
        allocator = Allocator(config("max_split_size_mb:64"))
        allocator.free(allocator.malloc(110 * MIB))
        assert allocator.malloc(90 * MIB).size_bytes == 90 * MIB
        allocator.free(allocator.malloc(108 * MIB))
        assert taken(allocator) == [110 * MIB, 90 * MIB]  # 110 serves 108
        assert allocator.malloc(92 * MIB).size_bytes == 110 * MIB

    def test_small_requests_leave_large_blocks_alone(self):
        allocator = Allocator(config("max_split_size_mb:64"))
        allocator.free(allocator.malloc(64 * MIB))
        allocator.malloc(30 * MIB)
        assert taken(allocator) == [64 * MIB, 30 * MIB]

    def test_the_allowed_excess_can_be_set(self):
        allocator = Allocator(config("max_split_size_mb:64,max_non_split_rounding_mb:40"))
        allocator.free(allocator.malloc(100 * MIB))
        assert allocator.malloc(70 * MIB).size_bytes == 100 * MIB  # 100 < 70 + 40

    def test_only_as_much_is_given_back_as_is_needed(self):
        """Limit 290, cached 80, 90 and 100; 135 asked, and no single block has that.

        The largest go until 135 are released, 100 and 90; the 80 stays.
        """
        allocator = Allocator(config("max_split_size_mb:64"), limit_bytes=290 * MIB)
        held = [allocator.malloc(size * MIB) for size in (80, 90, 100)]
        for block in held:
            allocator.free(block)
        allocator.malloc(135 * MIB)
        assert taken(allocator) == [80 * MIB, 90 * MIB, 100 * MIB, -100 * MIB, -90 * MIB, 136 * MIB]
        assert allocator.num_alloc_retries == 0

    def test_one_block_that_is_large_enough_goes_alone(self):
        allocator = Allocator(config("max_split_size_mb:64"), limit_bytes=290 * MIB)
        held = [allocator.malloc(size * MIB) for size in (80, 90, 120)]
        for block in held:
            allocator.free(block)
        allocator.malloc(70 * MIB)
        assert taken(allocator) == [80 * MIB, 90 * MIB, 120 * MIB]  # 80 serves 70: 80 < 70 + 20
        allocator.malloc(66 * MIB)
        # 90 >= 66 + 20, so a new segment is wanted; the smallest block of 66 or more is released for it.
        assert taken(allocator)[3:] == [-90 * MIB, 66 * MIB]
        assert allocator.num_alloc_retries == 0


class TestFraction:
    def test_what_may_be_reserved_is_a_part_of_the_device(self):
        allocator = Allocator(config("per_process_memory_fraction:0.5"), total_bytes=200 * MIB)
        assert allocator.allowed_bytes == 100 * MIB
        assert allocator.malloc(100 * MIB) is not None
        assert allocator.malloc(1) is None

    def test_the_segment_is_held_against_it_not_the_request(self):
        """90 of 100 reserved; 2 MiB would come in a segment of 20."""
        allocator = Allocator(config("per_process_memory_fraction:0.5"), total_bytes=200 * MIB)
        allocator.malloc(90 * MIB)
        assert allocator.malloc(2 * MIB) is None

    def test_pages_may_pass_it(self):
        """80 of 95 reserved; 12 MiB more are held against it as a segment of 12, but mapped as a page of 20."""
        settings = config("per_process_memory_fraction:0.5,expandable_segments:True")
        allocator = Allocator(settings, total_bytes=190 * MIB)
        allocator.malloc(80 * MIB)
        assert allocator.allowed_bytes == 95 * MIB
        assert allocator.malloc(12 * MIB) is not None
        assert allocator.reserved_bytes == 100 * MIB

    def test_it_needs_the_device_memory(self):
        with pytest.raises(ConfigError, match="total memory of the device"):
            Allocator(config("per_process_memory_fraction:0.5"), 10 * GIB)

    def test_a_fraction_of_one_is_no_limit(self):
        assert Allocator(config("per_process_memory_fraction:1.0")).allowed_bytes is None


class TestGarbageCollection:
    SETTINGS = "garbage_collection_threshold:0.5,per_process_memory_fraction:0.5"

    def test_what_is_older_than_the_mean_goes_first(self):
        """Allowed 400, threshold 200; at 226 reserved a segment for 70 is wanted, 26 are too many.

        Cached are 50 (freed 2 searches ago) and 60 (1 search ago); the mean age is 1.5, so the 50 alone goes.
        """
        allocator = Allocator(config(self.SETTINGS), total_bytes=800 * MIB)
        older, younger, _ = (allocator.malloc(size * MIB) for size in (50, 60, 60))
        allocator.free(older)
        allocator.malloc(55 * MIB)
        allocator.free(younger)
        allocator.malloc(70 * MIB)
        assert taken(allocator) == [50 * MIB, 60 * MIB, 60 * MIB, 56 * MIB, -50 * MIB, 70 * MIB]

    def test_equal_ages_go_together(self):
        allocator = Allocator(config(self.SETTINGS), total_bytes=400 * MIB)  # 200 allowed, 100 the threshold
        old, young = allocator.malloc(50 * MIB), allocator.malloc(60 * MIB)  # searches 1, 2
        allocator.free(old)  # born at 2
        in_use = allocator.malloc(70 * MIB)  # search 3, reserved 110 > 100: collects the 50, then takes 70
        assert taken(allocator) == [50 * MIB, 60 * MIB, -50 * MIB, 70 * MIB]
        allocator.free(young)  # born at 3
        allocator.free(in_use)  # born at 3
        allocator.malloc(80 * MIB)  # search 4: both are 1 old, the mean; 130 reserved, 30 too many, both go
        assert taken(allocator)[4:] == [-60 * MIB, -70 * MIB, 80 * MIB]

    def test_nothing_is_collected_below_the_threshold(self):
        allocator = Allocator(config(self.SETTINGS), total_bytes=400 * MIB)
        allocator.free(allocator.malloc(50 * MIB))
        allocator.malloc(60 * MIB)
        assert taken(allocator) == [50 * MIB, 60 * MIB]

    def test_it_is_off_without_a_fraction(self):
        allocator = Allocator(config("garbage_collection_threshold:0.1"), limit_bytes=400 * MIB, total_bytes=400 * MIB)
        allocator.free(allocator.malloc(150 * MIB))
        allocator.malloc(160 * MIB)
        assert taken(allocator) == [150 * MIB, 160 * MIB]


class TestExpandableSegments:
    def test_pages_are_mapped_as_they_are_needed(self):
        """20 MiB pages: 30 MiB needs two, 12 more need one more (10 of 40 are left), small requests 2 MiB pages."""
        allocator = Allocator(config("expandable_segments:True"))
        allocator.malloc(30 * MIB)
        allocator.malloc(12 * MIB)
        allocator.malloc(1)
        assert taken(allocator) == [40 * MIB, 20 * MIB, 2 * MIB]
        assert {event.action for event in allocator.log} == {"segment_map"}

    def test_blocks_are_split_down_to_512_bytes(self):
        allocator = Allocator(config("expandable_segments:True"))
        assert allocator.malloc(19 * MIB + 1).size_bytes == 19 * MIB + 512

    def test_whole_pages_of_free_blocks_are_given_back(self):
        """100 MiB mapped, 30 in use at the front, 70 free: pages from 40 on are whole, 60 go back, then 80 fit 120."""
        allocator = Allocator(config("expandable_segments:True"), limit_bytes=120 * MIB)
        front = allocator.malloc(30 * MIB)
        allocator.free(allocator.malloc(70 * MIB))
        allocator.empty_cache()
        assert taken(allocator) == [40 * MIB, 60 * MIB, -60 * MIB]
        assert allocator.malloc(90 * MIB).address == front.address + 30 * MIB
        assert taken(allocator)[3:] == [80 * MIB]

    def test_a_range_that_is_wholly_unmapped_is_gone(self):
        allocator = Allocator(config("expandable_segments:True"), limit_bytes=GIB)
        allocator.free(allocator.malloc(30 * MIB))
        allocator.empty_cache()
        assert allocator.reserved_bytes == 0
        assert layout(allocator) == ()

    def test_the_limit_is_held_page_by_page(self):
        """30 MiB left of 50 after a 20 MiB page: 25 MiB more need two pages, 10 fit the one."""
        allocator = Allocator(config("expandable_segments:True"), limit_bytes=50 * MIB)
        allocator.malloc(20 * MIB)
        assert allocator.malloc(25 * MIB) is None
        assert allocator.malloc(10 * MIB) is not None
        assert allocator.reserved_bytes == 40 * MIB

    def test_large_pages_follow_the_setting(self):
        allocator = Allocator(config("expandable_segments:True,large_segment_size_mb:12"))
        allocator.malloc(30 * MIB)
        assert taken(allocator) == [36 * MIB]


def test_the_large_segment_size_can_be_set():
    allocator = Allocator(config("large_segment_size_mb:48"))
    allocator.malloc(2 * MIB)
    allocator.malloc(10 * MIB)
    assert taken(allocator) == [48 * MIB]
