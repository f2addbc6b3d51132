"""The overlay: what is laid over torch while a trace runs, and taken off again without a rest."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

if TYPE_CHECKING:
    from estimator.device import Target

DEVICE = torch.device("cpu", 0)
"""Stands for the target's device in a trace; host tensors are on `cpu` without an index."""
HOST = torch.device("cpu")

AUTOGRAD = "AutogradCPU"
AUTOCAST = "AutocastCPU"
_aten = torch.ops.aten


class Overlay:
    """What is in force for one trace: the target, the overrides, and what could not be decided faithfully.

    Python code that runs at the user's level sees device tensors on `cuda:0`; code below (the dispatcher, fake
    kernels) sees them on `DEVICE`. `at_user_level` says which of the two is running.
    """

    autocast_device_type = "cuda"

    def __init__(self, target: Target) -> None:
        self.target = target
        self.warnings: list[tuple[str, str]] = []
        """(code, text) of each decision that is not CUDA's own, once each."""
        self.capabilities: frozenset[tuple[int, int]] | None = None
        """Compute capabilities on which all that was decided so far would be decided the same; None: on any."""
        self.asked_device = False
        """Whether the traced code asked for what tells one card from another: its name, size or properties."""
        self.own_check: bool | None = None
        """What a composite op of torch that now runs must hear where it asks for a truth to go on; None: none runs."""
        self.at_user_level = True
        self.active = True
        self._stack = contextlib.ExitStack()
        self._library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        self._stack.callback(self._library._destroy)

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability of the target."""
        assert self.target.device.compute_capability is not None  # a cuda profile always has it
        return self.target.device.compute_capability

    def warn(self, code: str, text: str) -> None:
        """Note, once, that something is decided otherwise than CUDA would."""
        if (code, text) not in self.warnings:
            self.warnings.append((code, text))

    def holds_for(self, capabilities: Iterable[tuple[int, int]]) -> None:
        """Note that a decision is the same on these compute capabilities and no others; the target's is always one."""
        alike = frozenset(capabilities) | {self.capability}
        self.capabilities = alike if self.capabilities is None else self.capabilities & alike

    def impl(self, name: str, function: Callable[..., Any], key: str = AUTOGRAD, *, with_keyset: bool = False) -> None:
        """Replace the kernel of `aten::name` at a dispatch key until the overlay ends."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Overriding a previously registered kernel": that is the purpose
            self._library.impl(name, function, key, with_keyset=with_keyset)  # type: ignore[no-untyped-call]

    def composite(self, name: str, function: Callable[..., Any]) -> None:
        """Replace a composite op where its first tensor is on the device; elsewhere it stays what it is."""
        base, _, overload = name.partition(".")
        op = getattr(getattr(_aten, base), overload or "default")

        def kernel(*args: Any, **kwargs: Any) -> Any:
            return (function if on_device(args[0]) else composite_of(op))(*args, **kwargs)

        self.impl(name, kernel)

    def fake_kernel(self, op: Any, function: Callable[..., Any]) -> None:
        """Replace the fake kernel of an op; `function(fake_mode, op, *args, **kwargs)` returns fakes."""
        from torch._decomp import meta_table
        from torch._subclasses import fake_impls

        self._set_item(fake_impls.op_implementations_dict, op, function)
        if op not in meta_table:
            self._set_item(meta_table, op, function)  # else a decomposition would be asked first

    def _set_item(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        before = table.get(key)
        table[key] = value
        self._stack.callback(lambda: table.pop(key) if before is None else table.__setitem__(key, before))

    def patch(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute of a module or class until the overlay ends.

        Modules imported meanwhile may keep a patched function; it turns into the true one when the overlay ends.
        """
        missing = object()
        before = vars(owner).get(name, missing)
        put = self._while_active(value, before) if isinstance(value, FunctionType) else value
        setattr(owner, name, put)
        if owner is torch:
            self._compile_as(put, before)

        def restore() -> None:
            if before is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._stack.callback(restore)

    def _compile_as(self, put: Any, before: Any) -> None:
        """Have TorchScript take a patched function of `torch` for the op that it stands for: it compiles no Python of ours.

        Source: torch/jit/_builtins.py: ops are found by the function's identity. Libraries script functions as they are
        imported, also within a trace (DeBERTa's, of transformers).
        """
        from torch.jit._builtins import _find_builtin, _get_builtin_table

        op = _find_builtin(before)  # type: ignore[no-untyped-call]
        if op is not None:
            self._set_item(_get_builtin_table(), id(put), op)  # type: ignore[no-untyped-call]

    def _while_active(self, function: FunctionType, before: Any) -> Any:
        if not callable(before):
            return function

        @functools.wraps(function)
        def either(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) if self.active else before(*args, **kwargs)

        return either

    def enter(self, context: contextlib.AbstractContextManager[Any]) -> Any:
        """Enter a context until the overlay ends."""
        return self._stack.enter_context(context)

    def on_exit(self, function: Callable[[], None]) -> None:
        """Call `function` when the overlay ends."""
        self._stack.callback(function)

    def close(self) -> None:
        """Take everything off again, the last first."""
        try:
            self.active = False
            self._stack.close()
        finally:
            # Fake results are cached by op and shapes for the life of the process.
            FakeTensorMode.cache_clear()

    def prepare_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer choose its implementation as it would for CUDA parameters."""
        from estimator.semantics.optimizers import as_on_cuda

        as_on_cuda(optimizer)


def composite_of(op: Any) -> Callable[..., Any]:
    """C++'s own composite kernel of an op (`op.decompose` may run a Python one, which differs)."""
    return functools.partial(op._op_dk, torch._C.DispatchKey.CompositeImplicitAutograd)


def on_device(value: Any) -> bool:
    """Whether `value` is a tensor on the traced device."""
    return value.__class__ is FakeTensor and value.fake_device == DEVICE


def fake_tensor(mode: FakeTensorMode, meta: Tensor, device: torch.device) -> FakeTensor:
    """Make a fake of a meta tensor on a device of our choice."""
    return FakeTensor(mode, meta, device)
