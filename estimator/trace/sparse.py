"""Sparse gradients: what ops on them come to, in ops on their indices and values, which are plain tensors.

A fake sparse tensor holds its indices and values, but torch's fake kernels lose count of the rows (they give tensors of
none). Here each op is done as CUDA's kernels do it, so that the storages live as they do there. How many different rows
a batch looks up depends on its data: all are taken to be different, as far as the table has rows.

Source: aten/src/ATen/native/sparse/cuda/SparseCUDATensor.cu (`_coalesce_sparse_cuda`), SparseCUDATensorMath.cu
(`add_out_dense_sparse_cuda`, `add_out_sparse_cuda`), SparseTensor.cpp (`sparse_mask`, `clone_sparse`), SparseTensorMath.cpp
(`_mul_dense_sparse_out`), torch/csrc/autograd/functions/accumulate_grad.h, 2.11; the order was held against the simulated card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_CREATE = _aten._sparse_coo_tensor_with_dims_and_tensors.default
_BAGS = _aten._embedding_bag_backward.default
_MEAN = 1
"""Source: aten/src/ATen/native/EmbeddingBag.h, EmbeddingBagMode, 2.11."""
NOT_DONE = object()
CODE = "sparse-gradients"
_TEXT = (
    "sparse gradients: the rows that a batch looks up are taken to be all different, as many as the table has at most; "
    "data that name a row more than once take less after their gradient is coalesced"
)
_GROWS = (
    "a sparse tensor to which another is added keeps the rows of both: where that is momentum, it grows with every step "
    "without end, and the answer covers the first steps alone"
)
Alone = Callable[[str, tuple[Any, ...]], None]
"""Notes a call that is none of torch's, for its scratch: name and arguments."""


