"""GPUs of this machine, through a fake driver."""

from __future__ import annotations

import warnings

import pynvml
import pytest
from fake_driver import GIB, MIB, FakeCard, FakeDriver

from estimator.devices import here
from estimator.devices.catalogue import load_profiles
from estimator.devices.context import estimated_context
from estimator.devices.here import cpu_here, gpus_here, this_device
from estimator.devices.nvml import Card, read_cards
from estimator.devices.visible import visible_cards
from estimator.errors import DeviceError

pytestmark = pytest.mark.pure


@pytest.fixture(autouse=True)
def small_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the child that imports torch: these tests are about GPUs."""
    monkeypatch.setattr(here, "baseline_rss_bytes", lambda: 200 * MIB)


def h100_in_mig_mode() -> FakeCard:
    return FakeCard(
        "NVIDIA H100 80GB HBM3", "GPU-h1", total=80 * GIB, capability=(9, 0), cores=16896, mig=True,
        slices=[
            FakeCard("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "MIG-aa11", 9984 * MIB, 64 * MIB, 9000 * MIB,
                     cores=None, multiprocessors=16, instance=(7, 0)),
            None,
            FakeCard("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "MIG-bb22", 40448 * MIB, 64 * MIB, 40000 * MIB,
                     cores=None, multiprocessors=60, instance=(2, 0)),
        ],
    )  # fmt: skip


def test_total_is_what_torch_reports_and_free_what_others_leave(driver: FakeDriver) -> None:
    driver.cards = [FakeCard(total=81920 * MIB, reserved=871 * MIB, free=33 * GIB, mig=False)]
    (gpu,) = gpus_here()
    assert gpu.total_bytes == (81920 - 871) * MIB
    assert gpu.free_bytes == gpu.capacity_bytes == 33 * GIB
    assert (gpu.name, gpu.compute_capability, gpu.multiprocessor_count) == ("a100-80gb", (8, 0), 108)
    assert gpu.title == "NVIDIA A100-SXM4-80GB (cuda:0, GPU-00000000)"
    assert "less reserved" in gpu.sources["total_bytes"]
    assert driver.shutdowns == 1


def test_a_card_of_the_catalogue_has_its_context(driver: FakeDriver) -> None:
    driver.cards = [FakeCard()]
    (gpu,), known = gpus_here(), load_profiles()["a100-80gb"]
    assert (gpu.context_low_bytes, gpu.context_bytes) == (known.context_low_bytes, known.context_bytes)
    assert gpu.sources["context_low_bytes"].startswith("profile a100-80gb: measured 414 MiB")


def test_free_is_never_more_than_the_total(driver: FakeDriver) -> None:
    driver.cards = [FakeCard(total=GIB, reserved=100 * MIB, free=GIB)]
    (gpu,) = gpus_here()
    assert gpu.free_bytes == gpu.total_bytes == 924 * MIB


def test_a_card_that_the_catalogue_does_not_know_is_counted_by_its_cores(driver: FakeDriver) -> None:
    driver.cards = [FakeCard("NVIDIA Unheard 9000", capability=(8, 6), cores=1280)]
    (gpu,) = gpus_here()
    assert (gpu.name, gpu.multiprocessor_count) == ("unheard-9000", 10)
    assert gpu.sources["multiprocessor_count"] == "NVML: 1280 cores, 128 a multiprocessor"
    assert (gpu.context_low_bytes, gpu.context_bytes, gpu.context_high_bytes) == estimated_context(gpu)


def test_the_catalogue_counts_where_the_driver_does_not(driver: FakeDriver) -> None:
    driver.cards = [FakeCard(cores=None)]
    assert gpus_here()[0].multiprocessor_count == 108


def test_the_cores_of_the_card_win_over_its_name(driver: FakeDriver) -> None:
    driver.cards = [FakeCard(cores=6400)]
    (gpu,) = gpus_here()
    assert (gpu.name, gpu.multiprocessor_count) == ("a100-80gb", 100)
    assert (gpu.context_low_bytes, gpu.context_bytes, gpu.context_high_bytes) == estimated_context(gpu)


@pytest.mark.parametrize("card", [FakeCard("X", cores=None), FakeCard("X", capability=(99, 0))])
def test_multiprocessors_that_cannot_be_counted_are_not_guessed(driver: FakeDriver, card: FakeCard) -> None:
    driver.cards = [card]
    with pytest.raises(DeviceError, match="cannot count"):
        gpus_here()


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH])
def test_a_driver_that_does_not_tell_what_it_reserves(
    driver: FakeDriver, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.memory_v2_error = error
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    driver.cards = [FakeCard(total=81920 * MIB), FakeCard("NVIDIA Unheard", total=GIB, free=GIB)]
    known, unknown = gpus_here()
    assert known.total_bytes == load_profiles()["a100-80gb"].total_bytes
    assert "too old" in known.sources["total_bytes"]
    assert unknown.total_bytes == GIB
    assert "Bound:" in unknown.sources["total_bytes"]


def test_a_card_without_memory_of_its_own_is_refused(driver: FakeDriver) -> None:
    driver.memory_v2_error = pynvml.NVML_ERROR_NOT_SUPPORTED
    driver.cards = [FakeCard("NVIDIA GB10", capability=(12, 1))]
    with pytest.raises(DeviceError, match="no memory of its own"):
        gpus_here()


def test_a_card_in_mig_mode_stands_for_its_slices(driver: FakeDriver) -> None:
    driver.cards = [h100_in_mig_mode()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small, large = gpus_here()
    assert (small.name, small.total_bytes, small.free_bytes) == ("h100-80gb-hbm3-mig-1g.10gb", 9920 * MIB, 9000 * MIB)
    assert (small.multiprocessor_count, large.multiprocessor_count) == (16, 60)
    assert large.compute_capability == (9, 0)
    assert small.context_bytes == 16 * 2048 * 2048 + 80 * MIB, "a slice has a context of its own size"
    assert "slice" in small.sources["multiprocessor_count"]


def test_mig_mode_without_a_slice_is_said(driver: FakeDriver) -> None:
    driver.cards = [FakeCard("NVIDIA H100 80GB HBM3", mig=True)]
    with pytest.warns(RuntimeWarning, match="MIG mode without a slice"):
        assert gpus_here() == []


def test_the_first_visible_gpu_or_the_one_asked_for(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.cards = [FakeCard(uuid=f"GPU-{n}", free=(n + 1) * GIB) for n in range(3)]
    assert this_device().free_bytes == GIB
    assert this_device(2).free_bytes == 3 * GIB
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert this_device().free_bytes == 3 * GIB
    assert this_device(1).free_bytes == GIB
    with pytest.raises(DeviceError) as caught:
        this_device(2)
    assert caught.value.where == "CUDA_VISIBLE_DEVICES=2,0"
    assert "cuda:1" in (caught.value.allowed or "")


def test_hidden_cards_leave_the_cpu(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.cards = [FakeCard()]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    device = this_device()
    assert device.kind == "cpu"
    assert device.sources["kind"].startswith("no GPU is visible (CUDA_VISIBLE_DEVICES=)")
    with pytest.raises(DeviceError, match="no such GPU"):
        this_device(0)


def test_no_driver_means_the_cpu_and_no_noise(driver: FakeDriver) -> None:
    driver.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gpus_here() == []
        device = this_device()
    assert (device.kind, device.context_bytes) == ("cpu", 200 * MIB)
    assert device.sources["kind"].startswith("no NVIDIA driver answers on this machine: ")
    assert "--device" in device.sources["kind"]
    assert driver.shutdowns == 0


@pytest.mark.parametrize("installed", [True, False])
def test_where_slurm_is_the_way_to_the_gpus_is_named(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    driver.init_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    monkeypatch.setattr(here.shutil, "which", lambda name: f"/usr/bin/{name}" if installed else None)
    assert ("batch-estimator slurm" in this_device().sources["kind"]) is installed


def test_a_driver_that_is_not_loaded_is_said(driver: FakeDriver) -> None:
    driver.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    with pytest.warns(RuntimeWarning, match="kernel driver is not loaded"):
        assert this_device().kind == "cpu"


def test_a_driver_that_fails_is_an_error(driver: FakeDriver) -> None:
    driver.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    with pytest.raises(DeviceError) as caught:
        this_device()
    assert "mismatch" in (caught.value.got or "")
    assert "nvidia-smi" in (caught.value.hint or "")


def test_unlike_cards_may_be_numbered_otherwise_by_cuda(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.cards = [FakeCard(uuid="GPU-0"), FakeCard("NVIDIA L4", "GPU-1", capability=(8, 9), cores=7424)]
    with pytest.warns(RuntimeWarning, match="CUDA_DEVICE_ORDER"):
        gpus_here()
    for name, value in (("CUDA_DEVICE_ORDER", "PCI_BUS_ID"), ("CUDA_VISIBLE_DEVICES", "GPU-0,GPU-1")):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("error")
            patch.setenv(name, value)
            assert len(gpus_here()) == 2


def test_the_cpu_has_what_a_process_may_take() -> None:
    cpu = cpu_here()
    assert cpu.kind == "cpu"
    assert cpu.free_bytes is not None
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert set(cpu.sources) == {"total_bytes", "free_bytes", "context_bytes"}


def cards() -> list[Card]:
    def card(index: int, uuid: str, **more: object) -> Card:
        return Card(index, uuid, f"card {index}", GIB, 0, GIB, (8, 0), **more)  # type: ignore[arg-type]

    pieces = (card(2, "MIG-aa11", legacy_uuid="MIG-GPU-c0/1/0"), card(2, "MIG-aa22", legacy_uuid="MIG-GPU-c0/2/0"))
    return [card(0, "GPU-a0"), card(1, "GPU-b0"), card(2, "GPU-c0", in_mig_mode=True, slices=pieces)]


@pytest.mark.parametrize(
    ("variable", "seen"),
    [
        (None, ["GPU-a0", "GPU-b0", "MIG-aa11", "MIG-aa22"]),
        ("", []),
        ("-1", []),
        ("1", ["GPU-b0"]),
        ("1, 0", ["GPU-b0", "GPU-a0"]),
        ("0,7,1", ["GPU-a0"]),
        ("0,-1,1", ["GPU-a0"]),
        ("0,0", []),
        ("1gpu,0x", ["GPU-b0", "GPU-a0"]),
        ("none", []),
        ("2", ["MIG-aa11", "MIG-aa22"]),
        ("GPU-b", ["GPU-b0"]),
        ("GPU-b0,GPU-a0", ["GPU-b0", "GPU-a0"]),
        ("GPU-", []),
        ("GPU-zz,GPU-a0", []),
        ("MIG-aa22", ["MIG-aa22"]),
        ("MIG-aa", []),
        ("MIG-GPU-c0/1/0", ["MIG-aa11"]),
        ("MIG-aa22,MIG-aa22", []),
    ],
)
def test_cuda_visible_devices(variable: str | None, seen: list[str]) -> None:
    assert [card.uuid for card in visible_cards(cards(), variable)] == seen


def test_reading_cards_keeps_the_name_of_old_drivers_for_slices(driver: FakeDriver) -> None:
    driver.cards = [h100_in_mig_mode()]
    found = read_cards()
    assert found is not None
    assert [piece.legacy_uuid for piece in found[0].slices] == ["MIG-GPU-h1/7/0", "MIG-GPU-h1/2/0"]
