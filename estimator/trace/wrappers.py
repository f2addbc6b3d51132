"""Tensors made of tensors: jagged ones and other subclasses that PyTorch can take apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, is_traceable_wrapper_subclass_type

Mode = TypeVar("Mode", bound=FakeTensorMode)


@cache
def _is_wrapper(kind: type) -> bool:
    return is_traceable_wrapper_subclass_type(kind)


def any_wrapper(types: Iterable[type]) -> bool:
    """Whether a call is of such tensors: what it comes to is seen in the calls of their parts."""
    return any(map(_is_wrapper, types))


@cache
def is_composite(op: Any) -> bool:
    """Whether an op is made of others that are called in its place; only tensors made of tensors pass one on whole.

    One that has a kernel of its own as well (`silu_backward`) is not: that kernel is what runs.
    """
    if not isinstance(op, torch._ops.OpOverload):
        return False
    has, name = torch._C._dispatch_has_kernel_for_dispatch_key, op.name()
    return has(name, "CompositeImplicitAutograd") and not (has(name, "CPU") or has(name, "Meta"))


def parts(t: Tensor) -> Iterator[Tensor]:
    """The plain tensors that `t` is made of; `t` itself where it is one."""
    if not is_traceable_wrapper_subclass(t):
        yield t
        return
    names, _ = t.__tensor_flatten__()
    for name in names:
        yield from parts(getattr(t, name))


def with_nested_ints(mode: Mode) -> Mode:
    """Let jagged fakes have lengths as real ones do: an opaque number for each set of offsets, no symbol.

    Source: FakeTensorMode.create_symbolic_nested_int in torch/_subclasses/fake_tensor.py, 2.13: the same number, which
    it wraps in a symbol for a compiler.
    """

    def nested_int(*, nt_tensor_id: int | None = None) -> Any:
        from torch.nested._internal.nested_int import NestedIntNode

        if nt_tensor_id is None:
            nt_tensor_id = mode.nt_tensor_id_counter
            mode.nt_tensor_id_counter += 1
        return torch.SymInt(NestedIntNode(nt_tensor_id, 1))

    mode.create_symbolic_nested_int = nested_int  # type: ignore[method-assign]
    return mode
