"""A LightningModule as a job: its `training_step` and `configure_optimizers`, without a Trainer."""

from __future__ import annotations

import inspect
import re
import traceback
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.errors import SourceError
from estimator.job import TrainingJob
from estimator.sources.lightning_trainer import TrainerStandIn
from estimator.sources.options import JobOptions
from estimator.sources.words import called, user_error

if TYPE_CHECKING:
    from torch import nn

_OF_LIGHTNING = re.compile(r"/(lightning/pytorch|pytorch_lightning|estimator/sources)/")
"""Files that pass on what the user's code asks of the Trainer."""


def lightning_job(
    model: Any, data: Any, options: JobOptions, name: str = "lightning", folder: Path | None = None
) -> TrainingJob:
    """Make the job of a LightningModule.

    Args:
        model: an instance (it is copied without its data, never touched), or a class or function without arguments.
        data: a function of n, an example batch, a `DataLoader`, a `LightningDataModule`, or None for the module's own
            `train_dataloader`.
        options: followed by whoever calls this; only an optimizer named here replaces the module's own.
        name: of the job.
        folder: where the user's code lies, for errors.

    Raises:
        SourceError: there are no data or no optimizer, or the module needs its Trainer.
    """
    built: list[weakref.ref[nn.Module]] = []

    import torch

    with torch.device("meta"):
        probe = model if _is_module(model) else called(model, f"making {name}", folder)
    batch = _data(probe, data, name, folder)
    plain = callable(batch) or isinstance(batch, (torch.Tensor, list, tuple, dict))
    loader = None if plain else batch
    datamodule = data if hasattr(data, "train_dataloader") else None

    def build() -> nn.Module:
        module = _built(model)
        _attach(module, loader, datamodule, given=getattr(model, "_trainer", None))
        built[:] = [weakref.ref(module)]
        return module

    if not getattr(probe, "automatic_optimization", True):
        step = _manual_step(options.precision or "fp32", name, folder)
        return TrainingJob(model=build, batch=batch, step=step, name=name)

    def optimizer(parameters: Any) -> Any:
        module = built[-1]()
        assert module is not None
        found, _ = _optimizers(module, name, folder)
        if len(found) != 1:
            raise SourceError(
                f"configure_optimizers gives {len(found)} optimizers",
                got=", ".join(type(o).__name__ for o in found) or None,
                where=name,
                allowed="one, where automatic_optimization is on",
                hint="set automatic_optimization = False and step them in training_step, or name one optimizer",
            )
        return found[0]

    def loss(module: nn.Module, batch: Any) -> Any:
        _attach(module)
        output = _training_step(module, batch, name, folder)
        found = output.get("loss") if isinstance(output, dict) else output
        if found is None:
            raise SourceError(
                "training_step returns no loss",
                got=type(output).__name__,
                where=name,
                allowed='a tensor, or a dict with "loss"',
            )
        return found

    return TrainingJob(model=build, batch=batch, loss=loss, optimizer=options.optimizer or optimizer, name=name)


def _is_module(model: Any) -> bool:
    from torch import nn

    return isinstance(model, nn.Module)


def _built(model: Any) -> nn.Module:
    from estimator.sources.edits import without_data

    module: nn.Module = without_data(model) if _is_module(model) else model()
    configure = getattr(module, "configure_model", None)
    if callable(configure):
        configure()
    return module


def _attach(module: Any, loader: Any = None, datamodule: Any = None, given: Any = None) -> TrainerStandIn:
    """Give the module a stand-in for its Trainer, once, and make logging do nothing; a copy leaves its Trainer behind."""
    trainer = getattr(module, "_trainer", None)
    if not isinstance(trainer, TrainerStandIn):
        trainer = TrainerStandIn(module, trainer or given, loader, datamodule)
        module.trainer = trainer
        for child in module.modules():
            if hasattr(child, "log_dict"):
                for method in ("log", "log_dict"):
                    object.__setattr__(child, method, _nothing)
    return trainer


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _optimizers(module: Any, name: str, folder: Path | None) -> tuple[list[Any], list[Any]]:
    """Optimizers and schedulers among the many forms that `configure_optimizers` may return.

    Source: `LightningModule.configure_optimizers`, lightning 2.6.
    """
    trainer = _attach(module)
    given = _asked(trainer, module.configure_optimizers, "configure_optimizers", name, folder)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], (list, tuple)):
        found, schedulers = list(given[0]), list(given[1])
    else:
        found, schedulers = list(given) if isinstance(given, (list, tuple)) else [given], []
    schedulers += [o["lr_scheduler"] for o in found if isinstance(o, dict) and o.get("lr_scheduler") is not None]
    found = [o["optimizer"] if isinstance(o, dict) else o for o in found if o is not None]
    schedulers = [s["scheduler"] if isinstance(s, dict) else s for s in schedulers]
    trainer.optimize_with(found, schedulers)
    return found, schedulers


