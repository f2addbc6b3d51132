"""In-place variants that autograd takes for tensors with data and refuses for fakes: taken here as on a real run.

Where gradients of two uses meet, the engine adds the second onto the first if nobody else holds it; backward
formulas scatter into fresh zeros in place. For tensor subclasses, and under any dispatch mode, they make copies.

Source: every caller of `c10::impl::dispatch_mode_enabled` in libtorch_cpu.so of 2.13; what each does was measured
by running it on real CPU tensors with and without a dispatch mode (profiler, 2.13). Not imitated: full reductions
`max()`, `min()` and `prod()`, whose formulas branch on values and are no ops of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from estimator.semantics.overlay import AUTOGRAD, DEVICE, Overlay, composite_of, on_device

_aten = torch.ops.aten
_ADD_THEMSELVES = frozenset(
    [
        "AminmaxBackward0", "Atan2Backward0", "BinaryCrossEntropyBackwardBackward0", "CholeskyBackward0",
        "CholeskyInverseBackward0", "CholeskySolveBackward0", "ConvolutionBackwardBackward0", "GeluBackwardBackward0",
        "GluBackwardBackward0", "GridSampler2DBackwardBackward0", "GridSampler3DBackwardBackward0",
        "LinalgCholeskyExBackward0", "LinalgDetBackward0", "LinalgLstsqBackward0", "LinalgLuBackward0",
        "LinalgLuFactorExBackward0", "LinalgLuSolveBackward0", "LinalgPinvBackward0", "LinalgQrBackward0",
        "LinalgSvdBackward0", "LogcumsumexpBackward0", "LuUnpackBackward0",
        "PreluKernelBackwardBackward0", "SpecialI1EBackward0", "SpecialLogNdtrBackward0", "StdMeanBackward0",
        "TriangularSolveBackward0", "VarMeanBackward0",
    ]
)  # fmt: skip
"""Nodes whose formula adds two tensors of one shape. Found by calling each node of all ops and gradients that torch's own
tests know (`op_db`, 2.13) by itself, without the engine. Bound: high, as what the engine adds behind such a node is taken
as new, too; group norm's, which adds only where its statistics have gradients, is therefore left out."""
_SHARE_EVENLY = frozenset({"MaxBackward1", "MinBackward1", "MedianBackward0", "NanmedianBackward0"})
"""Nodes that share a gradient among all elements equal to the one they gave."""


class Owners(NamedTuple):
    """References to a tensor, and to its storage, that only the caller of an op holds, as seen in its kernel."""

    tensor: int
    storage: int


def install(overlay: Overlay) -> None:
    """Lay the in-place variants over the trace."""
    for name, function in _COMPOSITES.items():
        overlay.composite(name, function)
    # Host indices are allowed; the fake kernel of torch does not know.
    overlay.fake_kernel(_aten._index_put_impl_.default, lambda mode, op, *args, **kwargs: args[0])
    InBackward(overlay).install()


