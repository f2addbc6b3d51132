"""Traces are made once for devices on which torch would do the same, and anew where it would not."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import estimator  # noqa: E402
from estimator.device import Target  # noqa: E402
from estimator.devices import resolve_device  # noqa: E402
from estimator.errors import DataDependentError  # noqa: E402
from estimator.traces import Traces  # noqa: E402

pytestmark = pytest.mark.torch

TOKENS, WIDTH = 64, 32


def target(name: str) -> Target:
    return Target(device=resolve_device(name), torch_version="2.11.0")


class Attend(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def job(model: Any, **changes: Any) -> estimator.TrainingJob:
    return estimator.TrainingJob(
        model=model,
        batch=lambda n: torch.randn(n, TOKENS, WIDTH),
        loss=lambda model, x: model(x).float().square().mean(),
        optimizer="sgd",
        **changes,
    )


def count_traces(traces: Traces, names: tuple[str, ...]) -> int:
    """How many traces at batch 4 those cards take."""
    for name in names:
        traces.at(target(name), [4], [2])
    return len(traces._kept)


def test_a_model_that_asks_nothing_of_the_card_is_traced_once() -> None:
    linear = lambda: torch.nn.Linear(WIDTH, WIDTH)  # noqa: E731
    names = ("t4", "l4", "a100-80gb", "h100-sxm", "b200", "rtx-5090")
    assert count_traces(Traces(job(linear), isolate=False), names) == 1


def test_attention_is_traced_once_for_each_kernel_that_is_chosen() -> None:
    # bf16 attention: the math path before Ampere (one trace), flash on 8.x and 12.x (one), cuDNN on 9.0 and 10.0 (one).
    names = ("t4", "v100-16gb", "a10g", "l4", "a100-80gb", "rtx-5090", "h100-sxm", "b200")
    assert count_traces(Traces(job(Attend, precision="bf16"), isolate=False), names) == 3


def test_each_of_a_shared_set_has_the_answer_it_has_alone() -> None:
    attend = job(Attend, precision="bf16")
    traces = Traces(attend)
    given: dict[str, Any] = {"memory": "1GiB", "torch_version": "2.11.0", "cross_check": False}
    for name in ("t4", "l4", "a100-80gb"):
        shared, alone = estimator.estimate(attend, name, traces=traces, **given), estimator.estimate(attend, name, **given)
        assert shared.model_dump(exclude={"seconds"}) == alone.model_dump(exclude={"seconds"})


def test_where_one_card_needed_a_square_term_the_next_is_traced_for_one_at_once() -> None:
    def loss(model: Any, x: Any) -> Any:
        y = model(x).float().flatten(1)
        return (y @ y.T).square().mean()

    attend = job(Attend, precision="bf16").with_(loss=loss)
    traces = Traces(attend, isolate=False, larger_vouches=True)
    given: dict[str, Any] = {"memory": "1GiB", "torch_version": "2.11.0", "cross_check": False}
    largest, made = [], []
    for name in ("l4", "h100-sxm"):  # another kernel for attention on each
        begun = len(traces._kept)
        largest.append(estimator.estimate(attend, name, traces=traces, **given).max_batch_size)
        made.append([(graph.batch_size, steps) for _, steps, _, graph in traces._kept[begun:]])
    assert largest == [estimator.estimate(attend, name, **given).max_batch_size for name in ("l4", "h100-sxm")]
    (n, steps), again = made[0][2:4]
    assert (steps, again) == (1, (n, 2))  # a line through 4 and 8 is held against one step, then two are fitted
    (n, steps), *others = made[1][2:]
    assert steps == 2
    assert (n, 1) not in others


@pytest.mark.parametrize("name", ["get_device_name", "get_device_properties", "mem_get_info"])
def test_code_that_asks_which_card_it_is_on_is_traced_for_each(name: str) -> None:
    def build() -> Any:
        getattr(torch.cuda, name)()
        return torch.nn.Linear(WIDTH, WIDTH)

    # Both cards are of compute capability 8.9.
    assert count_traces(Traces(job(build), isolate=False), ("l4", "rtx-4090")) == 2


def test_code_that_asks_for_the_capability_is_traced_for_each_capability() -> None:
    def build() -> Any:
        return torch.nn.Linear(WIDTH, WIDTH if torch.cuda.get_device_capability() >= (9, 0) else 2 * WIDTH)

    traces = Traces(job(build), isolate=False)
    assert count_traces(traces, ("l4", "rtx-4090", "h100-sxm", "h200")) == 2


def test_another_release_of_torch_is_another_trace() -> None:
    traces = Traces(job(lambda: torch.nn.Linear(WIDTH, WIDTH)), isolate=False)
    traces.at(target("l4"), [4], [2])
    traces.at(Target(device=resolve_device("l4"), torch_version="2.12.0"), [4], [2])
    assert len(traces._kept) == 2


def test_a_trace_that_failed_is_not_tried_again() -> None:
    calls = []

    def loss(model: Any, x: Any) -> Any:
        calls.append(1)
        return model(x).sum() if model(x).sum().item() > 0 else -model(x).sum()

    reading = job(lambda: torch.nn.Linear(WIDTH, WIDTH)).with_(loss=loss)
    traces = Traces(reading, isolate=False)
    for name in ("l4", "rtx-4090"):
        with pytest.raises(DataDependentError):
            traces.at(target(name), [4], [2])
    assert len(calls) == 1


SIZES = ("2GiB", "1GiB", "512MiB")


def answers(loss: Any, traces: Traces) -> list[estimator.Estimate]:
    """The job on one card with ever less memory."""
    traced = traces.job.with_(loss=loss)
    traces.job = traced
    return [estimator.estimate(traced, "l4", memory=m, traces=traces, cross_check=False) for m in SIZES]


def test_a_larger_batch_vouches_for_smaller_ones_where_it_may() -> None:
    def loss(model: Any, x: Any) -> Any:
        return model(x).square().mean()

    plain = job(lambda: torch.nn.Linear(WIDTH, WIDTH))
    plan = Traces(plain, isolate=False, larger_vouches=True)
    found = answers(loss, plan)
    assert [a.confirmed_at for a in found] == [found[0].max_batch_size] * 3
    assert len(plan._kept) == 3  # two to calibrate, one at the largest solved batch
    alone = Traces(plain, isolate=False)
    each = answers(loss, alone)
    assert [a.confirmed_at for a in each] == [a.max_batch_size for a in each]
    assert len(alone._kept) == 5
    assert [a.max_batch_size for a in found] == [a.max_batch_size for a in each]


def test_a_larger_batch_of_another_program_vouches_for_nothing() -> None:
    def loss(model: Any, x: Any) -> Any:
        # Twice the program at the batch that 2 GiB hold (some 30 000), once at what 1 GiB (some 13 000) and 512 MiB hold.
        return model(x).square().mean() if len(x) < 20_000 else (model(x) + model(x)).square().mean()

    plan = Traces(job(lambda: torch.nn.Linear(WIDTH, WIDTH)), isolate=False, larger_vouches=True)
    found = answers(loss, plan)
    assert found[1].confirmed_at == found[1].max_batch_size
    assert found[2].confirmed_at == found[1].max_batch_size


def _largest(memory: str) -> int:
    return estimator.estimate(job(lambda: torch.nn.Linear(WIDTH, WIDTH)), "l4", memory=memory).max_batch_size


def test_a_worker_of_a_pool_which_may_have_no_children_traces_in_itself() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.map(_largest, ["1GiB"]) == [_largest("1GiB")]


def test_an_optimizer_that_a_function_makes_is_called_by_its_class() -> None:
    def job(optimizer: object) -> estimator.TrainingJob:
        return estimator.TrainingJob(
            model=lambda: torch.nn.Linear(4, 4),
            batch=lambda n: torch.randn(n, 4),
            loss=lambda model, batch: model(batch).sum(),
            optimizer=optimizer,
        )

    for given, said in ((lambda p: torch.optim.NAdam(p), "NAdam"), (torch.optim.SGD, "SGD"), ("adamw", "adamw")):
        assert estimator.estimate(job(given), "l4", cross_check=False).settings["optimizer"] == said
