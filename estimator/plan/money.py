"""What cards cost: how many a budget pays for, and how many a global batch takes.

Cards are taken to hold a copy of the model each and a part of the batch (data parallelism). What a process group takes
besides (buckets, NCCL's buffers) is not in the figures.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from estimator.plan.config import Plan

FIELDS = (
    "price", "cards_for_budget", "batch_for_budget", "steps_for_global_batch", "cards_for_global_batch",
    "cost_for_global_batch",
)  # fmt: skip


def money_of(plan: Plan, device: str, max_batch_size: int | None, accumulation_steps: int = 1) -> dict[str, Any]:
    """The figures of one cell; None where prices, budget or global batch were not given, or nothing fits.

    `batch_for_budget` is what all cards of the budget hold in one optimizer step; `steps_for_global_batch` how many
    such steps' worth of samples the global batch is, rounded up: the further accumulation those cards need.
    """
    price = plan.prices.get(device)
    samples = (max_batch_size or 0) * accumulation_steps
    found: dict[str, Any] = dict.fromkeys(FIELDS)
    found["price"] = price
    if price is not None and plan.budget is not None:
        cards = int(Decimal(str(plan.budget)) // Decimal(str(price)))
        found |= {"cards_for_budget": cards, "batch_for_budget": cards * samples}
        if plan.global_batch is not None and cards * samples:
            found["steps_for_global_batch"] = -(-plan.global_batch // (cards * samples))
    if plan.global_batch is not None and samples:
        cards = -(-plan.global_batch // samples)
        found["cards_for_global_batch"] = cards
        if price is not None:
            found["cost_for_global_batch"] = float(cards * Decimal(str(price)))
    return found
