"""Memory of the host: what `--mem` must hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import estimator
from estimator.errors import ConfigError
from estimator.host import (
    CUDA_PROCESS_HIGH_BYTES,
    CUDA_PROCESS_LOW_BYTES,
    WORKER_HIGH_BYTES,
    WORKER_LOW_BYTES,
    Loading,
    batch_tensors,
    host_memory,
)
from estimator.host_memory import HostMemory
from estimator.phases import Checkpoint

pytestmark = pytest.mark.torch


def job(**more: object) -> estimator.TrainingJob:
    fields: dict[str, object] = dict(
        model=lambda: torch.nn.Linear(100, 10),
        batch=lambda n: (torch.randn(n, 100), torch.randint(0, 10, (n,))),
        loss=lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer="adam",
    )
    return estimator.TrainingJob(**(fields | more))


@pytest.fixture(scope="module")
def answer() -> estimator.Estimate:
    return estimator.estimate(job(), device="a100-80gb", cross_check=False)


@pytest.fixture(scope="module")
def on_cpu() -> estimator.Estimate:
    cpu = estimator.DeviceProfile(name="cpu", kind="cpu", total_bytes=1 << 32, context_bytes=200 << 20)
    return estimator.estimate(job(), device=cpu, cross_check=False)


def lines(memory: HostMemory) -> dict[str, tuple[int, int]]:
    return {line.name: (line.low_bytes, line.high_bytes) for _, line in memory.moments()}


def test_the_tensors_of_a_batch(answer: estimator.Estimate) -> None:
    # 32 rows of 100 floats; 32 classes of 8 bytes
    assert batch_tensors(answer, 32) == [32 * 100 * 4, 32 * 8]


def test_workers_times_prefetch_times_batch(answer: estimator.Estimate) -> None:
    batch = 32 * 100 * 4 + 32 * 8
    found = lines(host_memory(answer, 32, Loading(workers=4, prefetch_factor=3, pin_memory=True)))
    assert found["workers"] == (4 * WORKER_LOW_BYTES, 4 * WORKER_HIGH_BYTES)
    assert found["batches ready"] == (0, 12 * batch)
    assert found["batches being made"] == (batch, 2 * 4 * batch)
    # 12800 -> 16384, 256 -> 256; one in use and twelve that wait
    assert found["pinned batches"] == (2 * (16384 + 256), 13 * (16384 + 256))


def test_the_larger_of_loading_and_training_counts_with_the_process(answer: estimator.Estimate) -> None:
    memory = host_memory(answer, 1, Loading(state_load="checkpoint"), on_host=True)
    weights = (100 * 10 + 10) * 4
    # Adam: two moments a parameter, and a step (a float on the host) for each of two tensors, as the trace counts it
    state = answer.counts.optimizer_state_bytes
    assert state >= 2 * weights
    assert lines(memory)["state dict"] == (weights + state,) * 2
    assert memory.low_bytes == CUDA_PROCESS_LOW_BYTES + weights + weights + state
    assert memory.high_bytes == CUDA_PROCESS_HIGH_BYTES + weights + weights + state
    assert memory.request_mib == 2272, "2271.3 MiB and some kilobytes"


@pytest.mark.parametrize(("load", "parts"), [("none", 0), ("weights", 1)])
def test_what_is_loaded_can_be_said(answer: estimator.Estimate, load: str, parts: int) -> None:
    memory = host_memory(answer, 1, Loading(state_load=load))  # type: ignore[arg-type]
    assert sum(line.high_bytes for line in memory.load) == parts * (100 * 10 + 10) * 4


@pytest.mark.parametrize(
    ("checkpoint", "size"),
    [
        (Checkpoint(state="model"), 100 * 10 * 4),  # one tensor at a time: the largest is the weight
        (Checkpoint(state="model", writer="safetensors"), (100 * 10 + 10) * 4),
        (Checkpoint(state="model", copied_to="host"), (100 * 10 + 10) * 4),
    ],
)
def test_a_checkpoint_comes_on_top_of_training(answer: estimator.Estimate, checkpoint: Checkpoint, size: int) -> None:
    without, memory = (host_memory(answer, 64, Loading(state_load="none"), checkpoint=c) for c in (None, checkpoint))
    assert lines(memory)["checkpoint"] == (size, size)
    assert memory.high_bytes == without.high_bytes + size


def test_on_a_cpu_the_step_is_the_hosts(on_cpu: estimator.Estimate) -> None:
    memory = host_memory(on_cpu, 64, Loading(state_load="none", pin_memory=True))
    found = lines(memory)
    assert found["interpreter and torch"] == (200 << 20, 200 << 20)
    assert found["the step"][1] == on_cpu.at(64).device_bytes - (200 << 20)
    assert "pinned batches" not in found, "nothing is pinned without a GPU"


def test_a_data_loader_says_how_it_loads() -> None:
    data = TensorDataset(torch.zeros(8, 3))
    loader = DataLoader(data, batch_size=2, num_workers=2, prefetch_factor=5, pin_memory=True)
    assert Loading(state_load="none").over(job(batch=loader)) == Loading(2, 5, True, "none")
    assert Loading(workers=2).over(job()) == Loading(workers=2)
    assert Loading().over(job(batch=DataLoader(data, batch_size=2))).workers == 0


def test_an_estimate_has_what_its_data_loader_takes(answer: estimator.Estimate) -> None:
    data = TensorDataset(torch.zeros(8, 100), torch.zeros(8, dtype=torch.int64))
    loader = DataLoader(data, batch_size=2, num_workers=2, prefetch_factor=5, pin_memory=True)
    found = estimator.estimate(job(batch=loader), device="a100-80gb", memory="1GiB", cross_check=False)
    assert answer.host is None
    assert found.host is not None
    assert found.host.batch_size == found.max_batch_size
    # 2 workers with 5 batches each of 100 floats and one class of 8 bytes a sample
    batch = found.max_batch_size * (400 + 8)
    assert lines(found.host)["batches ready"] == (0, 2 * 5 * batch)
    assert "pinned batches" in lines(found.host)


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"prefetch_factor": -1}, {"state_load": "all"}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Loading(**wrong)  # type: ignore[arg-type]


class Rows(torch.utils.data.Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.zeros(1 << 18)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc to measure workers by")
def test_real_workers_take_no_more_than_predicted() -> None:
    """Real forked workers and what they have ready, against the prediction. A batch is 4 x 1 MiB."""
    batch = 4 << 20
    loader = DataLoader(Rows(), batch_size=4, num_workers=2, multiprocessing_context="fork")
    rows = iter(loader)
    next(rows)
    time.sleep(0.5)  # let the workers fill the queue
    workers = [worker.pid for worker in rows._workers]  # type: ignore[attr-defined]
    assert len(workers) == 2
    for worker in workers:
        lines = Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()[1:]
        own = int(dict(line.split(":", 1) for line in lines)["Private_Dirty"].split()[0]) << 10
        assert own <= WORKER_HIGH_BYTES + 2 * batch
    del rows
