"""GPUs as Slurm writes them, in the forms of its versions and sites."""

from __future__ import annotations

import pytest

from estimator.slurm.gres import Gpus, parse_gpus_option, parse_gres

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:4", [("", 4)]),
        ("gpu:a100:4(S:0-1)", [("a100", 4)]),
        ("gpu:h100:2,gpu:1g.10gb:2", [("h100", 2), ("1g.10gb", 2)]),
        ("(null)", []),
        ("", []),
        ("gpu", [("", 1)]),
        ("gpu:a100", [("a100", 1)]),
        ("gpu:0", []),
        ("gpu:1080ti:2", [("1080ti", 2)]),
        ("gpu:3090:8", [("3090", 8)]),
        ("gpu:tesla:no_consume:2", [("tesla", 2)]),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", [("a100", 4)]),
        ("craynetwork:4,gpu:a100:1(IDX:0,2),nvme:1", [("a100", 1)]),
        ("gpu:(null):4(IDX:0-3)", [("", 4)]),
        ("shard:8,gpu_burst:2", []),
        # TRES of newer versions: all GPUs, then those of a type
        ("cpu=4,mem=16000M,gres/gpu=4,gres/gpu:a100=4", [("a100", 4)]),
        ("billing=2,gres/gpu=2", [("", 2)]),
        ("gres:gpu:a100:1", [("a100", 1)]),
        ("gres/gpu:a100:1", [("a100", 1)]),
    ],
)
def test_gres(text: str, gpus: list[tuple[str, int]]) -> None:
    assert parse_gres(text) == [Gpus(*pair) for pair in gpus]


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("2", [("", 2)]),
        ("a100", [("a100", 1)]),
        ("a100:2", [("a100", 2)]),
        ("a100:1,h100:3", [("a100", 1), ("h100", 3)]),
    ],
)
def test_what_the_gpus_options_take(text: str, gpus: list[tuple[str, int]]) -> None:
    assert parse_gpus_option(text) == [Gpus(*pair) for pair in gpus]
