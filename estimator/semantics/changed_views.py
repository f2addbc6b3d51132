"""Gradients of views that were changed in place: a copy as large as what the view is of, as on a real run.

Where a view is changed in place, autograd makes it a new node. For tensors with data that is `AsStridedBackward0`, which
lays the gradient into zeros of the base's size; for tensor subclasses the view is made again (`ViewBackward0`, say), which
allocates nothing. `nn.InstanceNorm2d`, whose result is a view, before `nn.ReLU(inplace=True)` is such a case.
Nodes that make zeros of that size themselves (`SelectBackward0`, `SliceBackward0`) are left as they are; several on one
another make several, more than a real run. An older view of a base that was changed is not seen.

Source: torch/csrc/autograd/variable.cpp, `VariableHooks::grad_fn`; `as_strided_backward` in FunctionsManual.cpp, 2.11;
measured: the ops of a real backward pass on a CPU, 2.11 and 2.13, and an allocator history of CUDA, 2.11.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from estimator.semantics.overlay import Overlay

_PLAIN = frozenset(
    [
        "AliasBackward0", "PermuteBackward0", "ReshapeAliasBackward0", "SqueezeBackward0", "SqueezeBackward1",
        "SqueezeBackward2", "TBackward0", "TransposeBackward0", "UnsafeViewBackward0", "UnsqueezeBackward0", "ViewBackward0",
    ]
)  # fmt: skip
"""Nodes of views whose gradients are views, too."""
_MARK = "estimator.changed_view"


def install(overlay: Overlay) -> None:
    """See the calls that change a view, for the length of the trace."""
    overlay.enter(_Changes())


class _Changes(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if args and out is args[0] and out.__class__ is FakeTensor and out._is_view() and out.requires_grad:
            _see(out)
        return out


def _see(view: Tensor) -> None:
    """Have the node of a changed view lay its gradient into zeros first."""
    node, base = view.grad_fn, view._base
    if node is None or base is None or not _is_plain(node):
        return
    notes = cast(dict[str, Any], node.metadata)
    if _MARK in notes:
        return
    notes[_MARK] = True
    start = min(view.storage_offset(), base.storage_offset())
    count = max(_extent(view), _extent(base)) - start
    place = (tuple(view.shape), tuple(view.stride()), view.storage_offset() - start)

    def lay(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        if gradient is None:
            return gradients
        storage = gradient.new_zeros(count)
        storage.as_strided(*place).copy_(gradient)
        return (storage.as_strided(*place),)

    node.register_prehook(lay)


def _is_plain(node: Any) -> bool:
    """Whether the node leads to the change through views alone that allocate nothing."""
    while node is not None and node.name().rpartition("::")[2] != "CopySlices":
        if node.name() not in _PLAIN:
            return False
        node = node.next_functions[0][0]
    return node is not None


def _extent(t: Tensor) -> int:
    """Elements from the start of the storage to the end of the tensor."""
    start = int(t.storage_offset())
    if t.numel() == 0:
        return start
    return start + 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
