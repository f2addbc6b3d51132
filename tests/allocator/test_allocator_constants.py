"""Constants held against the headers of the installed torch."""

import re
from pathlib import Path

import pytest

from estimator.allocator import AllocatorConfig, config, policy
from estimator.units import MIB

pytestmark = pytest.mark.torch

torch = pytest.importorskip("torch")
INCLUDE = Path(torch.__file__).parent / "include" / "c10"


def header(name):
    path = INCLUDE / name
    if not path.exists():
        pytest.skip(f"this torch comes without {name}")
    return path.read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kMinBlockSize", policy.MIN_BLOCK_SIZE),
        ("kSmallSize", policy.SMALL_SIZE),
        ("kSmallBuffer", policy.SMALL_BUFFER),
        ("kMinLargeAlloc", policy.MIN_LARGE_ALLOC),
        ("kRoundLarge", policy.ROUND_LARGE),
    ],
)
def test_sizes(name, value):
    found = re.search(rf"constexpr size_t {name} = (\d+);", header("core/AllocatorConfig.h"))
    assert found is not None
    assert int(found[1]) == value


def test_the_default_settings():
    text = header("core/AllocatorConfig.h")
    assert int(re.search(r"large_segment_size_\{(\d+)\}", text)[1]) == AllocatorConfig().large_segment_size_bytes
    assert re.search(r"max_split_size_\{std::numeric_limits<size_t>::max\(\)\}", text)
    assert re.search(r"garbage_collection_threshold_\{0\}", text)
    assert re.search(r"use_expandable_segments_\{false\}", text)
    assert re.search(r"m_per_process_memory_fraction\{1\.0\}", header("cuda/CUDAAllocatorConfig.h"))
    assert config._MIN_LARGE_ALLOC_MB * MIB == policy.MIN_LARGE_ALLOC


def test_every_option_of_the_cuda_allocator_is_known():
    text = header("cuda/CUDAAllocatorConfig.h")
    keys = re.search(r"keys\{(.*?)\};", text, re.DOTALL)[1]
    keys = re.sub(r'"\s*"', "", re.sub(r"//[^\n]*", "", keys))
    names = re.findall(r'"([a-z_]+)"', keys)
    assert "backend" in names
    assert "release_lock_on_cudamalloc" in names
    known = {*config._PARSERS, *config._BOOLEAN_OPTIONS, *config._INTEGER_OPTIONS, *config._TEXT_OPTIONS, "backend"}
    assert set(names) - known == set()