def _training_step(module: Any, batch: Any, name: str, folder: Path | None) -> Any:
    trainer = _attach(module)
    step: Callable[..., Any] = module.training_step
    wanted = inspect.signature(step).parameters
    if "dataloader_iter" in wanted:
        raise SourceError(
            "training_step takes its batches from an iterator itself",
            got="training_step(dataloader_iter)",
            where=name,
            hint="give a TrainingJob with step=lambda model, optimizer, batch: ...",
        )
    rest = {k: v for k, v in {"batch_idx": 0, "dataloader_idx": 0}.items() if k in wanted}
    if not rest and sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in wanted.values()) > 1:
        return _asked(trainer, lambda: step(batch, 0), "training_step", name, folder)
    return _asked(trainer, lambda: step(batch, **rest), "training_step", name, folder)


def _asked(trainer: TrainerStandIn, call: Callable[[], Any], what: str, name: str, folder: Path | None) -> Any:
    """Run a part of the module; that it asks its Trainer for what only a real one has is said in so many words."""
    try:
        return call()
    except AttributeError as error:
        if error.obj is not trainer and error.obj is not trainer.strategy:
            raise
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if not _OF_LIGHTNING.search(f.filename.replace("\\", "/"))]
        frame = (theirs or frames)[-1]
        asked = f"self.trainer.{'' if error.obj is trainer else 'strategy.'}{error.name}"
        raise SourceError(
            f"{what} needs its Trainer: {asked}", where=f"{frame.filename}:{frame.lineno}", got=name,
            hint="give the module a Trainer of its own before you return it (module.trainer = Trainer(...)), or the value "
            "itself as an argument, or a TrainingJob with loss= or step= that does not ask for it",
        ) from error  # fmt: skip


def _manual_step(precision: str, name: str, folder: Path | None) -> Callable[[nn.Module, Any, Any], Any]:
    """The loop body of manual optimization: `training_step` under the precision's autocast, as Lightning runs it."""
    import torch

    low = {"amp-bf16": torch.bfloat16, "amp-fp16": torch.float16}.get(precision)

    def step(module: nn.Module, _: Any, batch: Any) -> Any:
        trainer = _attach(module)
        if not trainer.optimizers:
            _optimizers(module, name, folder)
        with ExitStack() as stack:
            # Which of the two the job runs on is not known here; the other one has no effect.
            for device_type in ("cuda", "cpu") if low is not None else ():
                stack.enter_context(torch.autocast(device_type, low))
            return _training_step(module, batch, name, folder)

    return step


def _data(module: Any, data: Any, name: str, folder: Path | None) -> Any:
    """The batch of the job: what was given, or what the module's own loader gives."""
    if data is None and not _overrides(module, "train_dataloader"):
        raise SourceError(
            "the LightningModule says nothing of its data",
            got=type(module).__name__,
            where=name,
            allowed="a train_dataloader of its own, or a function that returns (module, data)",
            hint="def job(): return LitModel(), datamodule_or_dataloader_or_function_of_n",
        )
    owner = module if data is None else data
    if not hasattr(owner, "train_dataloader"):
        return data
    try:
        if _overrides(owner, "setup"):
            owner.setup("fit")
        loader = owner.train_dataloader()
    except Exception as error:
        raise user_error(error, f"train_dataloader of {type(owner).__name__} (after setup('fit'))", folder) from error
    if isinstance(loader, (list, tuple, dict)):
        raise SourceError(
            "train_dataloader gives several loaders",
            got=type(loader).__name__,
            where=name,
            allowed="one DataLoader",
            hint="return (module, batch) with batch=lambda n: ... that makes what training_step gets",
        )
    return loader


def _overrides(owner: Any, method: str) -> bool:
    """Whether a class of the user's, not Lightning's own base, defines the method."""
    home = next((c for c in type(owner).__mro__ if method in vars(c)), object)
    return home.__module__.partition(".")[0] not in ("lightning", "pytorch_lightning", "builtins")
