"""A callback of Lightning: the batch size that is predicted to fit, before training begins.

```python
from estimator.integrations.lightning import BatchSizeCallback

trainer = Trainer(callbacks=[BatchSizeCallback()])        # sets datamodule.batch_size, or the module's
trainer.fit(module, datamodule=data)
```

The module is copied without its data: neither it nor its optimizer, the RNG or the Trainer is touched. Only the
attribute that holds the batch size is set, and with `apply=False` nothing is.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from estimator.errors import UsageError
from estimator.integrations.predicted import predicted, told, warn_of_others

if TYPE_CHECKING:
    from estimator.device import DeviceProfile
    from estimator.job import TrainingJob
    from estimator.result import Estimate

try:  # two names of one library; which one a trainer is of decides nothing else here
    from lightning.pytorch import Callback
except ImportError:
    from pytorch_lightning import Callback  # type: ignore[assignment]

PRECISIONS = {
    "32": "fp32", "32-true": "fp32", "16-mixed": "amp-fp16", "bf16-mixed": "amp-bf16", "16-true": "fp16",
    "bf16-true": "bf16",
}  # fmt: skip
"""Lightning's names of precisions and ours. Source: lightning/pytorch/trainer/connectors/accelerator_connector.py, 2.6."""


class BatchSizeCallback(Callback):  # type: ignore[misc]
    """Predict a LightningModule's memory; set the largest batch that fits.

    Args:
        batch: what a `TrainingJob` takes as its batch; None for the data that are trained on.
        device: of the run; None for this machine, where what this process holds counts as free.
        attribute: that holds the batch size, of the datamodule or of the module (or of its `hparams`).
        apply: set it; otherwise warn when it does not fit.
        most: set no more than this.
    """

    def __init__(
        self,
        batch: Any = None,
        device: DeviceProfile | str | None = None,
        attribute: str = "batch_size",
        apply: bool = True,
        most: int | None = None,
    ) -> None:
        self.batch, self.device, self.attribute, self.apply, self.most = batch, device, attribute, apply, most
        self.estimate: Estimate | None = None
        """The prediction, once it is made."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Predict, before the loaders are made.

        Raises:
            UsageError: nobody has the attribute that is to be set, or the loader is made already.
        """
        if stage != "fit" or self.estimate is not None:
            return
        owner = self._owner(trainer, pl_module)
        warn_of_others(trainer.world_size)
        self.estimate = predicted(self._job(trainer, pl_module), self.device)
        answer = self.estimate
        if answer.max_batch_size == 0:
            warnings.warn(f"not even a batch of 1 is predicted to fit: {answer.limited_by}", RuntimeWarning, stacklevel=2)
        elif self.apply:
            size = answer.max_batch_size if self.most is None else min(self.most, answer.max_batch_size)
            _set(owner, self.attribute, size)
        else:
            size = getattr(_given_loader(trainer), "batch_size", None) or _get(owner, self.attribute)
            if isinstance(size, int) and not answer.at(size).fits:
                warnings.warn(told(answer, size), RuntimeWarning, stacklevel=2)

    def _owner(self, trainer: Any, module: Any) -> Any:
        if self.apply and _given_loader(trainer) is not None:
            raise UsageError(
                "the loader is made already, so its batch size cannot be set", where="BatchSizeCallback",
                got="trainer.fit(module, loader)",
                allowed=f"a datamodule, or a module, whose train_dataloader reads {self.attribute}",
                hint="or give apply=False to be told whether the loader's batch fits",
            )  # fmt: skip
        data = getattr(trainer, "datamodule", None)
        owner = next((o for o in (data, module) if o is not None and _get(o, self.attribute) is not None), None)
        if owner is None and self.apply:
            raise UsageError(
                f"neither the datamodule nor the module has {self.attribute}", where="BatchSizeCallback",
                allowed=f"an attribute or hyperparameter {self.attribute} that its train_dataloader reads",
                hint="name it with attribute=, or give apply=False",
            )  # fmt: skip
        return owner

    def _job(self, trainer: Any, module: Any) -> TrainingJob:
        from estimator.sources.lightning import lightning_job
        from estimator.sources.options import JobOptions

        data = self.batch if self.batch is not None else _loader_of(trainer)
        precision = PRECISIONS.get(str(trainer.precision))
        if precision is None:
            raise UsageError(
                "this precision of Lightning is not modelled", got=str(trainer.precision), allowed=", ".join(PRECISIONS)
            )
        options = JobOptions(precision=precision)
        job = lightning_job(_detached(module), data, options, type(module).__name__)
        clip = trainer.gradient_clip_val
        return job.with_(
            precision=precision,
            grad_scaler=precision == "amp-fp16",
            accumulation_steps=trainer.accumulate_grad_batches,
            grad_clip=clip or None,
        )


def _loader_of(trainer: Any) -> Any:
    """The loader that training will use, where it is not the module's own to make; the datamodule is set up by now."""
    data = getattr(trainer, "datamodule", None)
    if data is not None:
        return data.train_dataloader()
    return _given_loader(trainer)


def _given_loader(trainer: Any) -> Any:
    """The loader that was handed to `trainer.fit`; None where a datamodule or the module makes it.

    Source: lightning/pytorch/trainer/connectors/data_connector.py, _DataLoaderSource, 2.6.
    """
    given = getattr(getattr(getattr(trainer, "fit_loop", None), "_data_source", None), "instance", None)
    return given if hasattr(given, "__iter__") else None


def _detached(module: Any) -> Any:
    """The module's copy without data and without its Trainer, which must not be copied with it."""
    from estimator.sources.edits import without_data

    trainer, module._trainer = module._trainer, None
    try:
        return without_data(module)
    finally:
        module._trainer = trainer


def _get(owner: Any, name: str) -> Any:
    found = getattr(owner, name, None)
    return found if found is not None else getattr(getattr(owner, "hparams", None), name, None)


def _set(owner: Any, name: str, value: int) -> None:
    """Set it where it is: as an attribute, among the hyperparameters, or both, as Lightning's own finder does.

    Source: lightning_setattr, lightning/pytorch/utilities/parsing.py, 2.6.
    """
    if getattr(owner, name, None) is not None:
        setattr(owner, name, value)
    hparams = getattr(owner, "hparams", None)
    if hparams is not None and name in hparams:
        hparams[name] = value
