"""Losses: what stands between the inputs and one number.

Some losses are made in the storage of their unreduced values: the scalar keeps that storage alive as long as it lives.
"""

from __future__ import annotations

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.arguments import argument, is_reduced
from estimator.scratch.reduction import contiguous, reduction
from estimator.scratch.registry import Scratch, rule

_NONE = 0
"""`Reduction::None`; 1 is the mean, 2 the sum."""


def _unreduced(*operands: TensorSpec) -> TensorSpec:
    """The elementwise loss of operands that are broadcast against each other, contiguous."""
    ndim = max(len(s.shape) for s in operands)
    shape = [1] * ndim
    for spec in operands:
        for d, size in enumerate(reversed(spec.shape)):
            shape[ndim - 1 - d] = max(shape[ndim - 1 - d], size)
    dtype = max(operands, key=lambda s: s.itemsize).dtype
    return contiguous(TensorSpec(dtype, tuple(shape), (0,) * ndim))


def _reduce(loss: TensorSpec, target: Target) -> list[Scratch]:
    """Mean or sum of all elements."""
    return reduction(
        loss, None, target, out_dtype=loss.dtype, accumulator_bytes=4 if is_reduced(loss.dtype) else loss.itemsize,
        accumulates_in_output=not is_reduced(loss.dtype),
    )  # fmt: skip


@rule("aten.mse_loss.default", "aten.smooth_l1_loss.default")
def pointwise_loss(op: Op, target: Target) -> list[Scratch]:
    """The unreduced loss, and a result whose storage has room for all of it.

    Source: aten/src/ATen/native/BinaryOps.cpp (meta of `mse_loss`), Loss.cpp, `mse_loss_out`; measured: the storage of
    the scalar that `torch.nn.functional.mse_loss` returns, torch 2.11 and 2.13.
    """
    if argument(op, 2, "reduction", 1) == _NONE:
        return []
    loss = _unreduced(op.args[0], op.args[1])
    return [Scratch(loss.nbytes, result=0), Scratch(loss.nbytes), *_reduce(loss, target)]


@rule("aten.binary_cross_entropy.default", "aten.soft_margin_loss.default")
def loss_in_result(op: Op, target: Target) -> list[Scratch]:
    """The unreduced loss in the result's storage, which keeps its size, and the number before it is copied there.

    Source: aten/src/ATen/native/cuda/Loss.cu, `binary_cross_entropy_out_cuda`; Loss.cpp, `soft_margin_loss_out`.
    """
    if argument(op, 3 if "cross_entropy" in op.name else 2, "reduction", 1) == _NONE:
        return []
    loss = _unreduced(op.args[0], op.args[1])
    return [Scratch(loss.nbytes, result=0), Scratch(loss.itemsize), *_reduce(loss, target)]


@rule("aten.huber_loss.default")
def huber_loss(op: Op, target: Target) -> list[Scratch]:
    """The unreduced loss.

    Source: aten/src/ATen/native/Loss.cpp, `huber_loss`.
    """
    if argument(op, 2, "reduction", 1) == _NONE:
        return []
    loss = _unreduced(op.args[0], op.args[1])
    return [Scratch(loss.nbytes, when="before"), *_reduce(loss, target)]


@rule("aten.binary_cross_entropy_with_logits.default")
def cross_entropy_with_logits(op: Op, target: Target) -> list[Scratch]:
    """The logarithm of the sigmoid, the weights of positive targets, the unreduced loss.

    Source: aten/src/ATen/native/Loss.cpp, `binary_cross_entropy_with_logits`.
    """
    loss = _unreduced(op.args[0], op.args[1])
    positive: TensorSpec | None = argument(op, 3, "pos_weight")
    found = [Scratch(loss.nbytes)]
    if positive is not None:
        found += [Scratch(positive.nbytes, freed_after=1), Scratch(loss.nbytes, freed_early=True)]
    if argument(op, 4, "reduction", 1) == _NONE:
        return [s._replace(when="before") for s in found]
    found.append(Scratch(loss.nbytes))
    return [*(s._replace(when="before") for s in found), *_reduce(loss, target)]


@rule("aten.soft_margin_loss_backward.default")
def soft_margin_loss_backward(op: Op, target: Target) -> list[Scratch]:
    """Three intermediate tensors.

    Source: aten/src/ATen/native/Loss.cpp, `soft_margin_loss_backward_out`.
    """
    nbytes = _unreduced(op.args[1], op.args[2]).nbytes
    return [
        Scratch(nbytes, when="before", freed_after=2),
        Scratch(nbytes, when="before", freed_after=1),
        Scratch(nbytes, when="before"),
    ]


@rule(
    "aten.nll_loss_forward.default", "aten.nll_loss_backward.default",
    "aten.nll_loss2d_forward.default", "aten.nll_loss2d_backward.default",
)  # fmt: skip
def nll_loss(op: Op, target: Target) -> list[Scratch]:
    """Contiguous copies of log-probabilities, targets and weights that are not.

    Source: aten/src/ATen/native/cuda/Loss.cu, NLLLoss2d.cu.
    """
    first = 1 if "backward" in op.name else 0
    self, labels = op.args[first], op.args[first + 1]
    weight = argument(op, first + 2, "weight")
    per_pixel = op.name == "aten.nll_loss2d_forward.default" and argument(op, 3, "reduction", 1) == _NONE
    operands = (labels, weight) if per_pixel else (self, labels, weight)
    found = [s for s in operands if isinstance(s, TensorSpec) and not s.is_contiguous]
    return [Scratch(s.nbytes) for s in found]


@rule("aten.multi_margin_loss.default", "aten.multilabel_margin_loss_forward.default")
def margin_loss(op: Op, target: Target) -> list[Scratch]:
    """One number a sample, then their sum.

    Source: aten/src/ATen/native/cuda/MultiMarginLoss.cu, MultiLabelMarginCriterion.cu.
    """
    self: TensorSpec = op.args[0]
    place = 5 if op.name.startswith("aten.multi_margin") else 2
    if argument(op, place, "reduction", 1) == _NONE or len(self.shape) < 2:
        return []
    samples = self.shape[0]
    loss = TensorSpec(self.dtype, (samples,), (1,))
    before = 1 if op.name.startswith("aten.multilabel") else None
    return [Scratch(samples * self.itemsize, results_before=before), *_reduce(loss, target)]


@rule("aten._ctc_loss_backward.Tensor", "aten._ctc_loss_backward.default")
def ctc_loss_backward(op: Op, target: Target) -> list[Scratch]:
    """Lengths and offsets on the device; then the backward variables, as many as the forward ones that were kept.

    Source: `ctc_loss_backward_gpu_template` in aten/src/ATen/native/cuda/LossCTC.cu, 2.13 (`log_beta`); order measured:
    simulated card, 2.11.
    """
    log_alpha: TensorSpec = op.args[6]
    tables = [Scratch(8 * log_alpha.shape[0], when="before")] * 3
    return [*tables, Scratch(log_alpha.nbytes, when="before")]
