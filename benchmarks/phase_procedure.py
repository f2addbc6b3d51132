"""The loop that the truth of phases is measured on: training steps, then validation, generation, a checkpoint.

Then one more step. Imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from benchmarks import procedure
from benchmarks.phase_cases import CALLS_APART, PhaseCase

OnPhase = Callable[[str], None]
TEXT = (
    "as in benchmarks/procedure.py; behind the steps, in the same function, so that batch, loss and gradients of the "
    "last step are still there: model.eval(); two validation batches under no_grad and autocast, what the loss "
    "function gives kept until the next; a generation under no_grad and autocast (model.generate greedy, no end-of-"
    "sequence token, disable_compile, or the case's own loop); model.train(); state_dict of model and optimizer, each "
    "tensor cloned or copied to the host where the case says so; then one more step. In an eval_only case each step is "
    "a generation."
)


def run(case: PhaseCase, samples: int, device: str, on_phase: OnPhase) -> tuple[nn.Module, Any]:
    """Run the case; `on_phase(name)` is called at the end of each phase."""
    model = procedure.build(case, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    on_phase("model")
    optimizer = None if case.eval_only else case.optimizer(parameters)
    on_phase("optimizer")
    batch: Any = None
    loss: Any = None
    for step in range(case.steps + (0 if case.eval_only else 1)):
        if step == case.steps:
            _after(case, model, optimizer, samples, device, on_phase)
        if case.eval_only:
            host = case.prompt(samples)
            batch = None
            batch = tree_map_only(torch.Tensor, lambda t: t.to(device), host)
            on_phase(f"step{step}.batch")
            loss = _generate(case, model, batch, device, on_phase, f"step{step}")
            continue
        batch = case.batch(samples)  # the batch on the device is let go before the next is copied
        batch = procedure.to_device(case, batch, device)
        assert optimizer is not None
        optimizer.zero_grad(set_to_none=True)
        on_phase(f"step{step}.batch")
        with _as_run(case, device, gradients=True):
            loss = case.loss(model, batch)
        on_phase(f"step{step}.forward")
        loss.backward()
        on_phase(f"step{step}.backward")
        optimizer.step()
        on_phase(f"step{step}.optimizer")
    return model, optimizer


@contextmanager
def _as_run(case: PhaseCase, device: str, *, gradients: bool) -> Iterator[None]:
    with ExitStack() as stack:
        if not gradients:
            stack.enter_context(torch.no_grad())
        if case.precision in procedure.AUTOCAST:
            stack.enter_context(torch.autocast(device, procedure.AUTOCAST[case.precision]))
        yield


def _after(case: PhaseCase, model: nn.Module, optimizer: Any, samples: int, device: str, on_phase: OnPhase) -> None:
    model.eval()
    if case.validation_batch:
        _validate(case, model, samples if case.validation_batch < 0 else case.validation_batch, device, on_phase)
    if case.new_tokens:
        batch = tree_map_only(torch.Tensor, lambda t: t.to(device), case.prompt(case.generation_batch or samples))
        on_phase("generate.batch")
        out = _generate(case, model, batch, device, on_phase, "generate")
        del batch, out
    model.train()
    if case.checkpoint:
        _save(case, model, optimizer)
        on_phase("checkpoint")


def _validate(case: PhaseCase, model: nn.Module, samples: int, device: str, on_phase: OnPhase) -> None:
    batch: Any = None
    kept: Any = None
    for index in range(2):
        batch = case.batch(samples)
        batch = procedure.to_device(case, batch, device)
        on_phase(f"validation{index}.batch")
        with _as_run(case, device, gradients=False):
            kept = case.loss(model, batch)
        on_phase(f"validation{index}.forward")
    del batch, kept


def _generate(case: PhaseCase, model: nn.Module, batch: Any, device: str, on_phase: OnPhase, prefix: str) -> Any:
    calls = 0

    def watch(module: nn.Module, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1 and calls <= CALLS_APART:
            on_phase(f"{prefix}.prompt" if calls == 2 else f"{prefix}.token{calls - 2}")

    handle = model.register_forward_pre_hook(watch)
    with _as_run(case, device, gradients=False):
        out = case.call(model, batch, case.new_tokens) if case.call else _by_transformers(case, model, batch)
    handle.remove()
    assert calls == case.new_tokens, calls
    on_phase(f"{prefix}.tokens")
    return out


def _by_transformers(case: PhaseCase, model: Any, batch: Any) -> Any:
    return model.generate(
        **batch, max_new_tokens=case.new_tokens, do_sample=False, use_cache=True, eos_token_id=None, pad_token_id=0,
        cache_implementation="static" if case.cache == "static" else None, disable_compile=True,
    )  # fmt: skip


def _save(case: PhaseCase, model: nn.Module, optimizer: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value

    state = plain([model.state_dict(), optimizer.state_dict()])
    if case.checkpoint == "device":
        state = tree_map_only(torch.Tensor, torch.clone, state)
    elif case.checkpoint == "host":
        state = tree_map_only(torch.Tensor, lambda t: t.cpu(), state)
    del state
