"""Counts read off a traced step: operations of the matrix kind, and what fvcore would count of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from estimator.graph import Op, StepGraph, TensorSpec

_ACTIVATION_OPS = (
    "aten.convolution.",
    "aten._convolution.",
    "aten.addmm.",
    "aten.mm.",
    "aten.bmm.",
    "aten.baddbmm.",
    "aten.linear.",
)
"""Ops whose results fvcore's ActivationCountAnalysis counts. Source: fvcore/nn/activation_count.py, 0.1.5."""

_FORMULA_TAKES_TENSORS = ("aten._flash_attention_", "aten._efficient_attention_", "torch_attn._varlen_attn")
"""Ops of packed sequences: each is counted as long as the longest. Source: torch/utils/flop_counter.py, `get_raw`, 2.13."""


def matrix_flops(graph: StepGraph, step: int = 0) -> int:
    """Operations of convolutions and matrix products in one forward pass, those inside fused attention left out."""
    forward = (x for x in _flops(graph, step) if x[0].phase.startswith(f"step{step}.forward"))
    return sum(flops for op, flops in forward if "attention" not in op.name)


def step_flops(graph: StepGraph, step: int = 1) -> dict[str, int]:
    """Floating-point operations (2 a multiply-add) of one traced step, by phase (`forward`, `backward`, ...).

    Convolutions, matrix products and attention are counted, by the formulas of `torch.utils.flop_counter`.
    """
    out: dict[str, int] = {}
    for op, flops in _flops(graph, step):
        kind = op.phase.split(".")[-1].rstrip("0123456789")
        out[kind] = out.get(kind, 0) + flops
    return out


def activation_count(graph: StepGraph, step: int = 0) -> int:
    """Elements that convolutions and matrix products give in one forward pass, as fvcore counts activations."""
    prefix = f"step{step}.forward"
    return sum(
        op.outputs[0].numel for op in graph.ops if op.phase.startswith(prefix) and op.name.startswith(_ACTIVATION_OPS)
    )


def _flops(graph: StepGraph, step: int) -> Iterator[tuple[Op, int]]:
    from torch.utils.flop_counter import flop_registry

    formulas = {str(packet): formula for packet, formula in flop_registry.items()}
    prefix = f"step{step}."
    for op in graph.ops:
        formula = formulas.get(op.name.rpartition(".")[0]) if op.phase.startswith(prefix) else None
        if formula is not None:
            packed = op.name.startswith(_FORMULA_TAKES_TENSORS)
            given = _tensors if packed else _shapes
            args = given(op.args)
            shapes = _result_shapes(op)
            kwargs = {name: given(value) for name, value in op.kwargs.items()}
            flops = int(formula(*args, **kwargs, out_val=shapes[0] if len(shapes) == 1 else shapes))
            yield op, flops * (_sequence_count(op) if packed else 1)


def _result_shapes(op: Op) -> list[tuple[int, ...] | None]:
    """Shapes of the results in their places: a convolution's backward leaves out what its mask leaves out."""
    given = iter(op.outputs)
    if op.name.startswith("aten.convolution_backward."):
        return [next(given).shape if wanted else None for wanted in op.args[-1]]
    return [spec.shape for spec in given]


def _shapes(value: Any) -> Any:
    """An argument with each tensor's shape in its place, as the formulas take them."""
    if isinstance(value, TensorSpec):
        return value.shape
    return tuple(_shapes(v) for v in value) if isinstance(value, tuple) else value


def _tensors(value: Any) -> Any:
    """An argument with a tensor in the place of each, for formulas that ask for more than shapes; of one sequence, as all
    are counted alike and there may be thousands."""
    import torch

    if isinstance(value, TensorSpec):
        return torch.empty((2,) if _is_starts(value) else value.shape, device="meta")
    return tuple(_tensors(v) for v in value) if isinstance(value, tuple) else value


def _is_starts(value: Any) -> bool:
    """Whether it says where sequences begin: one number for each and one more."""
    return isinstance(value, TensorSpec) and value.dtype == "int32" and len(value.shape) == 1


def _sequence_count(op: Op) -> int:
    return next((value.shape[0] - 1 for value in op.args if _is_starts(value)), 1)
