"""Advice as text: what each change buys and costs, best first; what does not apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from estimator.report.page import Page
from estimator.units import format_bytes

if TYPE_CHECKING:
    from estimator.advice.records import Advice, Outcome

_COLUMNS = [
    ("change", False), ("batch", True), ("of a step", True), ("gained", True), ("memory", True), ("saved", True),
    ("flops", True), ("calls", True), ("alters", False),
]  # fmt: skip


def write_advice(page: Page, advice: Advice) -> None:
    """Write the ranked changes, how each is made, and those that do not apply with the reason."""
    wanted = "" if advice.global_batch is None else f", {advice.global_batch} samples wanted"
    page.heading(f"{advice.job} on {advice.device}{wanted}")
    rows = [advice.base, *advice.changes, *((advice.together,) if advice.together else ())]
    page.table(_COLUMNS, [_row(outcome) for outcome in rows], totals=1 if advice.together else 0)
    page.line(
        f"batch: the most samples that fit at a time; of a step: in one optimizer step; memory: at batch "
        f"{advice.compared_at}; flops: of a sample, against the job as it is; calls: of one optimizer step",
        indent=2,
    )
    if advice.global_batch is not None and not advice.reached:
        page.line(f"no change brings {advice.global_batch} samples to a step", indent=2, style="bold red")
    page.heading("How")
    page.pairs([(o.name, "; ".join(filter(None, (o.how, o.note)))) for o in advice.changes])
    if advice.together is not None and advice.together.note:
        page.line(f"together: {advice.together.note}", indent=2)
    if advice.refused:
        page.heading("Not tried or not predicted")
        page.pairs([(refusal.name, refusal.reason) for refusal in advice.refused])


def _row(outcome: Outcome) -> list[str]:
    ratio = "-" if outcome.flops_ratio is None else f"x{outcome.flops_ratio:.2f}"
    return [
        outcome.name,
        str(outcome.max_batch_size),
        str(outcome.effective_batch_size),
        f"{outcome.gained_batch_size:+}",
        format_bytes(outcome.device_bytes),
        f"{'-' if outcome.saved_bytes < 0 else ''}{format_bytes(abs(outcome.saved_bytes))}",
        ratio,
        str(outcome.op_count),
        outcome.alters,
    ]
