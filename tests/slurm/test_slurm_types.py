"""Which card a GPU type is."""

from __future__ import annotations

import pytest

from estimator.devices.catalogue import load_profiles
from estimator.errors import ConfigError, DeviceError
from estimator.slurm.types import identify, parse_types

pytestmark = pytest.mark.pure

PROFILES = load_profiles()


@pytest.mark.parametrize(
    ("gpu_type", "features", "device"),
    [
        ("a100_80gb", (), "a100-80gb"),
        ("nvidia_a100-sxm4-80gb", (), "a100-80gb"),
        ("nvidia_a100_80gb_pcie", (), "a100-80gb"),
        ("a100", ("a100", "a100_40gb"), "a100-40gb"),
        ("a100", ("gpu_mem:80",), "a100-80gb"),
        ("v100", ("32g", "skylake"), "v100-32gb"),
        ("v10032gb", (), "v100-32gb"),
        ("nvidia_h100_80gb_hbm3", (), "h100-sxm"),
        ("h100_pcie", (), "h100-pcie"),
        ("tesla_t4", (), "t4"),
        ("geforce_rtx_3090", (), "rtx-3090"),
        ("3090", (), "rtx-3090"),
        ("rtx_a6000", (), "rtx-a6000"),
        ("L40S", (), "l40s"),
        ("", ("x86", "a100_40gb"), "a100-40gb"),
    ],
)
def test_names_and_features_tell(gpu_type: str, features: tuple[str, ...], device: str) -> None:
    match = identify(gpu_type, features, "gpu", PROFILES, {})
    assert match.profile is not None
    assert match.profile.name == device
    assert match.assumed == ""


@pytest.mark.parametrize(("gpu_type", "device"), [("a100", "a100-40gb"), ("v100", "v100-16gb"), ("h100", "h100-pcie")])
def test_an_open_memory_is_the_least_and_is_said(gpu_type: str, device: str) -> None:
    match = identify(gpu_type, (), "gpu", PROFILES, {})
    assert match.profile is not None
    assert match.profile.name == device
    assert f"taken for {device}" in match.assumed


@pytest.mark.parametrize("gpu_type", ["l40", "h100_nvl", "rtx4080", "p100", "quadro_rtx_6000", "gtx_1080", "a100_20gb"])
def test_another_card_of_a_like_name_is_not_taken(gpu_type: str) -> None:
    assert identify(gpu_type, (), "gpu", PROFILES, {}).profile is None


@pytest.mark.parametrize("gpu_type", ["1g.10gb", "a100_1g.5gb", "nvidia_h100_80gb_hbm3_3g.40gb"])
def test_a_slice_is_no_whole_card(gpu_type: str) -> None:
    match = identify(gpu_type, ("a100",), "gpu", PROFILES, {})
    assert match.profile is None
    assert "MIG slice" in match.how


def test_untyped_gpus_need_features_of_one_card() -> None:
    assert "no feature" in identify("", ("x86", "fast"), "gpu", PROFILES, {}).how
    assert "several cards" in identify("", ("v100_32gb", "t4"), "gpu", PROFILES, {}).how


def test_the_user_says_what_a_type_is_and_a_partitions_word_is_closer() -> None:
    given = parse_types(["a100=a100-80gb", "old/a100=a100-40gb", "gpu=t4"])
    assert {part: identify("a100", (), part, PROFILES, given).profile.name for part in ("new", "old")} == {  # type: ignore[union-attr]
        "new": "a100-80gb",
        "old": "a100-40gb",
    }
    match = identify("", (), "new", PROFILES, given)
    assert match.profile is not None
    assert match.profile.name == "t4"


@pytest.mark.parametrize("pair", ["a100", "a100=", "=t4"])
def test_a_pair_that_is_none(pair: str) -> None:
    with pytest.raises(ConfigError, match="not a GPU type"):
        parse_types([pair])


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(DeviceError, match="no device has that name"):
        parse_types(["a100=a1000"])