class InBackward:
    """Replaces ops that autograd's engine and formulas call, never those of the user's own code."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._user_depth = 0
        self._running = False
        self._alone = Owners(0, 0)

    def install(self) -> None:
        """Put the replacements in force for each backward pass; learn what a tensor without other owners looks like."""
        self._watch_user_code()
        self._alone = self._learn()
        run = torch.autograd.graph._engine_run_backward

        def run_backward(*args: Any, **kwargs: Any) -> Any:
            if self._running:  # a backward pass inside one (reentrant checkpointing): they are in force already
                depth, self._user_depth = self._user_depth, 0  # what runs now is the engine again
                try:
                    return run(*args, **kwargs)
                finally:
                    self._user_depth = depth
            self._running = True
            library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
            try:
                for name, function in self._replacements().items():
                    library.impl(name, self._first(name, function), AUTOGRAD, with_keyset=True)  # type: ignore[no-untyped-call]
                return run(*args, **kwargs)
            finally:
                self._running = False
                library._destroy()

        for owner in (torch.autograd, torch.autograd.graph):
            self._overlay.patch(owner, "_engine_run_backward", run_backward)

    def _replacements(self) -> dict[str, Callable[..., Tensor | None]]:
        return {
            "add.Tensor": self._add,
            "index_put": self._index_put,
            "put": self._put,
            "logical_and": self._logical_and,
        }

    def _watch_user_code(self) -> None:
        from torch.autograd.function import BackwardCFunction

        apply = BackwardCFunction.apply

        def counted(node: Any, *args: Any) -> Any:
            self._user_depth += 1
            try:
                return apply(node, *args)
            finally:
                self._user_depth -= 1

        self._overlay.patch(BackwardCFunction, "apply", counted)

    def _first(self, name: str, function: Callable[..., Tensor | None]) -> Callable[..., Any]:
        """Ask `function` first; where it answers None, run torch's own kernel."""
        original = torch.library.get_kernel("aten::" + name, AUTOGRAD)
        of_scalar = getattr(getattr(_aten, name.partition(".")[0]), "Scalar", None)

        def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled() and not self._user_depth:
                replaced = function(*args, **kwargs)
                if replaced is not None:
                    return replaced
            if of_scalar is not None and not isinstance(args[1], Tensor):
                # A number in the user's own code; torch's kernel takes it only as a tensor made in C++.
                return of_scalar(*args, **kwargs)
            return original.call_boxed(keys, *args, **kwargs)

        return kernel

    # ------------------------------------------------------------ the replacements

    def _add(self, a: Any, b: Any, *, alpha: Any = 1) -> Tensor | None:
        """Accumulate in place. Source: `accumulate` in torch/csrc/autograd/input_buffer.cpp, 2.11."""
        if not (on_device(a) and on_device(b) and alpha == 1 and a.shape == b.shape and a.dtype is b.dtype):
            return None
        if a.layout is not torch.strided or b.layout is not torch.strided:  # sparse gradients are never added in place
            return None
        if self._node() in _ADD_THEMSELVES or not self._is_alone(a) or not _is_dense(a):
            return None
        return _aten.add_.Tensor(a, b)  # type: ignore[no-any-return]

    def _index_put(self, zeros: Any, indices: Any, values: Any, accumulate: bool = False) -> Tensor | None:
        if self._node() != "IndexBackward0" or not on_device(zeros):
            return None
        return _aten._index_put_impl_.default(zeros, indices, values, True, True)  # type: ignore[no-any-return]

    def _put(self, zeros: Any, index: Any, source: Any, accumulate: bool = False) -> Tensor | None:
        if self._node() != "TakeBackward0" or not on_device(zeros):
            return None
        return _aten.put_.default(zeros, index, source, accumulate)  # type: ignore[no-any-return]

    def _logical_and(self, is_nan: Any, value_is_nan: Any) -> Tensor | None:
        """Source: `evenly_distribute_backward` in torch/csrc/autograd/FunctionsManual.cpp, 2.11; measured."""
        if self._node() not in _SHARE_EVENLY or not on_device(is_nan):
            return None
        return _aten.logical_and_.default(is_nan, value_is_nan)  # type: ignore[no-any-return]

    @staticmethod
    def _node() -> str:
        node = torch._C._current_autograd_node()
        return "" if node is None else node.name()  # type: ignore[no-any-return]

    # ------------------------------------------------------------ ownership

    def _is_alone(self, t: Any) -> bool:
        return _owners(t) == self._alone

    @staticmethod
    def _learn() -> Owners:
        """Count the owners that torch's own machinery adds, on a sum of gradients that nobody else holds."""
        seen: list[Owners] = []
        original = torch.library.get_kernel("aten::add.Tensor", AUTOGRAD)
        library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]

        def kernel(keys: Any, a: Any, b: Any, **kwargs: Any) -> Any:
            if torch._C._current_graph_task_id() != -1:
                seen.append(_owners(a))
            return original.call_boxed(keys, a, b, **kwargs)

        try:
            library.impl("add.Tensor", kernel, AUTOGRAD, with_keyset=True)  # type: ignore[no-untyped-call]
            with FakeTensorMode(), torch.enable_grad():
                x, grad = torch.empty(2, 2, device=DEVICE, requires_grad=True), torch.empty(2, 2, device=DEVICE)
                torch.autograd.backward([x.mm(x.detach()), x.mm(x.detach())], [grad, grad])  # cheap ops on fakes
        finally:
            library._destroy()
        return seen[0]


def _owners(t: Any) -> Owners:
    return Owners(t._use_count(), torch._C._storage_Use_Count(t.untyped_storage()._cdata))


def _is_dense(t: FakeTensor) -> bool:
    if t.is_contiguous():
        return True
    expected = 1
    for size, stride in sorted(zip(t.shape, t.stride(), strict=True), key=lambda p: p[1]):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


# ------------------------------------------------------------ backward formulas that are ops themselves


def _gather_backward(grad: Tensor, self: Tensor, dim: int, index: Tensor, sparse_grad: bool) -> Tensor:
    if sparse_grad:
        return composite_of(_aten.gather_backward.default)(grad, self, dim, index, sparse_grad)  # type: ignore[no-any-return]
    return grad.new_zeros(self.shape).scatter_add_(dim, index, grad)


def _selecting_backward(grad: Tensor, dim: int, indices: Tensor, sizes: Any, keepdim: bool) -> Tensor:
    if not keepdim and len(sizes):
        grad, indices = grad.unsqueeze(dim), indices.unsqueeze(dim)
    return torch.zeros(sizes, dtype=grad.dtype, device=grad.device).scatter_(dim, indices, grad)


def _index_select_backward(grad: Tensor, self_sizes: Any, dim: int, index: Tensor) -> Tensor:
    return grad.new_zeros(self_sizes).index_add_(dim, index, grad)


def _cummaxmin_backward(grad: Tensor, input: Tensor, indices: Tensor, dim: int) -> Tensor:
    return torch.zeros(input.shape, dtype=input.dtype, device=input.device).scatter_add_(dim, indices, grad)


def _masked_select_backward(grad: Tensor, self: Tensor, mask: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(self.shape, mask.shape)
    return torch.zeros_like(self.expand(shape)).masked_scatter_(mask, grad)


def _cumprod_backward(grad: Tensor, input: Tensor, dim: int, output: Tensor) -> Tensor:
    """The formula for an input without zeros, which a real run looks for; `unhandled.py` says so.

    Source: `cumprod_backward`, `reversed_cumsum` in aten/src/ATen/native/ReduceOps.cpp, 2.13.
    """
    if input.numel() <= 1 or input.shape[dim] == 1:
        return grad
    products = output * grad
    is_zero = input == 0
    is_zero.any()
    turned = products.flip(dim)  # these two live until the sum is turned back, as in an expression of C++
    summed = turned.cumsum(dim)
    back = summed.flip(dim)
    del summed, turned
    return back.div(input.conj())


_COMPOSITES: dict[str, Callable[..., Tensor]] = {
    "gather_backward": _gather_backward,
    "value_selecting_reduction_backward": _selecting_backward,
    "index_select_backward": _index_select_backward,
    "cummaxmin_backward": _cummaxmin_backward,
    "cumprod_backward": _cumprod_backward,
    "masked_select_backward": _masked_select_backward,
}
