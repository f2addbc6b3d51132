"""A callback of transformers' Trainer: the batch size that is predicted to fit, before training begins.

```python
from estimator.integrations.transformers import BatchSizeCallback

callback = BatchSizeCallback(batch=dataset)               # sets per_device_train_batch_size
trainer = Trainer(model, args, train_dataset=dataset, callbacks=[callback])
trainer.train()
```

Without `batch` nothing is set; the size that the arguments have is looked at when training begins, with the Trainer's
own data. The model is copied without its data: neither it nor the optimizer, the RNG or the Trainer's state is touched.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from transformers import TrainerCallback

from estimator.errors import UsageError
from estimator.integrations.predicted import predicted, told, warn_of_others

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.job import TrainingJob
    from estimator.result import Estimate


class BatchSizeCallback(TrainerCallback):  # type: ignore[misc]
    """Predict a Trainer's memory; set the largest batch that fits, or say what the chosen one takes.

    Args:
        batch: what a `TrainingJob` takes as its batch: a function of n, an example batch, a Dataset. With it
            `per_device_train_batch_size` becomes the largest that fits when the Trainer is made.
        device: of the run; None for this machine, where what this process holds counts as free.
        too_large: what to do when training begins with a batch that does not fit: "warn" or "raise".
        most: set no more than this.
    """

    def __init__(
        self,
        batch: Any = None,
        device: DeviceProfile | str | None = None,
        too_large: Literal["warn", "raise"] = "warn",
        most: int | None = None,
    ) -> None:
        if too_large not in ("warn", "raise"):
            raise UsageError("no such way", got=repr(too_large), allowed="'warn' or 'raise'", where="too_large")
        self.batch, self.device, self.too_large, self.most = batch, device, too_large, most
        self.estimate: Estimate | None = None
        """The prediction, once it is made."""

    def on_init_end(self, args: Any, state: Any, control: Any, model: Any = None, **more: Any) -> None:
        """Set the batch size of the arguments, before the Trainer reads it."""
        if self.batch is None or model is None:
            return
        answer = self.estimate = predicted(job_of(args, model, self.batch), self.device)
        if answer.max_batch_size == 0:
            self._complain(f"not even a batch of 1 is predicted to fit: {answer.limited_by}")
            return
        size = answer.max_batch_size if self.most is None else min(self.most, answer.max_batch_size)
        args.per_device_train_batch_size = size

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **more: Any
    ) -> None:
        """Look at the batch size that training begins with."""
        if model is None:
            return
        if self.estimate is None:
            if train_dataloader is None:
                return
            self.estimate = predicted(job_of(args, model, _plain_loader(train_dataloader)), self.device)
        size = getattr(state, "train_batch_size", None) or args.per_device_train_batch_size
        if not self.estimate.at(size).fits:
            self._complain(told(self.estimate, size))

    def _complain(self, text: str) -> None:
        if self.too_large == "raise":
            raise MemoryError(text)
        warnings.warn(text, RuntimeWarning, stacklevel=3)


def job_of(args: Any, model: Any, batch: Any) -> TrainingJob:
    """The job of a Trainer: its arguments' precision, optimizer, accumulation and clipping; the model's own loss.

    Raises:
        SourceError: an optimizer that is not known here.
    """
    from estimator.job import TrainingJob
    from estimator.sources.files import options_of_arguments

    warn_of_others(args.world_size)
    options = options_of_arguments(args.to_dict(), "TrainingArguments")
    given = options.given("precision", "optimizer", "accumulation_steps", "grad_clip", "grad_scaler")
    made = {"optimizer": "adamw"} | given
    return TrainingJob(
        model=_copy_of(model, bool(args.gradient_checkpointing)), batch=batch, name=type(model).__name__,
        notes=options.notes, **made,
    )  # fmt: skip


def _copy_of(model: Any, checkpointing: bool) -> Callable[[], Any]:
    """Make copies of a model without its data, as the Trainer will train it."""

    def build() -> Any:
        from estimator.sources.edits import without_data

        copy = without_data(model)
        # What accelerate's prepare puts over `forward` casts as the precision does; the trace does that itself.
        vars(copy).pop("forward", None)
        vars(copy).pop("_original_forward", None)
        enable = getattr(copy, "gradient_checkpointing_enable", None)
        if checkpointing and callable(enable):
            enable()
        return copy.train()

    return build


def _plain_loader(loader: Any) -> Any:
    """A loader of the same data without accelerate's hands on it, whose iteration moves its RNGs."""
    from torch.utils.data import DataLoader

    return DataLoader(loader.dataset, batch_size=1, collate_fn=loader.collate_fn)
