"""The host's memory, line by line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from estimator.fit.lines import Curve
from estimator.host import FORKED_WORKER_BYTES, Loader, host_ram, loader_of
from estimator.result import HostRam
from tests.made_up import made_up_estimate


def made(**more: Any) -> HostRam:
    """Of a job whose sample is a float image of 600 bytes and a label of 8."""
    answer = made_up_estimate()
    answer._model = SimpleNamespace(host_batch=(Curve(0, 600), Curve(0, 8)), curves=(), categories=())
    return host_ram(answer, 10, baseline_bytes=1000, **more)


def sizes(ram: HostRam) -> dict[str, int]:
    return {line.name: line.size_bytes for line in ram.lines}


@pytest.mark.pure
def test_a_job_that_loads_its_own_data_holds_one_batch() -> None:
    # 10 samples x (600 + 8)
    assert sizes(made()) == {"training process": 1000, "batch being made": 6080}


@pytest.mark.pure
def test_workers_hold_samples_and_what_they_read_ahead() -> None:
    ram = made(loader=Loader(workers=3, prefetch_factor=4))
    # 3 x 6080 of samples, 3 x 4 batches of 6080 in shared memory
    assert sizes(ram) == {
        "training process": 1000,
        "workers": 3 * FORKED_WORKER_BYTES,
        "samples in workers": 18_240,
        "batches in flight": 72_960,
    }
    assert ram.total_bytes == sum(sizes(ram).values())


@pytest.mark.pure
def test_pinned_tensors_are_rounded_to_powers_of_two() -> None:
    # 6000 -> 8192 and 80 -> 128; 1 x 2 batches in flight and two more
    assert sizes(made(loader=Loader(workers=1, pin_memory=True)))["pinned memory"] == 4 * (8192 + 128)


@pytest.mark.pure
def test_a_spawned_worker_has_a_torch_of_its_own() -> None:
    assert sizes(made(loader=Loader(workers=2, start="spawn")))["workers"] == 2000


@pytest.mark.pure
def test_safetensors_holds_the_whole_checkpoint() -> None:
    ram = made(saving="safetensors", saved_bytes=5000)
    assert sizes(ram)["tensors being saved"] == 5000
    assert ram.total_bytes == 1000 + 6080 + 5000


@pytest.mark.torch
def test_a_loader_tells_its_settings() -> None:
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        [1, 2, 3], num_workers=2, prefetch_factor=5, pin_memory=True, multiprocessing_context="spawn"
    )  # type: ignore[arg-type]
    assert loader_of(loader) == Loader(workers=2, prefetch_factor=5, pin_memory=True, start="spawn")
    assert loader_of([1, 2, 3]) is None
