"""Questions after the data that sources answer by rule: masks of detectors, matched boxes, experts, CTC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn

import estimator
from estimator.device import DeviceProfile, Target
from estimator.errors import DataDependentError
from estimator.graph import StepGraph
from estimator.sources.huggingface_experts import EqualShares
from estimator.sources.masks import EveryElement
from estimator.trace import trace
from estimator.traces import semantics_of

pytestmark = pytest.mark.torch

DEVICE = DeviceProfile(
    name="card", kind="cuda", total_bytes=24 << 30, context_bytes=0, compute_capability=(8, 0), multiprocessor_count=108
)
TARGET = Target(device=DEVICE, torch_version="2.13.0")


def traced(
    forward: Callable[[Tensor], Any], batch: Callable[[int], Any] = lambda n: torch.randn(n, 20, 8)
) -> StepGraph:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Any) -> Any:
            first, *rest = x if isinstance(x, tuple) else (x,)
            return forward(self.layer(first), *rest)

    job = estimator.TrainingJob(model=Net, batch=batch, loss=lambda m, x: m(x).sum(), optimizer="sgd")
    return trace(job, TARGET, 2, semantics_of(TARGET), 1)


def shapes(graph: StepGraph, op: str) -> list[tuple[int, ...]]:
    return [o.outputs[0].shape for o in graph.ops if o.name == op]


def test_every_element_of_an_unknown_mask_is_picked() -> None:
    """(2, 20, 8) by a mask over the first two dimensions: all 40 rows, forward and, written back, backward."""

    def forward(h: Tensor) -> Tensor:
        with EveryElement():
            mask = h.sum(-1) > 0
            out = torch.zeros_like(h)
            out[mask] = h[mask].sin()
            assert len(torch.where(mask)[0]) == 40
            assert torch.nonzero(mask).shape == (40, 2)
        return out

    assert shapes(traced(forward), "aten.sin.default") == [(40, 8)]
    with pytest.raises(DataDependentError):
        traced(lambda h: h[h.sum(-1) > 0])


def test_share_of_a_mask() -> None:
    def forward(h: Tensor) -> Tensor:
        with EveryElement(lambda mask: 0.25):
            return h.flatten(0, 1)[h.flatten(0, 1).sum(-1) > 0].sin()

    assert shapes(traced(forward), "aten.sin.default") == [(10, 8)]


def test_mask_that_is_known_picks_what_it_picks() -> None:
    """A mask of constants is followed: 3 of 20, in a copy whose backward pass indexes by the mask again."""

    def forward(h: Tensor) -> Tensor:
        mask = torch.zeros(h.shape[:2], dtype=torch.bool, device=h.device)
        mask[:, :3] = True
        with EveryElement():
            picked = h[mask]
        out = h.clone()
        out[mask] = picked.sin()
        return out

    assert shapes(traced(forward), "aten.sin.default") == [(6, 8)]


def test_samples_of_two_kinds_have_nothing_in_common() -> None:
    with EveryElement():
        first, second = torch.randperm(10), torch.randperm(10)
    assert first[:5].tolist() == [0, 1, 2, 3, 4]
    assert second[:5].tolist() == [9, 8, 7, 6, 5]


def test_experts_picked_by_a_mask_get_equal_shares() -> None:
    """As Switch picks them: 40 tokens, 4 experts, 10 each, written back where they were read."""

    def forward(h: Tensor) -> Tensor:
        with EqualShares(4, 1):
            out = torch.zeros_like(h)
            for expert in range(4):
                mask = h.argmax(-1) == expert
                out[mask] = h[mask].sin()
        return out

    assert shapes(traced(forward), "aten.sin.default") == [(10, 8)] * 4


def test_counts_that_are_read_are_answered() -> None:
    """A trace has a function of its own under `Tensor.item`, and modes are told of that: FCOS counts what is found so."""

    def forward(h: Tensor) -> Tensor:
        with EveryElement():
            found = (h.sum(-1) > 0).sum().item()
        return h.sin() / max(1, found)

    assert shapes(traced(forward), "aten.sin.default") == [(2, 20, 8)]


def test_experts_whose_sizes_are_listed_get_equal_shares() -> None:
    """As GraniteMoe and JetMoe split them: 40 tokens, 2 of 4 experts each, 20 rows an expert."""

    def forward(h: Tensor) -> Tensor:
        tokens = h.flatten(0, 1)
        with EqualShares(4, 2):
            chosen = tokens[:, :4].topk(2, dim=1)[1]
            gates = torch.zeros(len(tokens), 4, device=h.device).scatter(1, chosen, 1)
            sizes = gates.long().sum(0).tolist()
        parts = tokens.repeat_interleave(2, 0).split(sizes)
        return torch.cat([part.sin() for part in parts])

    assert shapes(traced(forward), "aten.sin.default") == [(20, 8)] * 4


def test_ctc_loss_keeps_as_many_variables_as_its_longest_target() -> None:
    """(batch, time, 2 * 7 + 1), and as much again for the time of the backward pass."""
    from estimator import scratch

    def forward(h: Tensor, targets: Tensor) -> Tensor:
        lengths = torch.tensor([5, 7])
        times = torch.full((2,), 20)
        return torch.nn.functional.ctc_loss(h.log_softmax(-1).transpose(0, 1), targets, times, lengths)

    with torch.backends.cudnn.flags(enabled=False):
        graph = traced(forward, lambda n: (torch.randn(n, 20, 8), torch.randint(1, 8, (n, 7))))
    (op,) = (o for o in graph.ops if o.name.startswith("aten._ctc_loss."))
    assert [o.shape for o in op.outputs] == [(2,), (2, 20, 15)]
    (back,) = (o for o in graph.ops if o.name.startswith("aten._ctc_loss_backward."))
    assert back.outputs[0].shape == (20, 2, 8)
    tables = [2 * 8] * 3  # a number of 8 bytes a sample: two kinds of lengths, and where the targets begin
    assert [s.size_bytes for s in scratch.scratch_of(back, TARGET)] == [*tables, 2 * 20 * 15 * 4]


def test_boxes_are_matched_in_order_without_scipy() -> None:
    pytest.importorskip("transformers")
    from benchmarks.vision import settle

    settle()
    import transformers.loss.loss_for_object_detection as module

    from estimator.sources.huggingface_matching import _in_order, matched_in_order

    before = dict(vars(module))
    with matched_in_order():
        matcher = module.HungarianMatcher()
        targets = [{"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2)}]
        found = matcher({"logits": torch.randn(1, 5, 3), "pred_boxes": torch.rand(1, 5, 4)}, targets)
    assert [(rows.tolist(), columns.tolist()) for rows, columns in found] == [([0, 1], [0, 1])]
    assert dict(vars(module)) == before
    assert [len(part) for part in _in_order(torch.empty(3, 9))] == [3, 3]


def test_detector_traces_without_data() -> None:
    from estimator.sources import JobOptions, load_job
    from estimator.sources.edits import prepare_torchvision

    prepare_torchvision()  # where its library is linked with CUDA, it imports only so
    pytest.importorskip("torchvision")

    job = load_job("torchvision:fasterrcnn_mobilenet_v3_large_320_fpn", JobOptions())
    graph = trace(job, TARGET, 2, semantics_of(TARGET), 1)
    # 512 boxes of each image, cut out at 7 x 7: shared equally among the pyramid levels.
    pooled = shapes(graph, "torchvision.roi_align.default")
    assert sum(s[0] for s in pooled) == 2 * 512
    assert any("square" in note for note in job.notes)
