"""Advice: each change is the changed job's own trace, the user's model stays as it is, refusals say why."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import estimator
from estimator.advice import optimizers
from estimator.advice.changes import CHANGES, Seen
from estimator.advice.chunked_loss import ChunkedLoss
from estimator.advice.run import NAMES, micro_batches
from estimator.device import DeviceProfile
from estimator.errors import JobError, UsageError
from estimator.graph import StepGraph

pytestmark = pytest.mark.torch

DEVICE = DeviceProfile(
    name="small", kind="cuda", total_bytes=96 << 20, context_bytes=0, compute_capability=(8, 0),
    multiprocessor_count=108,
)  # fmt: skip


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


def job(model: Any = Blocks, **more: Any) -> estimator.TrainingJob:
    return estimator.TrainingJob(
        **{
            "model": model, "batch": lambda n: torch.randn(n, 64, 256), "optimizer": "adamw",
            "loss": lambda model, x: model(x).square().mean(), **more,
        }
    )  # fmt: skip


def change(name: str) -> Any:
    return next(c for c in CHANGES if c.name == name)


@pytest.mark.parametrize(
    ("wanted", "largest", "least", "count"),
    [
        (256, 74, 2, 4),  # 256 / 74 is above 3; 4 divides 256
        (256, 256, 2, 2),  # at least what was traced
        (100, 33, 2, 4),  # 4 of 25
        (97, 32, 2, 4),  # a prime: 3 of 32 and one more
    ],
)
def test_micro_batches_are_few_and_equal_where_they_can(wanted: int, largest: int, least: int, count: int) -> None:
    assert micro_batches(wanted, largest, least) == count
    assert -(-wanted // count) <= largest


def test_outcome_is_the_estimate_of_the_changed_job() -> None:
    """bf16 by advice is what `estimate` says of the job in bf16: nothing is scaled."""
    advice = estimator.advise(job(), DEVICE, changes=["bf16", "lora"], isolate=False)
    (outcome,) = advice.changes
    answer = estimator.estimate(job(precision="bf16"), DEVICE, isolate=False, cross_check=False)
    assert outcome.max_batch_size == answer.max_batch_size
    assert outcome.device_bytes == answer.at(advice.compared_at).device_bytes
    assert outcome.gained_batch_size == answer.max_batch_size - advice.base.max_batch_size > 0
    assert [(r.name, "no transformers model" in r.reason) for r in advice.refused] == [("lora", True)]


def test_live_model_stays_as_it_was_and_checkpointing_costs_flops() -> None:
    model = Blocks()
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    forwards = [block.forward for block in model.blocks]
    advice = estimator.advise(job(model), DEVICE, changes=["checkpointing"], isolate=False)
    (outcome,) = advice.changes
    # Forward is 1 of 3 parts of a step; checkpoint runs it once more, all but what nothing needs (the last layer's).
    assert outcome.flops_ratio is not None
    assert 1.1 < outcome.flops_ratio <= 4 / 3
    assert outcome.saved_bytes > 0
    assert [block.forward for block in model.blocks] == forwards
    for name, p in model.named_parameters():
        assert id(p) == before[name][0]
        assert torch.equal(p, before[name][1])


def test_accumulation_keeps_the_global_batch() -> None:
    largest = estimator.estimate(job(), DEVICE, isolate=False, cross_check=False).max_batch_size
    advice = estimator.advise(job(), DEVICE, global_batch=3 * largest, changes=["accumulation"], isolate=False)
    (outcome,) = advice.changes
    assert outcome.effective_batch_size == 3 * largest
    assert outcome.accumulation_steps * outcome.max_batch_size >= 3 * largest
    assert outcome.flops_per_sample == advice.base.flops_per_sample
    assert advice.reached
    assert not estimator.advise(job(), DEVICE, global_batch=3 * largest, changes=[], isolate=False).reached


def test_names_and_global_batch_are_checked() -> None:
    with pytest.raises(UsageError, match="no change has that name"):
        estimator.advise(job(), DEVICE, changes=["magic"])
    with pytest.raises(UsageError, match="fewer samples"):
        estimator.advise(job(accumulation_steps=4), DEVICE, global_batch=2)


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("amp", {"precision": "bf16"}, "bf16 already"),
        ("amp", {"loss": None, "step": lambda m, o, b: None}, "own step"),
        ("channels-last", {}, "no convolution"),
        ("channels-last", {"channels_last": True}, "already"),
        ("checkpointing", {"mode": "inference"}, "inference"),
        ("chunked-loss", {}, "no cross entropy"),
        ("fused", {"loss": None, "step": lambda m, o, b: None, "optimizer": None}, "makes its optimizer"),
    ],
)
def test_what_does_not_apply_says_why(name: str, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(JobError, match=reason):
        change(name).apply(job(**fields), Seen(StepGraph(4, facts={"batch_shapes": []}), DEVICE))


def test_old_card_gets_float16_with_a_scaler() -> None:
    old = DEVICE.model_copy(update={"compute_capability": (7, 0)})
    made = change("amp").apply(job(), Seen(StepGraph(4), old))
    assert (made.precision, made.grad_scaler) == ("amp-fp16", True)
    with pytest.raises(JobError, match="matrix units"):
        change("bf16").apply(job(), Seen(StepGraph(4), old))


# ---------------------------------------------------------------- optimizers


def two_groups() -> list[dict[str, Any]]:
    return [{"params": [nn.Parameter(torch.ones(8, 1024))], "lr": 0.5}, {"params": [nn.Parameter(torch.ones(3))]}]


def test_groups_and_settings_survive() -> None:
    made = optimizers.edited_optimizer(lambda p: torch.optim.AdamW(p, betas=(0.5, 0.9)), optimizers.fused)(two_groups())
    assert [g["lr"] for g in made.param_groups] == [0.5, 1e-3]
    assert all((g["betas"], g["fused"], g["foreach"]) == ((0.5, 0.9), True, False) for g in made.param_groups)
    plain = optimizers.one_by_one(torch.optim.SGD(two_groups(), lr=0.1, momentum=0.9))
    assert all((g["momentum"], g["foreach"]) == (0.9, False) for g in plain.param_groups)


def test_several_optimizers_are_edited_each() -> None:
    make = optimizers.edited_optimizer(lambda p: (torch.optim.Adam(p), torch.optim.SGD(p, lr=0.1)), optimizers.fused)
    assert [o.defaults["fused"] for o in make(two_groups())] == [True, True]


def test_eight_bit_state_is_a_quarter() -> None:
    made = optimizers.in_eight_bit(torch.optim.Adam(two_groups()))
    for group in made.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    made.step()
    large = made.param_groups[0]["params"][0]
    assert made.state[large]["state1"].dtype == torch.uint8
    assert made.state[large]["state1"].numel() == large.numel()


@pytest.mark.parametrize(
    ("edit", "optimizer", "reason"),
    [
        (optimizers.fused, lambda p: torch.optim.AdamW(p, fused=True), "fused already"),
        (optimizers.fused, lambda p: torch.optim.RMSprop(p), "no fused implementation"),
        (optimizers.one_by_one, lambda p: torch.optim.AdamW(p, foreach=False), "does not use foreach"),
        (optimizers.one_by_one, lambda p: torch.optim.LBFGS(p[0]["params"]), "no foreach"),
        (optimizers.in_eight_bit, lambda p: torch.optim.SGD(p, lr=0.1), "keeps no state"),
        (optimizers.in_eight_bit, lambda p: torch.optim.Adadelta(p), "no 8-bit implementation"),
    ],
)
def test_optimizer_that_has_no_such_kind_says_so(edit: Any, optimizer: Any, reason: str) -> None:
    with pytest.raises(JobError, match=reason):
        edit(optimizer(two_groups()))


# ---------------------------------------------------------------- chunked loss

CLASSES = 4096


def plain(out: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), labels.flatten())


def shifted(out: Any, labels: Tensor) -> Tensor:
    """As transformers does it: float32, cut or view, the padding left out."""
    return F.cross_entropy(
        out.float()[:, :-1, :].contiguous().view(-1, CLASSES), labels[:, 1:].flatten(), ignore_index=7
    )


def summed(out: Any, labels: Tensor) -> Tensor:
    return F.cross_entropy(
        out.reshape(-1, out.shape[-1]).to(out.device), labels.view(-1), reduction="sum", label_smoothing=0.1
    )


@pytest.mark.parametrize("loss", [plain, shifted, summed])
def test_chunked_loss_is_the_loss(loss: Any) -> None:
    """Value and gradients are those of the whole, and the layer is never computed for all rows."""
    torch.manual_seed(0)
    x, layer = torch.randn(2, 20, 16, requires_grad=True), nn.Linear(16, CLASSES)
    labels = torch.randint(CLASSES, (2, 20))
    labels[0, 3] = 7
    expected = loss(layer(x), labels)
    wanted = torch.autograd.grad(expected, (x, layer.weight, layer.bias))
    with ChunkedLoss(frozenset({CLASSES})) as mode:
        found = loss(layer(x), labels)
    assert mode.served == 1
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, (x, layer.weight, layer.bias)), wanted)


def test_result_that_is_used_otherwise_is_computed() -> None:
    x, layer = torch.randn(3, 16), nn.Linear(16, CLASSES)
    with ChunkedLoss(frozenset({CLASSES})) as mode:
        out = layer(x)
        soft, doubled, transposed = torch.softmax(out, dim=-1), out * 2, out.transpose(0, 1)
    assert mode.served == 0
    torch.testing.assert_close(soft, torch.softmax(layer(x), dim=-1))
    torch.testing.assert_close(doubled, layer(x) * 2)
    assert transposed.shape == (CLASSES, 3)


def test_chunks_save_memory_of_a_language_model() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(CLASSES, 32), nn.Linear(32, CLASSES))

    advice = estimator.advise(
        job(model, batch=lambda n: torch.randint(CLASSES, (n, 64)), loss=lambda m, x: plain(m(x), x)), DEVICE,
        changes=["chunked-loss"], isolate=False,
    )  # fmt: skip
    (outcome,) = advice.changes
    assert outcome.gained_batch_size > advice.base.max_batch_size, "most of such a model is logits"
    assert outcome.flops_ratio is not None
    assert outcome.flops_ratio > 1


# ---------------------------------------------------------------- the command


def test_command_prints_a_line_a_change_and_exits_by_the_global_batch() -> None:
    from estimator.cli import app

    arguments = ["advise", "benchmarks/zoo/gpt.py:tiny", "-d", "l4", "--no-isolate", "-q", "-c", "fused", "-c", "lora"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert [c["name"] for c in said["changes"]] == ["fused"]
    text = CliRunner().invoke(app, arguments).stdout
    assert "as-it-is" in text
    assert "fused=True" in text
    assert "lora" in text.split("Not tried")[1]


def test_every_change_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
