"""`PYTORCH_ALLOC_CONF` as PyTorch reads it."""

import pytest

from estimator.allocator import AllocatorConfig
from estimator.errors import ConfigError
from estimator.units import MIB

pytestmark = pytest.mark.pure


def test_nothing_set_is_pytorchs_defaults():
    config = AllocatorConfig.from_string("")
    assert config == AllocatorConfig()
    assert not config.expandable_segments
    assert config.max_split_size_bytes is None
    assert config.garbage_collection_threshold == 0
    assert config.max_non_split_rounding_bytes == config.large_segment_size_bytes == 20 * MIB
    assert config.roundup_power2_divisions == (0,) * 16


def test_every_option_that_changes_sizes():
    config = AllocatorConfig.from_string(
        "expandable_segments:True, max_split_size_mb:64,max_non_split_rounding_mb : 50,\tlarge_segment_size_mb:30,"
        "garbage_collection_threshold:0.6,per_process_memory_fraction:0.9,roundup_power2_divisions:8"
    )
    assert config == AllocatorConfig(
        expandable_segments=True, max_split_size_mb=64, max_non_split_rounding_mb=50, large_segment_size_mb=30,
        garbage_collection_threshold=0.6, per_process_memory_fraction=0.9, roundup_power2_divisions=(8,) * 16,
    )  # fmt: skip


# Right-hand sides: allocator_settings of torch.cuda.memory._snapshot(), torch 2.11.0+cu130, for the same text.
@pytest.mark.parametrize(
    ("text", "divisions"),
    [
        ("1", (1,) * 16),
        ("[256:1,512:2,1024:4,>:8]", (1,) * 9 + (2, 4) + (8,) * 5),
        ("[>:4]", (0,) + (4,) * 15),
        ("[65536:4]", (4,) * 16),
        ("[]", (0,) * 16),
        ("[4:2,]", (2,) * 3 + (0,) * 13),
    ],
)
def test_divisions_by_interval(text, divisions):
    assert AllocatorConfig.from_string(f"roundup_power2_divisions:{text}").roundup_power2_divisions == divisions


def test_the_excess_of_unsplit_blocks_follows_the_large_segment_size():
    assert AllocatorConfig.from_string("large_segment_size_mb:64").max_non_split_rounding_bytes == 64 * MIB


def test_options_without_effect_on_sizes_are_kept():
    text = "backend:native,pinned_use_background_threads:True,pinned_num_register_threads:8,"
    config = AllocatorConfig.from_string(text)
    assert config.other == {
        "backend": "native", "pinned_use_background_threads": "True", "pinned_num_register_threads": "8",
    }  # fmt: skip


def test_the_last_of_a_repeated_option_counts():
    assert AllocatorConfig.from_string("max_split_size_mb:30,max_split_size_mb:40").max_split_size_mb == 40


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_split_size:64", "'max_split_size': is not an option"),
        ("expandable_segments_reserve:0.5", "'expandable_segments_reserve': is not replayed"),
        ("max_split_size_mb", "'max_split_size_mb': has no value"),
        ("max_split_size_mb:", "'max_split_size_mb': has no value"),
        ("max_split_size_mb:64MB", "takes a whole number, got '64MB'"),
        ("max_split_size_mb:19", "max_split_size_mb must be 20"),
        ("large_segment_size_mb:40,max_split_size_mb:30", "max_split_size_mb must be 40"),
        ("max_non_split_rounding_mb:10", "max_non_split_rounding_mb must be 20"),
        ("large_segment_size_mb:10", "greater than 10"),
        ("expandable_segments:true", "takes True or False, got 'true'"),
        ("garbage_collection_threshold:1.0", "above 0 and below 1"),
        ("garbage_collection_threshold:0", "above 0 and below 1"),
        ("garbage_collection_threshold:half", "takes a number from 0 to 1, got 'half'"),
        ("per_process_memory_fraction:1.5", "takes a number from 0 to 1, got 1.5"),
        ("roundup_power2_divisions:3", "takes a power of 2, got 3"),
        ("roundup_power2_divisions:0", "takes a power of 2, got 0"),
        ("roundup_power2_divisions:[256:3]", "powers of 2 or 0 as divisions, got 3"),
        ("roundup_power2_divisions:[100:4]", "powers of 2 as ends of intervals, got 100"),
        ("roundup_power2_divisions:[256]", "an entry without a number of divisions, '256'"),
        ("roundup_power2_divisions:[256:4", "takes a list such as"),
        ("pinned_num_register_threads:x", "takes a whole number, got 'x'"),
        ("backend:hip", "takes native or cudaMallocAsync"),
        ("backend:cudaMallocAsync", "CUDA's own allocator, whose sizes cannot be replayed"),
        (",max_split_size_mb:20", "has no value"),
    ],
)
def test_what_does_not_parse_is_refused(text, problem):
    with pytest.raises(ConfigError, match="do not parse") as caught:
        AllocatorConfig.from_string(text)
    assert any(problem in line for line in caught.value.problems), caught.value.problems
    assert caught.value.exit_code == 2


def test_all_problems_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        AllocatorConfig.from_string("max_split_size_mb:x,expandable_segments:yes,nothing:1")
    assert len(caught.value.problems) == 3


def test_settings_made_by_hand_are_checked_too():
    with pytest.raises(ConfigError) as caught:
        AllocatorConfig(max_split_size_mb=5)
    assert "max_split_size_mb must be 20" in str(caught.value)
    with pytest.raises(ConfigError):
        AllocatorConfig(roundup_power2_divisions=(4,) * 3)
    with pytest.raises(ConfigError):
        AllocatorConfig(roundup_power2_divisions=(3,) * 16)


class TestEnvironment:
    def test_either_variable(self):
        for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
            assert AllocatorConfig.from_environment({name: "max_split_size_mb:50"}).max_split_size_mb == 50
        assert AllocatorConfig.from_environment({}) == AllocatorConfig()

    def test_the_real_environment_is_the_default(self, monkeypatch):
        monkeypatch.delenv("PYTORCH_NO_CUDA_MEMORY_CACHING", raising=False)
        monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
        monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        assert AllocatorConfig.from_environment().expandable_segments

    def test_both_variables_must_agree(self):
        both = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:40", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:50"}
        with pytest.raises(ConfigError, match="two variables"):
            AllocatorConfig.from_environment(both)
        assert AllocatorConfig.from_environment(dict.fromkeys(both, "max_split_size_mb:40")).max_split_size_mb == 40

    def test_a_mistake_names_its_variable(self):
        with pytest.raises(ConfigError) as caught:
            AllocatorConfig.from_environment({"PYTORCH_CUDA_ALLOC_CONF": "x:1"})
        assert caught.value.where == "PYTORCH_CUDA_ALLOC_CONF"

    def test_without_caching_there_is_nothing_to_replay(self):
        with pytest.raises(ConfigError, match="switched off"):
            AllocatorConfig.from_environment({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
