"""Device profiles in TOML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from estimator.devices.context import estimated_context
from estimator.devices.files import read_profile, read_profiles
from estimator.errors import DeviceError

pytestmark = pytest.mark.pure

GOOD = 'kind = "cuda"\ntotal_bytes = "24GiB"\ncompute_capability = [8, 6]\nmultiprocessor_count = 82\n'


def write(folder: Path, text: str, name: str = "card.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_sizes_are_bytes_or_words_and_the_name_defaults_to_the_file(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path, GOOD + 'free_bytes = 20_000_000_000\ncontext_bytes = "400 MiB"\n'))
    assert (profile.name, profile.total_bytes, profile.free_bytes) == ("card", 24 << 30, 20_000_000_000)
    assert profile.context_bytes == 400 << 20
    assert profile.context_low_bytes is None, "a figure of the user's gets no interval of ours"


def test_a_card_that_says_nothing_of_its_context_gets_the_estimated_one(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path, GOOD))
    interval = (profile.context_low_bytes, profile.context_bytes, profile.context_high_bytes)
    assert interval == estimated_context(profile)
    assert profile.context_bytes == 82 * 1536 * 2048 + (80 << 20)
    assert profile.sources["context_bytes"].startswith("assumed")


def test_a_cpu_needs_no_capability(tmp_path: Path) -> None:
    profile = read_profile(write(tmp_path, 'kind = "cpu"\ntotal_bytes = "64GiB"\n'))
    assert (profile.kind, profile.context_bytes) == ("cpu", 0)


def test_every_problem_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'kind = "gpu"\ntotal_bytes = nan\nfree_bytes = -1\ncontext_bytes = "lots"\n'
        "multiprocessor_count = 0\nmemory = 3\n",
    )
    with pytest.raises(DeviceError) as caught:
        read_profile(path)
    told = "\n".join(caught.value.problems)
    assert caught.value.where == str(path)
    for key in ("kind", "total_bytes", "free_bytes", "context_bytes", "multiprocessor_count", "memory"):
        assert f"{key}:" in told, told
    assert "memory: no such key" in told
    assert len(caught.value.problems) == 6, told


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("total_bytes = true", "total_bytes: a size is"),
        ("total_bytes = 1.5e9", "total_bytes: a size is"),
        ("total_bytes = inf", "total_bytes: a size is"),
        ('total_bytes = "-3GiB"', "total_bytes: not a size"),
        ("total_bytes = 0", "total_bytes: Input should be greater than 0"),
        ('total_bytes = "24GiB"\nfree_bytes = "25GiB"', "free_bytes"),
        ('total_bytes = "24GiB"\ncontext_bytes = 10\ncontext_low_bytes = 11', "context_low_bytes (11) is more"),
        ('total_bytes = "24GiB"\ncontext_bytes = 10\ncontext_high_bytes = 9', "context_high_bytes (9) is less"),
    ],
)
def test_bad_sizes_are_refused(tmp_path: Path, lines: str, problem: str) -> None:
    with pytest.raises(DeviceError) as caught:
        read_profile(write(tmp_path, GOOD.replace('total_bytes = "24GiB"', lines)))
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]


def test_a_cuda_device_needs_its_capability(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="needs compute_capability"):
        read_profile(write(tmp_path, 'kind = "cuda"\ntotal_bytes = 1\n'))


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        read_profile(write(tmp_path, 'kind = "cpu"\n'))
    assert caught.value.problems == ("total_bytes: missing",)


def test_what_is_not_toml_is_refused_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        read_profile(write(tmp_path, "kind: cuda"))
    assert caught.value.what == "a device profile is not TOML"
    assert "line 1" in (caught.value.got or "")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="is not text"):
        read_profile(tmp_path / "binary.toml")
    with pytest.raises(DeviceError, match="cannot read"):
        read_profile(tmp_path / "absent.toml")


def test_a_folder_names_the_problems_of_all_its_files(tmp_path: Path) -> None:
    one = write(tmp_path, GOOD + "colour = 1\nsize = 2\n", "one.toml")
    two = write(tmp_path, "= 3", "two.toml")
    write(tmp_path, GOOD, "good.toml")
    with pytest.raises(DeviceError) as caught:
        read_profiles(tmp_path)
    told = caught.value.problems
    of_one = [line for line in told if line.startswith(f"{one}: ")]
    assert of_one == [f"{one}: colour: no such key", f"{one}: size: no such key"]
    assert any(line.startswith(f"{two}: a device profile is not TOML") for line in told)
    one.unlink()
    with pytest.raises(DeviceError, match="not TOML"):
        read_profiles(tmp_path)


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, 'name = "x"\n' + GOOD, "one.toml")
    write(tmp_path, 'name = "x"\n' + GOOD, "two.toml")
    with pytest.raises(DeviceError, match="one name"):
        read_profiles(tmp_path)


def test_a_place_without_profiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="holds none"):
        read_profiles(tmp_path)
    with pytest.raises(DeviceError, match="no device profiles at that place"):
        read_profiles(tmp_path / "absent")
