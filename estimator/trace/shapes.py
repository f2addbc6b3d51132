"""Ops whose fake kernels need values that are known beside the fakes: masks that pick elements, lengths of a CTC loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

_aten = torch.ops.aten
_INDEXED = frozenset(
    {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
)
SHAPED = frozenset(
    {
        _aten._ctc_loss.Tensor, _aten._ctc_loss.default, _aten._ctc_loss_backward.Tensor, _aten._ctc_loss_backward.default,
        _aten.masked_select.default, _aten.bincount.default,
    }
)  # fmt: skip
"""Ops whose results have shapes that hang on values."""


def with_places(
    func: Any, args: tuple[Any, ...], known: Callable[[Any], Tensor | None], fake: Callable[[Tensor, Tensor], Any]
) -> tuple[Any, ...]:
    """The arguments of an indexing op with each known mask as the places that it picks.

    Args:
        known: gives a tensor's real values, or None.
        fake: makes a fake of a real tensor, on the device of another fake.
    """
    if func not in _INDEXED or not any(isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1]):
        return args
    out: list[Any] = []
    for index in args[1]:
        real = known(index) if isinstance(index, Tensor) and index.dtype is torch.bool else None
        if real is None:
            out.append(index)
        else:
            with no_dispatch():
                places = real.nonzero(as_tuple=True)
            out += [fake(place, index) for place in places]
    return (args[0], out, *args[2:])


def shaped(func: Any, args: tuple[Any, ...], known: Callable[[Any], Tensor | None], warn: Callable[[str, str], None]) -> Any:
    """Results of an op of `SHAPED` that are not known themselves; None where what their shapes hang on is not known, either.

    `warn(code, text)` is told what is taken for granted.
    """
    if func is _aten.bincount.default:
        return _bincount(*args, warn=warn)
    return _masked_select(args[0], args[1], known) if func is _aten.masked_select.default else _ctc_loss(func, args, known)


def _bincount(
    x: Tensor, weights: Tensor | None = None, minlength: int = 0, *, warn: Callable[[str, str], None]
) -> Tensor | None:
    """As many counts as are asked for at least, as for codes or classes that are numbered below that.

    Source: aten/src/ATen/native/SummaryOps.cpp, `_bincount_cpu_template`, 2.13: types of the result.
    """
    if minlength < 1:
        return None
    warn("values-assumed", f"torch.bincount(minlength={minlength}): all values are taken to lie below {minlength}")
    dtype = torch.int64 if weights is None else weights.dtype if weights.dtype is torch.float32 else torch.float64
    return torch.empty(minlength, dtype=dtype, device=x.device)


def _masked_select(x: Tensor, mask: Tensor, known: Callable[[Any], Tensor | None]) -> Tensor | None:
    """As many elements as the mask picks, where that is known. Our own ops say it of a mask as `_picked_count`."""
    count = mask.__dict__.get("_picked_count")
    if count is None:
        real = known(mask)
        if real is None:
            return None
        with no_dispatch():
            count = int(real.expand(torch.broadcast_shapes(x.shape, mask.shape)).sum())
    return torch.empty(count, dtype=x.dtype, device=x.device)


def _ctc_loss(func: Any, args: tuple[Any, ...], known: Callable[[Any], Tensor | None]) -> Any:
    """Results of a CTC loss, or of its backward pass: a contiguous one of the shape of the probabilities.

    Those of the loss are (batch,) and (batch, time, 2 * longest target + 1); None where the lengths are not known.

    Source: `ctc_loss_gpu_template` in aten/src/ATen/native/cuda/LossCTC.cu, 2.13.
    """
    if "backward" in func._schema.name:
        return torch.empty_like(args[1], memory_format=torch.contiguous_format)
    probabilities, _, _, lengths = args[:4]
    if isinstance(lengths, Tensor):
        real = known(lengths)
        if real is None:
            return None
        with no_dispatch():
            lengths = real.tolist()
    batch = probabilities.shape[1] if probabilities.dim() == 3 else 1
    place = {"dtype": probabilities.dtype, "device": probabilities.device}
    longest = max(lengths, default=0)
    return torch.empty(batch, **place), torch.empty(batch, probabilities.shape[0], 2 * longest + 1, **place)
