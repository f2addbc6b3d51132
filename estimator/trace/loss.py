"""The loss of a step: the model's own where the job gives none, and what a loss must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from estimator.errors import JobError


def default_loss(mode: str) -> Callable[[nn.Module, Any], Any]:
    """Call the model on the batch as its kind suggests, and take the output's own loss in training."""

    def call(model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            out = model(**batch)
        else:
            out = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
        if mode == "inference":
            return out
        found = out if isinstance(out, Tensor) else _own_loss(out)
        if found is None:
            raise JobError(
                "there is no loss",
                got=f"an output of type {type(out).__name__} without a loss",
                allowed="a tensor, .loss, a dict's \"loss\", or a tuple with one tensor of one element",
                where="TrainingJob.loss",
                hint="give loss=lambda model, batch: ...",
            )
        return found

    return call


def _own_loss(out: Any) -> Any:
    if isinstance(out, Mapping):
        return out.get("loss")
    if isinstance(out, (tuple, list)) and not hasattr(out, "loss"):
        single = [t for t in out if isinstance(t, Tensor) and t.numel() == 1]
        return single[0] if len(single) == 1 else None
    return getattr(out, "loss", None)


def check_loss(loss: Any) -> None:
    """Refuse what no backward pass can begin from.

    Raises:
        JobError: it is not a tensor of one element that requires grad.
    """
    if not isinstance(loss, Tensor):
        raise JobError(
            "the loss is not a tensor",
            got="a float" if isinstance(loss, float) else type(loss).__name__,
            where="TrainingJob.loss",
            allowed="a scalar tensor that requires grad",
            hint="return the loss itself, not a tuple or a float",
        )
    if loss.numel() != 1:
        raise JobError(
            "the loss is not a scalar",
            got=f"shape {tuple(loss.shape)}",
            where="TrainingJob.loss",
            allowed="one element",
            hint="reduce it, for example with .mean()",
        )
    if not loss.requires_grad:
        raise JobError(
            "the loss does not depend on any trainable parameter",
            got="a loss without grad_fn",
            where="TrainingJob.loss",
            hint='train some parameter, or use mode="inference"',
        )
