"""The whole public face in one small file: read this first to see how the package is used."""

from __future__ import annotations

import pytest

import estimator

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch")

WIDTH, CLASSES = 256, 10


def make_job() -> estimator.TrainingJob:
    return estimator.TrainingJob(
        model=lambda: torch.nn.Sequential(
            torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES)
        ),
        batch=lambda n: (torch.randn(n, WIDTH), torch.randint(0, CLASSES, (n,))),
        loss=lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]),
        optimizer=lambda params: torch.optim.AdamW(params),
        name="tiny",
    )


DEVICE = estimator.DeviceProfile(
    name="test", kind="cuda", total_bytes=64 * 2**20, context_bytes=0,
    compute_capability=(8, 0), multiprocessor_count=108,
)  # fmt: skip


@pytest.fixture(scope="module")
def answer() -> estimator.Estimate:
    return estimator.estimate(make_job(), device=DEVICE)


def test_the_largest_batch_fits_and_the_next_does_not(answer: estimator.Estimate) -> None:
    assert answer.max_batch_size > 0
    assert answer.at(answer.max_batch_size).fits
    assert not answer.at(answer.max_batch_size + 1).fits
    assert answer.best.batch_size == answer.max_batch_size


def test_memory_at_a_batch_size_is_in_order(answer: estimator.Estimate) -> None:
    at = answer.at(32)
    assert 0 < at.peak_requested_bytes <= at.peak_allocated_bytes <= at.peak_reserved_bytes <= at.device_bytes
    assert answer.at(4096).peak_requested_bytes > at.peak_requested_bytes


def test_the_table_sums_to_what_the_device_shows(answer: estimator.Estimate) -> None:
    for batch_size in (1, 32, answer.max_batch_size):
        at = answer.at(batch_size)
        assert sum(at.by_category.values()) == at.device_bytes


def test_weights_and_their_optimizer_state_are_counted(answer: estimator.Estimate) -> None:
    # Two linear layers in float32 with biases; AdamW keeps two moments of each, and its step counts on the host.
    count = WIDTH * WIDTH + WIDTH + WIDTH * CLASSES + CLASSES
    assert answer.counts.parameter_count == count
    assert answer.counts.parameter_bytes == 4 * count
    assert answer.counts.gradient_bytes == 4 * count
    assert answer.counts.optimizer_state_bytes == 2 * 4 * count
    assert answer.best.by_category["parameters"] == 4 * count


def test_the_step_is_a_graph_with_modules_and_phases(answer: estimator.Estimate) -> None:
    assert isinstance(answer.graph, torch.fx.Graph)
    calls = [n for n in answer.graph.nodes if n.op == "call_function"]
    assert any("addmm" in str(n.target) and n.meta["module"] == "0" for n in calls)
    assert {"forward", "backward", "optimizer"} <= {n.meta["phase"].split(".")[-1] for n in calls}


def test_the_memory_model_gives_the_ledger_of_any_batch(answer: estimator.Estimate) -> None:
    ledger = answer.ledger(32)
    assert max(ledger.live_bytes()) == answer.at(32).peak_requested_bytes
    assert ledger.events == answer.model.at(32).events


def test_an_answer_goes_through_json(answer: estimator.Estimate) -> None:
    again = estimator.Estimate.model_validate_json(answer.model_dump_json())
    assert again.max_batch_size == answer.max_batch_size
    assert again.best == answer.best
    assert again.warnings == answer.warnings


def test_a_device_goes_by_name_and_nothing_fits_is_an_answer() -> None:
    job = make_job()
    assert estimator.estimate(job, device="a100-80gb").max_batch_size > 10_000
    small = DEVICE.model_copy(update={"total_bytes": 2 * 2**20})  # less than a cuBLAS workspace
    answer = estimator.estimate(job, device=small)
    assert answer.max_batch_size == 0
    assert not answer.best.fits
    assert answer.limited_by


def test_a_live_model_is_left_as_it_was() -> None:
    first, last = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, CLASSES)
    model = torch.nn.Sequential(first, torch.nn.BatchNorm1d(WIDTH), last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    estimator.estimate(make_job().with_(model=model), device=DEVICE)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())


def test_what_is_wrong_is_said_with_its_facts() -> None:
    with pytest.raises(estimator.EstimatorError, match="a100-80gb") as caught:
        estimator.estimate(make_job(), device="a100-80g")
    assert caught.value.exit_code == 2
    with pytest.raises(estimator.EstimatorError, match="optimizer"):
        make_job().with_(optimizer=None)
