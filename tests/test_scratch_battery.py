"""Scratch rules of seldom used ops: what they take beside their results, as the simulated card's allocator saw it."""

from __future__ import annotations

import pytest

from estimator.device import DeviceProfile, Target
from estimator.fit.lines import interpolate, interpolation
from estimator.graph import Op, TensorSpec
from estimator.scratch import scratch_of

pytestmark = pytest.mark.pure

H200 = Target(
    device=DeviceProfile(
        name="card", kind="cuda", total_bytes=1 << 36, compute_capability=(9, 0), multiprocessor_count=132
    ),
    torch_version="2.11.0",
)


def dense(*shape: int, order: tuple[int, ...] | None = None, dtype: str = "float32") -> TensorSpec:
    """A tensor whose dimensions lie in memory in `order`, the outermost first."""
    stride, step = [0] * len(shape), 1
    for d in reversed(order or range(len(shape))):
        stride[d], step = step, step * shape[d]
    return TensorSpec(dtype, shape, tuple(stride))


def sizes(name: str, args: tuple[object, ...], *outputs: TensorSpec) -> list[int]:
    return [s.size_bytes for s in scratch_of(Op(name, args, {}, outputs, "", "step0.forward", False, 0), H200)]


LAST = (0, 2, 3, 1)


def test_nearest_in_channels_last_of_few_channels_is_copied() -> None:
    """Measured: 40 images of 2 channels, 32 pixels to 64, bfloat16: 655,360 bytes of output and 163,840 of input again."""
    name = "aten.upsample_nearest2d.default"
    small, large = dense(40, 2, 32, 32, order=LAST, dtype="bfloat16"), dense(40, 2, 64, 64, order=LAST, dtype="bfloat16")
    assert sizes(name, (small, (64, 64)), large) == [655_360, 163_840]
    assert sizes(name, (dense(40, 4, 32, 32, order=LAST), (64, 64)), dense(40, 4, 64, 64, order=LAST)) == []
    assert sizes(name, (dense(40, 2, 32, 32), (64, 64)), dense(40, 2, 64, 64)) == []
    assert sizes(name, (small, (32, 32)), small) == []


def test_rolling_what_does_not_lie_together_copies_it_first() -> None:
    """Measured: a gradient of 40 x 32 x 64 float32 that a flip left turned, rolled in two dimensions: two blocks of 327,680
    beside the result, one after the other."""
    turned = dense(40, 32, 64, order=(0, 2, 1))
    assert sizes("aten.roll.default", (turned, (-3, -5), (1, 2)), dense(40, 32, 64)) == [327_680, 327_680]
    assert sizes("aten.roll.default", (turned, (3,), (1,)), dense(40, 32, 64)) == [327_680]
    assert sizes("aten.roll.default", (dense(40, 32, 64), (3, 5), (1, 2)), dense(40, 32, 64)) == [327_680]
    assert sizes("aten.roll.default", (dense(40, 32, 64), (3,), (1,)), dense(40, 32, 64)) == []


def test_the_median_of_all_sorts_all() -> None:
    """Measured: 81,920 float32, values and indices sorted, CUB's 1,008,127 bytes, then whether the last is NaN."""
    x = dense(40, 32, 64)
    assert sizes("aten.median.default", (x,), dense()) == [327_680, 655_360, 655_360, 1_008_127, 1]


def test_the_mode_copies_what_it_does_not_find_innermost() -> None:
    """Measured: along the second of 40 x 32 x 64 float32, a copy of 327,680 bytes."""
    x, out = dense(40, 32, 64), dense(40, 64)
    assert sizes("aten.mode.default", (x, 1), out, out) == [327_680]
    assert sizes("aten.mode.default", (x, -1), dense(40, 32), dense(40, 32)) == []


def test_a_permutation_sorts_random_keys() -> None:
    """Measured: keys of 4 bytes up to some 30,000 numbers, of 8 beyond, where CUB's sort takes 3,333,631 bytes."""
    name = "aten.randperm.default"
    assert sizes(name, (1280,), dense(1280, dtype="int64")) == [8, 10_240, 5_120, 5_120, 1]
    assert sizes(name, (204_800,), dense(204_800, dtype="int64")) == [8, *[1_638_400] * 3, 3_333_631]


def test_categories_are_drawn_by_noise_or_by_running_sums() -> None:
    """Measured: 1,280 rows of 64 float32; five without replacement, five with it, and one."""
    name, rows = "aten.multinomial.default", dense(1280, 64)
    checks = [4, 1, 4, 1, 1, 5_120, 1_280, 1, 1, 327_680]
    assert sizes(name, (rows, 1), dense(1280, 1, dtype="int64")) == checks
    assert sizes(name, (rows, 5), dense(1280, 5, dtype="int64")) == [*checks, 25_600]
    assert sizes(name, (rows, 5, True), dense(1280, 5, dtype="int64")) == [327_680] * 3


def test_a_selection_of_rows_copies_what_does_not_lie_together() -> None:
    """Measured: the median of 40 x 64 x 32 float32 that are transposed takes a copy of 327,680 bytes; as they lie, nothing."""
    out = dense(40, 64)
    assert sizes("aten.median.dim", (dense(40, 64, 32, order=(0, 2, 1)), 2), out, out) == [327_680]
    assert sizes("aten.kthvalue.default", (dense(40, 32, 64), 5, 1), out, out) == []


def test_strides_of_extents_that_grow_together_are_their_products() -> None:
    """Scores of n by n + 2: traced at 4 and 8 samples, their strides at 40 are those of what lies without a gap."""
    first, second = dense(128, 4, 6), dense(128, 8, 10)
    for at in (interpolation(first, second, (4, 8)), lambda n: interpolate(first, second, (4, 8), n)):
        assert at is not None
        assert at(40) == dense(128, 40, 42)
    turned = interpolation(dense(4, 6, 3, order=(2, 0, 1)), dense(8, 10, 3, order=(2, 0, 1)), (4, 8))
    assert turned is not None
    assert turned(40) == dense(40, 42, 3, order=(2, 0, 1))
    apart = interpolation(TensorSpec("float32", (4, 4), (100, 1)), TensorSpec("float32", (8, 8), (100, 1)), (4, 8))
    assert apart is not None
    assert apart(40).stride == (100, 1)
