"""Losses: the unreduced loss is a temporary, and in some the storage of the result.

Source: ATen/native/Loss.cpp, `mse_loss_out`, `smooth_l1_loss_out`, `huber_loss`, `binary_cross_entropy_out_cpu`,
`binary_cross_entropy_with_logits`, `soft_margin_loss`, `apply_loss_reduction`; LossNLL2d.cpp, torch 2.13; order
measured with the profiler.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.copies import contiguous
from estimator.scratch.cpu.dtypes import itemsize, result_dtype
from estimator.scratch.cpu.elementwise import iterate
from estimator.scratch.cpu.reduction import mean, reduce
from estimator.scratch.registry import Scratch, rule

_NONE, _MEAN = 0, 1
"""Values of `reduction`. Source: ATen/core/Reduction.h."""


def _unreduced(op: Op) -> TensorSpec:
    """The loss of each element, as the input and the target broadcast."""
    x, y = op.args[:2]
    shape = x.shape if x.numel >= y.numel else y.shape
    return TensorSpec(result_dtype((x, y)), shape, _strides(shape))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _reduced(call: Call, loss: TensorSpec, reduction: int, target: Target) -> None:
    """What is taken to reduce the loss to its mean or sum, the result aside."""
    (mean if reduction == _MEAN else reduce)(call, loss, 1, loss.dtype, target)


@rule("aten.mse_loss.default", "aten.smooth_l1_loss.default", kind="cpu")
def _into_result(op: Op, target: Target) -> list[Scratch]:
    """The result is allocated for the unreduced loss and made smaller, not its storage."""
    reduction = argument(op, 2, "reduction", _MEAN)
    if reduction == _NONE:
        return []
    loss, call = _unreduced(op), Call()
    call.result()
    call.take(loss.nbytes)
    _reduced(call, loss, reduction, target)
    return [Scratch(loss.nbytes, result=0), *call.scratch()]


@rule("aten.soft_margin_loss.default", "aten.binary_cross_entropy.default", kind="cpu")
def _reduced_in_place(op: Op, target: Target) -> list[Scratch]:
    """The unreduced loss is the result's storage; what it is reduced to is copied there."""
    place = 3 if "binary" in op.name else 2
    reduction = argument(op, place, "reduction", _MEAN)
    if reduction == _NONE:
        return []
    loss, call = _unreduced(op), Call()
    call.result()
    call.take(loss.itemsize)
    _reduced(call, loss, reduction, target)
    return [Scratch(loss.nbytes, result=0), *call.scratch()]


@rule("aten.huber_loss.default", kind="cpu")
def _huber(op: Op, target: Target) -> list[Scratch]:
    reduction = argument(op, 2, "reduction", _MEAN)
    if reduction == _NONE:
        return []
    loss, call = _unreduced(op), Call()
    call.take(loss.nbytes)
    call.result()
    _reduced(call, loss, reduction, target)
    return call.scratch()


@rule("aten.binary_cross_entropy_backward.default", kind="cpu")
def _binary_cross_entropy_backward(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    call.result()
    if argument(op, 4, "reduction", _MEAN) == _MEAN:
        iterate(call, (op.outputs[0], 1), in_place=True)
    return call.scratch()


@rule("aten.soft_margin_loss_backward.default", kind="cpu")
def _soft_margin_backward(op: Op, target: Target) -> list[Scratch]:
    """Three temporaries, two of them left when the result comes, then two numbers."""
    out, call = op.outputs[0], Call()
    held = [call.take(out.nbytes) for _ in range(3)]
    call.free(*held[1:])
    call.result()
    for _ in range(2):
        iterate(call, (out, 1.0), in_place=True)
    return call.scratch()


@rule("aten.binary_cross_entropy_with_logits.default", kind="cpu")
def _with_logits(op: Op, target: Target) -> list[Scratch]:
    """The sigmoid's logarithm with a buffer, the positive weight's factor, the loss."""
    x = op.args[0]
    weight, reduction = argument(op, 3, "pos_weight"), argument(op, 4, "reduction", _MEAN)
    loss, call = _unreduced(op), Call()
    call.take(x.nbytes)
    call.free(call.take(x.nbytes))
    if weight is not None:
        number = [call.take(8), call.take(0 if weight.dtype == "float64" else weight.itemsize)]
        less = call.take(weight.nbytes)
        call.free(*number)
        factor = call.take(loss.numel * itemsize(result_dtype((weight, op.args[1]))))
        iterate(call, (loss, 1), in_place=True)
        call.free(factor, less)
    if reduction == _NONE:
        call.result()
        return call.scratch()
    call.take(loss.nbytes)
    call.result()
    _reduced(call, loss, reduction, target)
    return call.scratch()


@rule("aten.nll_loss2d_forward.default", "aten.nll_loss2d_backward.default", kind="cpu")
def _nll_loss_2d(op: Op, target: Target) -> list[Scratch]:
    """Without a reduction it reads the input where it lies; else in order."""
    backward = "backward" in op.name
    call = Call()
    call.result(len(op.outputs))
    if not backward and argument(op, 3, "reduction", _MEAN) != _NONE:
        contiguous(call, op.args[0])
    return call.scratch()
