"""A device from whatever a user gives for one."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest
from fake_driver import GIB, MIB, FakeCard, FakeDriver

from estimator.devices import here
from estimator.devices.catalogue import load_profiles
from estimator.devices.resolve import resolve_device
from estimator.errors import ConfigError, DeviceError

pytestmark = pytest.mark.pure


@pytest.fixture(autouse=True)
def machine(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    monkeypatch.setattr(here, "baseline_rss_bytes", lambda: 200 * MIB)
    driver.cards = [FakeCard(uuid="GPU-0", free=10 * GIB), FakeCard(uuid="GPU-1", free=20 * GIB)]
    return driver


@pytest.mark.parametrize("device", [None, "here", "cuda", "GPU", "cuda:0", "gpu:0"])
def test_this_machine(device: str | None) -> None:
    assert resolve_device(device).free_bytes == 10 * GIB


def test_another_gpu_of_this_machine() -> None:
    assert resolve_device("cuda:1").free_bytes == resolve_device("gpu:1").free_bytes == 20 * GIB
    with pytest.raises(DeviceError, match="no such GPU"):
        resolve_device("cuda:2")


def test_the_cpu_also_where_there_are_gpus() -> None:
    assert resolve_device("cpu").kind == resolve_device(" CPU ").kind == "cpu"


def test_here_without_a_gpu_is_the_cpu_but_cuda_is_an_error(machine: FakeDriver) -> None:
    machine.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    assert resolve_device().kind == "cpu"
    with pytest.raises(DeviceError, match="no GPU is visible"):
        resolve_device("cuda")


def test_a_name_a_profile_and_files(tmp_path: Path) -> None:
    t4 = load_profiles()["t4"]
    assert resolve_device("Tesla T4") == resolve_device(t4) == t4
    path = tmp_path / "mine.toml"
    path.write_text('kind = "cpu"\ntotal_bytes = "3GiB"\n')
    assert resolve_device(path) == resolve_device(str(path)) == resolve_device("mine", profiles=tmp_path)
    with pytest.raises(DeviceError, match="no device has that name"):
        resolve_device("mine")
    with pytest.raises(DeviceError, match="cannot read"):
        resolve_device(str(tmp_path / "absent.toml"))


def test_memory_takes_the_place_of_what_is_free() -> None:
    profile = resolve_device("t4", memory="10GiB")
    assert (profile.free_bytes, profile.capacity_bytes) == (10 * GIB, 10 * GIB)
    assert profile.total_bytes == load_profiles()["t4"].total_bytes
    assert profile.sources["free_bytes"] == "given by the caller"
    assert resolve_device("cuda:0", memory=30 * GIB).free_bytes == 30 * GIB, "what others hold now may be gone then"


def test_more_memory_than_a_catalogue_card_has_makes_it_larger() -> None:
    profile = resolve_device("t4", memory="20GiB")
    assert (profile.total_bytes, profile.capacity_bytes) == (20 * GIB, 20 * GIB)
    assert profile.sources["total_bytes"].startswith("given by the caller")


def test_more_memory_than_this_machine_has_is_refused() -> None:
    with pytest.raises(DeviceError, match="less memory than that"):
        resolve_device("cuda:0", memory="200GiB")


@pytest.mark.parametrize(("memory", "error"), [("much", ConfigError), (-1, ConfigError), (0, DeviceError)])
def test_memory_that_is_no_size_is_refused(memory: str | int, error: type[Exception]) -> None:
    with pytest.raises(error):
        resolve_device("t4", memory=memory)