class SparseOps:
    """Does the ops of one trace on sparse tensors. `say(code, text)` is told what is assumed."""

    def __init__(self, say: Callable[[str, str], None], alone: Alone) -> None:
        self._say, self._alone = say, alone
        self._met = False

    def takes(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Whether an op is to be done by `run`: it is on sparse tensors, and more than a look at one."""
        of_bags = func is _BAGS and len(args) > 9 and args[9]
        if func is _CREATE or of_bags:
            if not self._met:
                self._say(CODE, _TEXT)
            self._met = True
        if of_bags:
            return True
        return self._met and func not in _LOOKS and any(_are_sparse(args[0] if _is_foreach(func) else args[:2]))

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of an op on sparse tensors; `NOT_DONE`, and a warning, where nobody knows what it takes."""
        if _is_foreach(func):
            return _one_by_one(func, args, kwargs)
        done = _DONE.get(func)
        out = NOT_DONE if done is None else done(self, _are_sparse(args[:2]), *args, **kwargs)
        if out is NOT_DONE:
            self._say("scratch-unknown", f"{func} on sparse tensors is not modelled: what it takes is not counted, and the high end does not cover it")
        return out

    # ------------------------------------------------------------ ops

    def _bags(
        self, sparse: list[bool], grad: Tensor, indices: Tensor, offsets: Tensor, bag_of: Tensor, bag_size: Tensor,
        most: Tensor, rows: int, by_frequency: bool, mode: int, is_sparse: bool, weights: Tensor | None = None,
        padding: int = -1,
    ) -> Tensor:  # fmt: skip
        """The gradient of each bag for each of its rows. Source: EmbeddingBag.cpp, `_embedding_bag_sparse_backward`."""
        values = grad.index_select(0, bag_of)
        if mode == _MEAN:
            values.mul_(bag_size.to(grad.dtype).reciprocal().unsqueeze(1).index_select(0, bag_of))
        if weights is not None:
            values = values * weights.unsqueeze(1)
        width = grad.shape[-1]
        made: Tensor = _CREATE(
            1, 1, (rows, width), indices.reshape(1, -1), values.reshape(-1, width),
            layout=torch.sparse_coo, dtype=values.dtype, device=values.device, pin_memory=False, is_coalesced=None,
        )  # fmt: skip
        return made

    def _coalesce(self, sparse: list[bool], t: Tensor) -> Tensor:
        indices, values = t._indices(), t._values()
        count, rows = t._nnz(), math.prod(t.shape[: t.sparse_dim()])
        if count < 2:
            return _made(t, indices, values, coalesced=True)
        flat = indices.sum(0, keepdim=True) if t.sparse_dim() > 1 else indices.clone()
        origin, offsets = torch.empty_like(flat), torch.empty_like(flat)
        self._alone("aten._coalesce.default", (flat,))
        kept = min(count, rows)
        new_values = values.new_empty((kept, *values.shape[1:]))
        new_indices = flat[:, :kept] if t.sparse_dim() == 1 else indices.new_empty((t.sparse_dim(), kept))
        del origin, offsets
        return _made(t, new_indices, new_values, coalesced=True)

    def _clone(self, sparse: list[bool], t: Tensor, *, memory_format: Any = None) -> Tensor:
        if torch._C._current_graph_task_id() != -1:  # AccumulateGrad keeps a gradient that nobody else holds
            return _made(t, t._indices(), t._values(), coalesced=t.is_coalesced())
        return _made(t, t._indices().clone(), t._values().clone(), coalesced=t.is_coalesced())

    def _neg(self, sparse: list[bool], t: Tensor) -> Tensor:
        return _made(t, t._indices().clone(), t._values().neg(), coalesced=t.is_coalesced())

    def _mul_(self, sparse: list[bool], t: Tensor, other: Any) -> Any:
        if not isinstance(other, Tensor) or other.dim() == 0:
            product = t._indices().clone(), t._values().clone()
            del product
            return t
        return NOT_DONE

    def _add(self, sparse: list[bool], a: Tensor, b: Tensor, *, alpha: Any = 1) -> Any:
        if all(sparse):
            return self._joined(a, b)
        return (b if sparse[0] else a).clone()

    def _add_(self, sparse: list[bool], a: Tensor, b: Tensor, *, alpha: Any = 1) -> Any:
        if all(sparse):
            self._say(CODE, _GROWS)
            a.data = self._joined(a, b)
        elif sparse[0]:
            return NOT_DONE
        return a

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        """The sum of two sparse tensors: the rows of both, one after the other."""
        indices = torch.cat([a._indices(), b._indices()], 1)
        return _made(a, indices, torch.cat([a._values(), b._values()]), coalesced=False)

    def _sparse_mask(self, sparse: list[bool], t: Tensor, mask: Tensor) -> Any:
        if sparse[0]:
            return NOT_DONE
        values = mask._values()
        one = values.new_empty(1)
        rows = torch.empty_like(values, dtype=t.dtype)
        indices = mask._indices().clone()
        product = torch.empty_like(rows)
        del rows, one
        return _made(mask, indices, product, coalesced=mask.is_coalesced())


def _are_sparse(args: Iterable[Any]) -> list[bool]:
    with torch._C.DisableTorchFunction():
        return [isinstance(a, Tensor) and a.layout is torch.sparse_coo for a in args]


def _is_foreach(func: Any) -> bool:
    name: str = func._schema.name
    return name.startswith(_FOREACH) and name.endswith("_")


def _one_by_one(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """An op on lists in place, done tensor by tensor: one that is sparse bars the way of all at once.

    Source: aten/src/ATen/native/ForeachUtils.h, `check_fast_path_restrictions`, 2.11: layouts must be strided.
    """
    op = getattr(_aten, func._schema.name.removeprefix(_FOREACH))
    for place, tensor in enumerate(args[0]):
        op(tensor, *(a[place] if isinstance(a, (list, tuple)) else a for a in args[1:]), **kwargs)


def _made(like: Tensor, indices: Tensor, values: Tensor, *, coalesced: bool) -> Tensor:
    made: Tensor = _CREATE(
        like.sparse_dim(), like.dense_dim(), like.shape, indices, values,
        layout=torch.sparse_coo, dtype=values.dtype, device=values.device, pin_memory=False, is_coalesced=coalesced,
    )  # fmt: skip
    return made


_FOREACH = "aten::_foreach_"
_LOOKS = frozenset(
    {
        _CREATE, _aten._indices.default, _aten._values.default, _aten.indices.default, _aten.values.default,
        _aten._nnz.default, _aten.is_coalesced.default, _aten._coalesced_.default, _aten.detach.default,
        _aten.sparse_dim.default, _aten.dense_dim.default,
    }
)  # fmt: skip
"""Ops that take nothing."""
_DONE: dict[Any, Callable[..., Any]] = {
    _BAGS: SparseOps._bags,
    _aten._coalesce.default: SparseOps._coalesce,
    _aten.clone.default: SparseOps._clone,
    _aten.neg.default: SparseOps._neg,
    _aten.mul_.Tensor: SparseOps._mul_,
    _aten.add.Tensor: SparseOps._add,
    _aten.add_.Tensor: SparseOps._add_,
    _aten.sparse_mask.default: SparseOps._sparse_mask,
}
