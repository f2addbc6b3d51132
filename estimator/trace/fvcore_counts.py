"""The same counts by fvcore, where fvcore can run: parameters, activations, multiply-adds."""

from __future__ import annotations

import logging
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from estimator.job import TrainingJob
from estimator.trace.batches import batch_maker
from estimator.trace.build import default_dtype
from estimator.trace.loss import default_loss
from estimator.trace.trees import map_tensors

_MATRIX_OPERATORS = frozenset({"conv", "linear", "addmm", "mm", "bmm", "baddbmm", "matmul", "einsum"})
"""fvcore's names of the operators whose multiply-adds `estimator.counts.step_flops` counts too, attention apart."""


class FvcoreCounts(NamedTuple):
    """What fvcore says of one forward pass of `batch_size` samples; None with `problem` where it could not run."""

    batch_size: int
    parameter_count: int
    activation_count: int | None = None
    multiply_add_count: int | None = None
    skipped_ops: tuple[str, ...] = ()
    problem: str = ""


class _Captured(Exception):
    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = args, kwargs


class _Flat(nn.Module):
    """A model that takes and gives flat tuples of tensors, which is all that fvcore's tracer passes on."""

    def __init__(self, model: nn.Module, call: tuple[Any, ...]) -> None:
        super().__init__()
        self.model = model
        leaves, self._tree = tree_flatten(call)
        self._leaves = leaves
        self.inputs = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        args, kwargs = tree_unflatten(
            [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves], self._tree
        )
        out = self.model(*args, **kwargs)
        values = out.to_tuple() if hasattr(out, "to_tuple") else out
        return tuple(t for t in tree_leaves(values) if isinstance(t, Tensor))


def fvcore_counts(job: TrainingJob, batch_size: int) -> FvcoreCounts:
    """Count with fvcore on meta tensors. Meant for a process of its own: it traces the live model as it is."""
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count

    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.device("meta"), default_dtype(job.precision):
            model = job.model if isinstance(job.model, nn.Module) else job.model()
        model = model.to("meta").train(job.mode == "train")
        parameters = int(parameter_count(model)[""])
        try:
            flat = _Flat(model, _call_of(job, model, batch_size))
            activations = ActivationCountAnalysis(flat, flat.inputs).unsupported_ops_warnings(False)
            flops = FlopCountAnalysis(flat, flat.inputs).unsupported_ops_warnings(False)
            products = sum(count for name, count in flops.by_operator().items() if name in _MATRIX_OPERATORS)
            counted = int(activations.total()), int(products)
            return FvcoreCounts(batch_size, parameters, *counted, tuple(sorted(flops.unsupported_ops())))
        except Exception as error:  # fvcore traces with torch.jit, which takes few models on meta tensors
            return FvcoreCounts(
                batch_size,
                parameters,
                problem=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            )


def _call_of(job: TrainingJob, model: nn.Module, batch_size: int) -> tuple[Any, ...]:
    """How the job calls its model: the arguments of the first call of its root."""

    def capture(module: nn.Module, args: Any, kwargs: Any) -> None:
        raise _Captured(args, kwargs)

    batch = map_tensors(lambda t: t.to("meta"), batch_maker(job.batch, job.batch_dim)(batch_size))
    handle = model.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        (job.loss or default_loss(job.mode))(model, batch)
    except _Captured as captured:
        return captured.call
    finally:
        handle.remove()
    raise RuntimeError("the loss does not call the model itself")
