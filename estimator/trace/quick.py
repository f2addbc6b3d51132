"""What frequent ops give, without the decompositions that torch's fake tensors run to find it out.

A fake `addmm` costs some 14 ms, as torch decomposes it into ops that are decomposed in turn; that the result is m x n is
known at once. Each rule speaks of the plain case alone (fake tensors of one device, laid out in order) and is silent of
any other. `tests/trace/test_quick.py` holds every rule to torch's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

aten = torch.ops.aten


class Made(NamedTuple):
    """A tensor that an op gives."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


BY_META = frozenset(
    [
        aten.view.default, aten._unsafe_view.default, aten.t.default, aten.transpose.int, aten.permute.default,
        aten.detach.default, aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default,
        aten.select.int, aten.slice.Tensor, aten.mm.default, aten.bmm.default,
    ]
)  # fmt: skip
"""Ops that are run on meta tensors as they are: views, whose kernel for every device is one and the same, and products.

Source: aten/src/ATen/native/TensorShape.cpp (views are CompositeExplicitAutograd), torch/_meta_registrations.py
(`meta_mm`, `meta_bmm`), 2.11 and 2.13.
"""


def in_order(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _new(like: torch.Tensor, dtype: torch.dtype | None = None) -> tuple[Made, ...]:
    return (Made(tuple(like.shape), in_order(like.shape), like.dtype if dtype is None else dtype),)


def _ordered(*tensors: torch.Tensor) -> bool:
    return all(t.stride() == in_order(t.shape) for t in tensors)


def _two_alike(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Element by element from two tensors. Source: aten/src/ATen/TensorIterator.cpp, `allocate_or_resize_outputs`."""
    one, other = args[0], args[1]
    alike = one.shape == other.shape and one.dtype == other.dtype and _ordered(one, other)
    return _new(one) if alike and "grad_input" not in kwargs else None


def _one_alike(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Element by element from one tensor of floats. Source: as above."""
    return _new(args[0]) if args[0].is_floating_point() and _ordered(args[0]) and not set(kwargs) - {"approximate"} else None


def _two_floats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Element by element from two tensors of the same floats. Source: as above."""
    one, other = args
    alike = other.__class__ is one.__class__ and one.is_floating_point() and not set(kwargs) - {"alpha"}
    return _two_alike(args, {}) if alike else None


def _like(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """A new tensor of the same size, where the other is. Source: aten/src/ATen/native/TensorFactories.cpp, `empty_like`."""
    x = args[0]
    usual = {"dtype": x.dtype, "layout": x.layout, "device": x.fake_device, "pin_memory": False,
             "memory_format": torch.preserve_format}  # fmt: skip
    as_usual = all(value is None or value == usual.get(name, value) for name, value in kwargs.items() if name != "dtype")
    if set(kwargs) - set(usual) or not as_usual or not _ordered(x):
        return None
    return _new(x, kwargs.get("dtype"))


def _addmm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Source: aten/src/ATen/native/LinearAlgebra.cpp, `ADDMM_META`: m x n, in order."""
    bias, one, other = args[:3]
    fits = (
        one.dim() == other.dim() == 2
        and one.shape[1] == other.shape[0]
        and one.dtype == other.dtype == bias.dtype
        and (bias.shape == other.shape[1:] or bias.shape == (one.shape[0], other.shape[1]))
    )
    if not fits or 0 in one.shape or 0 in other.shape:
        return None
    shape = (one.shape[0], other.shape[1])
    return (Made(shape, in_order(shape), one.dtype),)


def _log_softmax(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Source: aten/src/ATen/native/SoftMax.cpp, `TORCH_META_FUNC(_log_softmax)`."""
    x, dim, to_float = args
    if not x.dim() or not _ordered(x) or not -x.dim() <= dim < x.dim() or (to_float and x.dtype != torch.half):
        return None
    return _new(x, torch.float if to_float else None)


def _log_softmax_backward(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Source: aten/src/ATen/native/SoftMax.cpp, `TORCH_META_FUNC(_log_softmax_backward_data)`."""
    grad, output, dim, dtype = args
    alike = grad.shape == output.shape and grad.dtype == output.dtype and _ordered(grad, output)
    return _new(grad, dtype) if alike and -grad.dim() <= dim < grad.dim() else None


_NONE, _MEAN, _SUM = 0, 1, 2  # Source: aten/src/ATen/core/Reduction.h, at::Reduction


def _nll_loss(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Source: aten/src/ATen/native/LossNLL.cpp, `TORCH_META_FUNC(nll_loss_forward)`."""
    x, target, weight, reduction, _ = args
    if not _are_classes(x, target, weight) or reduction not in (_NONE, _MEAN, _SUM):
        return None
    shape = (x.shape[0],) if reduction == _NONE else ()
    return (Made(shape, in_order(shape), x.dtype), Made((), (), x.dtype))


def _nll_loss_backward(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """Source: aten/src/ATen/native/LossNLL.cpp, `TORCH_META_FUNC(nll_loss_backward)`: like the input."""
    grad, x, target, weight, reduction, _, total = args
    given = (x.shape[0],) if reduction == _NONE else ()
    if not _are_classes(x, target, weight) or grad.shape != given or total.shape != () or grad.dtype != x.dtype:
        return None
    return _new(x)


def _are_classes(x: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> bool:
    return weight is None and x.dim() == 2 and target.shape == x.shape[:1] and 0 not in x.shape and _ordered(x, target)


def _to_copy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Made, ...] | None:
    """To another type, where it is. Source: aten/src/ATen/native/TensorConversions.cpp, `_to_copy`."""
    x, dtype = args[0], kwargs.get("dtype")
    stays = kwargs.get("device", x.fake_device) == x.fake_device and kwargs.get("layout", x.layout) == x.layout
    if dtype is None or not stays or set(kwargs) - {"dtype", "device", "layout"} or not (_ordered(x) or _is_dense(x)):
        return None
    return (Made(tuple(x.shape), x.stride(), dtype),)


def _is_dense(t: torch.Tensor) -> bool:
    """Whether each element of its memory is one of the tensor's, in whatever order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(t.stride(), t.shape, strict=True)):
        if size < 2 or stride != expected:
            return False
        expected *= size
    return True


RULES: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], tuple[Made, ...] | None]] = {
    aten.addmm.default: _addmm,
    **dict.fromkeys(
        [
            aten.neg.default, aten.exp.default, aten.log.default, aten.sin.default, aten.cos.default, aten.tanh.default,
            aten.sigmoid.default, aten.relu.default, aten.silu.default, aten.gelu.default, aten.sqrt.default,
            aten.rsqrt.default, aten.abs.default,
        ],
        _one_alike,
    ),
    **dict.fromkeys([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor], _two_floats),
    **dict.fromkeys(
        [aten.clone.default, aten.empty_like.default, aten.zeros_like.default, aten.ones_like.default], _like
    ),
    aten.gelu_backward.default: _two_alike,
    aten.silu_backward.default: _two_alike,
    aten.threshold_backward.default: _two_alike,
    aten.tanh_backward.default: _two_alike,
    aten.sigmoid_backward.default: _two_alike,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.nll_loss_forward.default: _nll_loss,
    aten.nll_loss_backward.default: _nll_loss_backward,
    aten._to_copy.default: _to_copy,
}
