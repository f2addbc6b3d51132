"""Text generation on tensors without data: the prompt, and the first tokens, from which the others follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from estimator.errors import JobError
from estimator.job import TrainingJob
from estimator.phases import Generation
from estimator.trace.batches import batch_maker
from estimator.trace.collated import BatchMaker

if TYPE_CHECKING:
    from estimator.trace.recorder import Recorder
    from estimator.trace.step import StepRunner

TRACED_CALLS = 5
"""Calls of the model that are traced: the prompt and four tokens, of which the last two show what each further one
adds."""
_LABELS = ("labels", "label", "targets", "target", "decoder_input_ids")


class _Enough(BaseException):
    """Ends the user's loop when enough tokens have been traced; no `except Exception` of theirs catches it."""


def prompts(job: TrainingJob, generation: Generation) -> BatchMaker:
    """A function of the number of sequences that makes prompts: the job's inputs, cut or repeated to their length."""
    if generation.batch is not None:
        make = batch_maker(generation.batch)
    else:
        own = batch_maker(job.batch, job.batch_dim)

        def make(n: int) -> Any:
            return _without_labels(own(n))

    length = generation.prompt_length
    return make if length is None else lambda n: _of_length(make(n), length)


def _without_labels(batch: Any) -> Any:
    if isinstance(batch, dict):
        return {name: value for name, value in batch.items() if name not in _LABELS}
    return batch


def _of_length(batch: Any, length: int) -> Any:
    """Every sequence of integers or booleans (batch, tokens), made `length` tokens long."""

    def resized(t: Any) -> Any:
        if not isinstance(t, Tensor) or t.dim() != 2 or t.dtype.is_floating_point:
            return t
        return t if t.shape[1] == length else t[:, torch.arange(length) % t.shape[1]]

    if isinstance(batch, dict):
        return {name: resized(value) for name, value in batch.items()}
    return type(batch)(map(resized, batch)) if isinstance(batch, (tuple, list)) else resized(batch)


def generate(runner: StepRunner, wanted: Generation, batch: Any, prefix: str) -> Any:
    """Generate from a batch on the device; marks `prefix.prompt`, `prefix.token1`, ..., and `prefix.end` where cut.

    Raises:
        JobError: the model cannot generate and no `call` is given, or `call` never calls the model.
    """
    recorder, model = runner.recorder, runner.model
    call = wanted.call or _by_transformers(model, wanted)
    watch = _Watch(recorder, prefix)
    handle = model.register_forward_pre_hook(watch)
    result: Any = None
    try:
        with runner.as_run(gradients=False):
            result = call(model, batch, wanted.new_tokens)
    except _Enough:
        if wanted.call is None:  # what it returns: the prompt's ids and the new ones
            result = torch.empty(_written(batch, wanted.new_tokens), dtype=torch.int64, device=recorder.device)
    finally:
        handle.remove()
    if watch.calls > TRACED_CALLS:
        recorder.graph.facts.setdefault("generated", {})[prefix] = wanted.new_tokens - 1
    if not watch.calls:
        raise JobError(
            "the generation never calls the model",
            got="no call of model(...)",
            where="Generation.call",
            hint="call the model itself, once for the prompt and once for each token",
        )
    return result


def _written(batch: Any, new_tokens: int) -> tuple[int, int]:
    """Shape of what `model.generate` returns: (sequences, tokens)."""
    first = (
        batch.get("input_ids") if isinstance(batch, dict) else batch[0] if isinstance(batch, (tuple, list)) else batch
    )
    if first is None:  # no text in: the sequences begin with one token of the decoder's own
        return next(t for t in batch.values() if isinstance(t, Tensor)).shape[0], 1 + new_tokens
    return first.shape[0], first.shape[1] + new_tokens


class _Watch:
    """Marks each call of the model as the prompt or a token, and ends the loop after `TRACED_CALLS`."""

    def __init__(self, recorder: Recorder, prefix: str) -> None:
        self._recorder, self._prefix = recorder, prefix
        self.calls = 0

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.calls += 1
        if self.calls > TRACED_CALLS:
            self._recorder.mark(f"{self._prefix}.end")
            raise _Enough
        name = "prompt" if self.calls == 1 else f"token{self.calls - 1}"
        self._recorder.mark(f"{self._prefix}.{name}")


def _by_transformers(model: nn.Module, wanted: Generation) -> Callable[..., Any]:
    """`model.generate`, greedy and without an end-of-sequence token, so that every token is generated."""
    method = getattr(model, "generate", None)
    if method is None or not hasattr(model, "generation_config"):
        raise JobError(
            "the model has no generate of transformers",
            got=type(model).__name__,
            where="TrainingJob.generation",
            allowed="a transformers model that generates, or Generation(call=...)",
            hint="give Generation(call=lambda model, batch, new_tokens: ...) with a loop of your own",
        )

    def call(_: nn.Module, batch: Any, new_tokens: int) -> Any:
        for layer in getattr(getattr(model, "_cache", None), "layers", ()):
            # A static cache stays with the model and is set to zero before it is used again: nothing of it is filled.
            layer.get_seq_length = lambda *_: 0
        given = (
            batch if isinstance(batch, dict) else {"inputs": batch[0] if isinstance(batch, (tuple, list)) else batch}
        )
        return method(
            **given,
            max_new_tokens=new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=None,
            pad_token_id=0,
            cache_implementation="static" if wanted.cache == "static" else None,
            disable_compile=True,
        )

    return call
