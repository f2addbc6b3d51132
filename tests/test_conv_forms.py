"""The forms that explain measured workspaces; every number was given by cuDNN 9.19 for the simulated card of 8.0."""

from __future__ import annotations

import pytest

from benchmarks.conv_forms import candidates, canonical, constants
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_forms import base_bytes, form_bytes, product_extents

pytestmark = pytest.mark.pure

GRADIENT = CudnnConv("data", "float32", False, (1, 128, 8, 20, 20), (128, 128, 3, 3, 3), (1, 128, 8, 20, 20),
                     (1, 1, 1), (1, 1, 1), (1, 1, 1), 1)  # fmt: skip


def test_partial_sums_of_a_gradient_of_the_input_lie_in_tiles_of_its_pixels_by_channels() -> None:
    # Copies: x and y 128 x 3200 x 4 B = 1,638,400 B each, w 128 x 128 x 27 x 4 B = 1,769,472 B: 5,046,272 B.
    # 3200 pixels by 128 channels are 25 tiles of 128 x 128; 22 parts, the last one in place:
    # 21 x 25 x 16384 x 4 B = 34,406,400 B; counters 22 x 25 x 4 B + 175 B = 2,375 B. In all 39,455,047 B.
    assert product_extents(GRADIENT) == (3200, 128)
    assert form_bytes(GRADIENT, ("transposed", ("128x128", 22))) == 39_455_047
    assert ("transposed", ("128x128", 22)) in candidates(GRADIENT, 39_455_047, base_bytes(GRADIENT), frozenset())


def test_every_candidate_gives_the_workspace_within_the_allocators_step() -> None:
    bases = base_bytes(GRADIENT)
    for size in (0, bases["transposed"] + 16, 39_455_047, bases["padded-operands"] + 2 * 1_638_400 + 16):
        found = candidates(GRADIENT, size, bases, frozenset())
        assert found
        assert all(abs(form_bytes(GRADIENT, form) - size) <= 512 for form in found)


def test_a_plain_number_is_a_form_only_where_many_layers_show_it() -> None:
    rows = [(layer, {"none": 0}, 2_097_152) for layer in range(12)] + [
        (layer, {"none": 0}, 777_777) for layer in range(11)
    ]
    assert constants(rows) == {("none", 2_097_152)}


def test_few_forms_explain_all() -> None:
    common, rare = ("none", ("bytes", 16)), ("copied", ("bytes", 16))
    assert canonical([{common}, {common, rare}, {common}, {rare}, set()]) == [common, common, common, rare, None]
