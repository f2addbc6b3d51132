"""Workspaces of convolutions against what cuDNN's heuristics gave; the table was made without these convolutions."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from estimator.device import DeviceProfile, Target
from estimator.scratch import conv_forms, conv_workspace
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_features import FEATURES, features

pytestmark = pytest.mark.pure
MEASURED = json.loads((Path(__file__).parent / "data" / "conv_workspaces.json").read_text())["rows"]


def target(capability: tuple[int, int], **changes: Any) -> Target:
    device = DeviceProfile(
        name="card", kind="cuda", total_bytes=80 << 30, compute_capability=capability, multiprocessor_count=108
    )
    return Target(device=device, torch_version="2.11.0", **changes)


def call_of(row: list[Any]) -> CudnnConv:
    return CudnnConv(row[1], row[2], bool(row[3]), *(tuple(numbers) for numbers in row[4:10]), row[10])


def in_shares(values: list[bool]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("capability", conv_workspace.CAPABILITIES, ids=str)
def test_unseen_convolutions_lie_in_their_interval_and_mostly_near_the_prediction(capability: tuple[int, int]) -> None:
    name, at = f"{capability[0]}.{capability[1]}", target(capability)
    held: list[bool] = []
    near: dict[bool, list[bool]] = defaultdict(list)
    for row in MEASURED:
        if row[0] != name:
            continue
        call, truth = call_of(row), row[11]
        found = conv_workspace.look_up(call, at)
        assert found.low_bytes <= found.size_bytes <= found.high_bytes
        held.append(found.low_bytes <= truth <= found.high_bytes)
        near[call.nhwc].append(abs(found.size_bytes - truth) <= conv_forms.tensor_bytes(call) // 100)
    assert len(held) >= 200
    assert in_shares(held) >= 0.96
    assert in_shares(near[True]) >= 0.80
    assert in_shares(near[False]) >= 0.77


def test_every_feature_is_an_integer_with_a_name() -> None:
    for row in MEASURED[::50]:
        values = features(call_of(row))
        assert len(values) == len(FEATURES)
        assert all(type(value) is int for value in values)


def test_the_table_asks_about_these_features() -> None:
    for capability in conv_workspace.CAPABILITIES:
        assert tuple(conv_workspace.load_plans(capability)["features"]) == FEATURES


def test_copies_and_the_partial_sums_of_a_split_reduction() -> None:
    # x and y are 4 x 64 x 256 x 256 x 4 B = 67,108,864 B each, w is 64 x 576 x 4 B = 147,456 B, all three transposed.
    # 61 parts of 1 x 5 tiles of 64 x 128: 60 x 5 x 64 x 128 x 4 B = 9,830,400 B; counters 61 x 5 x 4 B + 175 B =
    # 1,395 B.
    # 2 x 67,108,864 + 147,456 + 9,830,400 + 1,395 = 144,196,979: what cuDNN 9.19 took for it on the simulated card.
    call = CudnnConv("weight", "float32", False, (4, 64, 256, 256), (64, 64, 3, 3), (4, 64, 256, 256), (1, 1), (1, 1),
                     (1, 1), 1)  # fmt: skip
    assert conv_forms.form_bytes(call, ("transposed", ("64x128", 61))) == 144_196_979
    assert conv_forms.form_bytes(call, ("none", ("bytes", 0))) == 0


def test_channels_are_padded_to_16_bytes() -> None:
    # Three channels of bfloat16 become eight: 2 x 8 x 8 x 8 x 2 B = 2,048 B; y, 2 x 16 x 8 x 8 x 2 B = 4,096 B, and
    # w, 16 x 8 x 2 B = 256 B, whose pixels are one each: w is copied since it is padded.
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    call = CudnnConv("forward", "bfloat16", False, (2, 3, 8, 8), (16, 3, 1, 1), (2, 16, 8, 8), *geometry)
    assert conv_forms.base_bytes(call)["transposed"] == 2048 + 4096 + 256
    assert conv_forms.base_bytes(call)["transposed-operands"] == 2048 + 256


def test_a_capability_without_a_table_is_told_by_the_one_below_it_and_assumed() -> None:
    call = call_of(MEASURED[0])
    assert conv_workspace.nearest_capability((8, 7), "float32") == ((8, 6), False)
    found = conv_workspace.look_up(call, target((8, 7)))
    assert found.confidence == "assumed"
    assert found.low_bytes == 0
    assert found.high_bytes >= found.size_bytes + conv_forms.tensor_bytes(call)


def test_benchmark_mode_raises_the_high_end_alone() -> None:
    call = call_of(MEASURED[0])
    plain = conv_workspace.workspace(call, target((8, 0)))
    tried = conv_workspace.workspace(call, target((8, 0), cudnn_benchmark=True))
    assert tried.size_bytes == plain.size_bytes
    assert tried.high_bytes > plain.high_bytes
