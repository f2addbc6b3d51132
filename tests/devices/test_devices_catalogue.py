"""Devices by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from estimator.devices.catalogue import find_device, load_profiles, match_card, profiles_folder
from estimator.errors import DeviceError

pytestmark = pytest.mark.pure

NAMES = {
    "a100-40gb", "a100-80gb", "a10g", "b200", "h100-pcie", "h100-sxm", "h200", "l4", "l40s", "rtx-3090", "rtx-4090",
    "rtx-5090", "rtx-a6000", "rtx-pro-6000", "t4", "v100-16gb", "v100-32gb",
}  # fmt: skip

MINE = 'name = "mine"\nkind = "cuda"\ntotal_bytes = "10GiB"\ncompute_capability = [8, 6]\nmultiprocessor_count = 20\n'


def test_the_package_brings_its_devices() -> None:
    assert set(load_profiles()) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_file_bears_the_name_of_its_device_and_says_where_each_number_is_from(name: str) -> None:
    profile = load_profiles()[name]
    assert (profiles_folder() / f"{name}.toml").is_file()
    numbers = {
        "total_bytes", "compute_capability", "multiprocessor_count",
        "context_bytes", "context_low_bytes", "context_high_bytes",
    }  # fmt: skip
    assert set(profile.sources) == numbers
    assert all(len(text) > 10 for text in profile.sources.values())
    assert profile.free_bytes is None, "a catalogue cannot know what is free"


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("h200", "h200"),
        ("H100", "h100-sxm"),
        ("h100_pcie", "h100-pcie"),
        ("A100 80GB", "a100-80gb"),
        ("a100-80gb", "a100-80gb"),
        ("a100", "a100-80gb"),
        ("A100 40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("a10", "a10g"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX4090", "rtx-4090"),
        ("a6000", "rtx-a6000"),
        ("V100 32GB", "v100-32gb"),
        ("RTX PRO 6000", "rtx-pro-6000"),
    ],
)
def test_case_separators_and_vendor_do_not_matter(asked: str, name: str) -> None:
    assert find_device(asked).name == name


def test_no_name_means_two_devices() -> None:
    from estimator.devices.catalogue import plain_name

    owners: dict[str, str] = {}
    for profile in load_profiles().values():
        for known in (profile.name, profile.title, *profile.aliases):
            assert owners.setdefault(plain_name(known), profile.name) == profile.name, known


@pytest.mark.parametrize(
    ("asked", "near"), [("v100", "v100-16gb or v100-32gb"), ("h300", "h200"), ("rtx4080", "rtx-4090")]
)
def test_an_unknown_name_is_answered_with_near_ones(asked: str, near: str) -> None:
    with pytest.raises(DeviceError) as caught:
        find_device(asked)
    assert near in (caught.value.hint or "")
    assert "rtx-5090" in (caught.value.allowed or "")


def test_a_name_like_no_other_gets_no_false_hint() -> None:
    with pytest.raises(DeviceError) as caught:
        find_device("zzzzz")
    assert "did you mean" not in (caught.value.hint or "")


def test_a_profile_of_the_user_is_found_by_name_and_overrides_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE)
    (tmp_path / "t4.toml").write_text(MINE.replace("mine", "t4"))
    assert find_device("Mine", tmp_path).total_bytes == 10 << 30
    assert find_device("t4", tmp_path).multiprocessor_count == 20
    assert find_device("t4").multiprocessor_count == 40


def test_an_alias_of_the_user_wins_over_ours(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(MINE + 'aliases = ["a100"]\n')
    assert find_device("a100", tmp_path).name == "mine"


def test_the_variable_names_profiles_and_the_argument_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(MINE)
    two.write_text(MINE.replace("10GiB", "12GiB"))
    monkeypatch.setenv("BATCH_ESTIMATOR_PROFILES", str(one))
    assert find_device("mine").total_bytes == 10 << 30
    assert find_device("mine", two).total_bytes == 12 << 30


def test_profiles_are_found_in_a_wheel_and_in_a_checkout(tmp_path: Path) -> None:
    package = tmp_path / "site" / "estimator"
    package.mkdir(parents=True)
    with pytest.raises(DeviceError, match="missing"):
        profiles_folder(package)
    shutil.copytree(profiles_folder(), tmp_path / "site" / "profiles")
    assert profiles_folder(package) == tmp_path / "site" / "profiles"
    shutil.copytree(profiles_folder(), package / "_profiles")
    assert profiles_folder(package) == package / "_profiles"


def test_a_driver_name_matches_only_whole_names() -> None:
    """An NVIDIA A10 answers to the alias a10 of the A10G but has other multiprocessors."""
    profiles = load_profiles()
    matched = match_card("NVIDIA A100-PCIE-40GB", profiles)
    assert matched is not None
    assert matched.name == "a100-40gb"
    assert match_card("NVIDIA A10", profiles) is None
    assert match_card("NVIDIA GeForce RTX 3090 Ti", profiles) is None
