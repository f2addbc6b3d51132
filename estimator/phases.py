"""What a job does besides its training steps: validate, generate text, save checkpoints. Records, checked when made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Cache = Literal["growing", "static"]


class _Phase(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", frozen=True)


class Validation(_Phase):
    """A pass over validation batches after training steps: `model.eval()` under `torch.no_grad()`.

    Gradients of the last step, the last training batch and the last loss are still there, as they are where a loop
    sets gradients to None at the beginning of the next step and validates from within the same function.
    """

    batch: Any = None
    """As `TrainingJob.batch`; the job's own where not given."""
    loss: Callable[..., Any] | None = None
    """`loss(model, batch)`; the job's own where not given, else the model's output. What it returns is kept until the
    next batch has been evaluated."""
    batch_size: Count | None = None
    """Samples of a validation batch; those of a training batch where not given."""
    batches: Count = 2
    """Batches that are traced: the second finds the first one's still there."""


class Generation(_Phase):
    """Text generation with a cache of keys and values: a prompt, then one token after another.

    Without `call` it is `model.generate` of transformers, greedy, to the last token. `call(model, batch, new_tokens)`
    replaces it by a loop of the user's own, whose calls of the model are taken for the prompt and the tokens.
    """

    new_tokens: Count = 128
    prompt_length: Count | None = None
    """Tokens of the prompt: the job's input ids are cut, or repeated, to it; they are taken as they are if not given."""
    batch: Any = None
    """Prompts, as `TrainingJob.batch`; the job's own where not given, without labels."""
    batch_size: Count | None = None
    """Sequences that are generated at once; the samples of a training batch where not given."""
    cache: Cache = "growing"
    """`growing` (transformers' DynamicCache, made anew with each token) or `static` (of full length from the start)."""
    call: Callable[..., Any] | None = None


class Checkpoint(_Phase):
    """Saving a checkpoint after a step."""

    state: Literal["model", "model+optimizer"] = "model+optimizer"
    copied_to: Literal["nowhere", "device", "host"] = "nowhere"
    """Where each tensor of the state is copied before any is written: `clone()` on the device, `cpu()`, or not at all."""
    writer: Literal["torch.save", "safetensors"] = "torch.save"
