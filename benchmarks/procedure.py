"""The training loop that truth is measured on: what a user writes, phase by phase. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from benchmarks.cases import Batch, Case

STEPS = 4
AUTOCAST = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}
WEIGHTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
TEXT = (
    "fresh process; model built on the device under the default dtype of its precision (channels_last: converted "
    "there); optimizer of the parameters that require gradients; each step: batch made on the host (floats cast, 4-D "
    "inputs converted as the weights are), copied with .to(device), zero_grad(set_to_none=True), forward and loss "
    "under autocast, backward, optional clip_grad_norm_, optimizer step. Batch and loss live until the next ones are "
    "bound; nothing holds the model's output. cudnn.benchmark off, nothing compiled."
)


def build(case: Case, device: str) -> nn.Module:
    """Build the case's model on `device`, parameter by parameter."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(WEIGHTS.get(case.precision, torch.float32))
    try:
        with torch.device(device):
            model = case.model()
    finally:
        torch.set_default_dtype(before)
    if case.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.eval() if case.eval_only else model.train()


def to_device(case: Case, batch: Batch, device: str) -> Batch:
    """Cast and convert on the host, then copy, tensor by tensor."""
    moved = []
    for x in batch:
        if case.precision in WEIGHTS and x.is_floating_point():
            x = x.to(WEIGHTS[case.precision])
        if case.channels_last and x.dim() == 4:
            x = x.to(memory_format=torch.channels_last)
        moved.append(x.to(device))
    return tuple(moved)


def run(case: Case, samples: int, device: str, on_phase: Callable[[str], None], steps: int = STEPS) -> tuple[Any, Any]:
    """Train `case` with batches of `samples` and give (model, optimizer).

    `on_phase(name)` is called at the end of each phase: `model`, `optimizer`, then for each step `stepN.batch`,
    `stepN.forward`, `stepN.backward` (of later micro-batches `.forward1`, `.backward1`, ...) and `stepN.optimizer`.
    """
    model = build(case, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    on_phase("model")
    optimizer = None if case.eval_only else case.optimizer(parameters)
    scaler = torch.amp.GradScaler(device) if case.grad_scaler else None
    on_phase("optimizer")
    batch: Any = None
    loss: Any = None
    for step in range(steps):
        for micro in range(case.accumulation_steps):
            batch = case.batch(samples)  # the batch on the device is let go before the next is copied
            batch = to_device(case, batch, device)
            if micro == 0:
                if optimizer is not None:
                    optimizer.zero_grad(set_to_none=True)
                on_phase(f"step{step}.batch")
            with ExitStack() as stack:
                if case.eval_only:
                    stack.enter_context(torch.no_grad())
                if case.precision in AUTOCAST:
                    stack.enter_context(torch.autocast(device, AUTOCAST[case.precision]))
                loss = case.loss(model, batch)
            on_phase(f"step{step}.forward{micro or ''}")
            if optimizer is None:
                continue
            if case.accumulation_steps > 1:
                loss = loss / case.accumulation_steps
            (loss if scaler is None else scaler.scale(loss)).backward()
            on_phase(f"step{step}.backward{micro or ''}")
        if optimizer is None:
            continue
        if case.grad_clip:
            if scaler is not None:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, case.grad_clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        on_phase(f"step{step}.optimizer")
    return model, optimizer
