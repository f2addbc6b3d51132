"""What stands in for a Lightning Trainer: a module's optimizers, its data, and numbers that no byte depends on."""

from __future__ import annotations

import importlib
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

STEPS = 1000
"""Optimizer steps that a schedule is told the training has; memory does not depend on it."""
_PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}


class PrecisionStandIn:
    """Clips gradients as the Trainer's precision plugin does.

    Source: lightning/pytorch/plugins/precision/precision.py, `Precision.clip_gradients`, lightning 2.6.
    """

    def clip_gradients(self, optimizer: Any, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm") -> None:
        """Clip the gradients of one optimizer by their norm or their values; nothing at a value of 0."""
        from torch.nn.utils import clip_grad_norm_, clip_grad_value_

        if clip_val <= 0:
            return
        clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
        clip([p for group in optimizer.param_groups for p in group["params"]], clip_val)


class StrategyStandIn:
    """What `LightningModule` and its wrapped optimizers ask of the strategy, on one device."""

    world_size, is_distributed = 1, False

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)  # which refers to its Trainer
        self.precision_plugin = PrecisionStandIn()
        self._lightning_optimizers: list[Any] = []

    @property
    def lightning_module(self) -> Any:
        """The module that is trained."""
        return self._module()

    model = lightning_module

    @property
    def root_device(self) -> Any:
        """Where the module's parameters are."""
        return self.lightning_module.device

    def backward(self, loss: Any, _: Any, *args: Any, **kwargs: Any) -> None:
        loss.backward(*args, **kwargs)

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        return optimizer.step(closure=closure, **kwargs)

    def barrier(self, *_: Any, **__: Any) -> None:
        pass

    def broadcast(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    def all_gather(self, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
        return tensor

    reduce = reduce_boolean_decision = broadcast


class TrainerStandIn:
    """What a module may ask of its Trainer without there being one; asked for more, it asks the Trainer it was given.

    Args:
        module: whose Trainer it is.
        given: a real Trainer that the module brought along, if any.
        loader: what gives the batches, where the job has one.
        datamodule: the job's LightningDataModule, if any.
    """

    def __init__(self, module: nn.Module, given: Any = None, loader: Any = None, datamodule: Any = None) -> None:
        self._given = given
        self.optimizers: list[Any] = []
        self.lr_scheduler_configs: list[Any] = []
        self.strategy = StrategyStandIn(module)
        self.precision_plugin, self.precision = self.strategy.precision_plugin, "32-true"
        self.estimated_stepping_batches = self.num_training_batches = self.max_steps = STEPS
        self.max_epochs = self.world_size = self.num_devices = self.num_nodes = self.accumulate_grad_batches = 1
        self.global_step = self.current_epoch = self.global_rank = self.local_rank = self.node_rank = 0
        self.is_global_zero = self.training = True
        self.validating = self.testing = self.predicting = self.sanity_checking = self.is_last_batch = False
        self.fast_dev_run = self.should_stop = self.evaluating = False
        self.gradient_clip_val = self.gradient_clip_algorithm = self.progress_bar_callback = None
        self.checkpoint_callback = self.early_stopping_callback = self.ckpt_path = self.log_dir = self.max_time = None
        self.min_epochs = self.min_steps = None
        self.log_every_n_steps, self.check_val_every_n_epoch, self.val_check_interval = 50, 1, 1.0
        self.limit_train_batches = self.limit_val_batches = 1.0
        self.device_ids = [0]
        self.logger = _silent_logger(module)
        self.loggers: list[Any] = [] if self.logger is None else [self.logger]
        self.callbacks: list[Any] = []
        self.callback_metrics: dict[str, Any] = {}
        self.logged_metrics: dict[str, Any] = {}
        self.progress_bar_metrics: dict[str, Any] = {}
        if loader is not None:
            self.train_dataloader = loader
        if datamodule is not None:
            self.datamodule = datamodule

    @property
    def lightning_module(self) -> Any:
        """The module that is trained."""
        return self.strategy.lightning_module

    model = lightning_module

    def __getattr__(self, name: str) -> Any:
        given = self.__dict__.get("_given")
        if given is None or name.startswith("__"):
            raise AttributeError(f"no Trainer to ask for {name}", name=name, obj=self)
        return getattr(given, name)

    def optimize_with(self, optimizers: list[Any], schedulers: list[Any]) -> None:
        """Take the module's optimizers, wrapped as Lightning wraps them, and its schedulers."""
        self.optimizers[:] = optimizers
        self.lr_scheduler_configs[:] = [SimpleNamespace(scheduler=s, interval="step", frequency=1) for s in schedulers]
        self.strategy._lightning_optimizers[:] = [_wrapped(o, self.strategy) for o in optimizers]


def home_of(module: Any) -> str | None:
    """The package of Lightning that a module is of; None where it is of neither."""
    roots = [kind.__module__.partition(".")[0] for kind in type(module).__mro__]
    return next((_PACKAGES[root] for root in roots if root in _PACKAGES), None)


def _of_lightning(module: Any, place: str, name: str) -> Any:
    """A class of Lightning's own; None where this release of it has none by that name."""
    home = home_of(module)
    if home is None:
        return None
    try:
        return getattr(importlib.import_module(f"{home}.{place}"), name, None)
    except ImportError:
        return None


def _silent_logger(module: Any) -> Any:
    """Lightning's logger that takes everything and writes nothing."""
    kind = _of_lightning(module, "loggers.logger", "DummyLogger")
    return None if kind is None else kind()


def _wrapped(optimizer: Any, strategy: StrategyStandIn) -> Any:
    kind = _of_lightning(strategy.lightning_module, "core.optimizer", "LightningOptimizer")
    return optimizer if kind is None else kind._to_lightning_optimizer(optimizer, strategy)
