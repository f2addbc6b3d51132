"""User code that names the device: `.cuda()`, `device="cuda"`, `x.is_cuda`, mapped onto the traced device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode

from estimator.semantics import torch_cuda
from estimator.semantics.inference import without_inference_mode
from estimator.semantics.overlay import DEVICE, HOST, Overlay, on_device

_to_copy = torch.ops.aten._to_copy.default

CUDA = torch.device("cuda", 0)
"""What Python code at the user's level sees as the device of traced tensors."""


def install(overlay: Overlay) -> None:
    """Map the names of the CUDA device for the length of the trace."""
    torch_cuda.install(overlay)
    without_inference_mode(overlay)
    mode = DeviceNames(overlay)
    _patch_fakes(overlay)
    _patch_backward(overlay, mode)
    overlay.enter(mode)


def _mapped(value: Any) -> Any:
    """The traced device for anything that names a CUDA device; any other value unchanged."""
    if value.__class__ is torch.device:
        return DEVICE if value.type == "cuda" else value
    if value.__class__ is str and value.startswith("cuda"):
        return DEVICE
    return value


class DeviceNames(TorchFunctionMode):
    """Sees every call of torch's Python API. Code below a call runs without the mode and sees the true devices."""

    def __init__(self, overlay: Overlay) -> None:
        super().__init__()
        self._overlay = overlay
        self._special: dict[Any, Callable[..., Any]] = {
            Tensor.to: _to,
            Tensor.cuda: _cuda,
            Tensor.pin_memory: lambda t, *args, **kwargs: t,
            Tensor.is_pinned: lambda t, *args, **kwargs: False,
            Tensor.is_cuda.__get__: on_device,
            Tensor.is_cpu.__get__: lambda t: not on_device(t) and t.device.type == "cpu",
            Tensor.get_device: lambda t: 0 if on_device(t) else -1,
            Tensor.__setitem__: _set_item,
            Tensor.new_tensor: _new_tensor,
            torch.ctc_loss: _lengths_on_device(torch.ctc_loss),
            torch.nn.functional.ctc_loss: _lengths_on_device(torch.nn.functional.ctc_loss),
            torch.tensor: _from_data(torch.tensor),
            torch.as_tensor: _from_data(torch.as_tensor),
            torch.asarray: _from_data(torch.asarray),
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        overlay = self._overlay
        level, overlay.at_user_level = overlay.at_user_level, False
        try:
            special = self._special.get(func)
            if special is not None:
                return special(*args, **kwargs)
            if "device" in kwargs:
                device = kwargs["device"]
                kwargs["device"] = DEVICE if device.__class__ is int else _mapped(device)
            if "pin_memory" in kwargs:
                kwargs["pin_memory"] = False
            return func(*args, **kwargs)
        finally:
            overlay.at_user_level = level


def _to(t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    places = tuple(DEVICE if a.__class__ is int else _mapped(a) for a in args)
    if "device" in kwargs:
        device = kwargs["device"]
        kwargs = {**kwargs, "device": DEVICE if device.__class__ is int else _mapped(device)}
    return t.to(*places, **kwargs)


def _cuda(
    t: Tensor,
    device: Any = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    return t.to(DEVICE, non_blocking=non_blocking, memory_format=memory_format)


def _set_item(t: Tensor, index: Any, value: Any) -> None:
    """Set elements. A number is made a tensor on the host for a CUDA tensor; torch would make it on our device.

    Source: `THPVariable_setitem` in torch/csrc/autograd/python_variable_indexing.cpp, 2.13.
    """
    if on_device(t) and isinstance(value, (bool, int, float, complex)):
        value = torch.tensor(value, dtype=t.dtype)
    t[index] = value


def _from_data(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a tensor of Python data on the host, then copy it: so does torch for a CUDA device."""

    def made(*args: Any, device: Any = None, requires_grad: bool = False, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], (list, tuple)):
            args = (_numbers(args[0]), *args[1:])
        place = DEVICE if device.__class__ is int else _mapped(device)
        if place != DEVICE:
            if requires_grad:
                kwargs["requires_grad"] = True
            return make(*args, device=place, **kwargs)
        if args and isinstance(args[0], Tensor):
            return make(*args, **kwargs).to(DEVICE).requires_grad_(requires_grad)
        return make(*args, device=HOST, **kwargs).to(DEVICE).requires_grad_(requires_grad)

    return made


def _numbers(data: Any) -> Any:
    """Python data with its tensors of one element read, as torch reads them where it makes a tensor of a list."""
    if isinstance(data, (list, tuple)):
        return [_numbers(item) for item in data] if any(isinstance(i, (list, tuple, Tensor)) for i in data) else data
    return data.item() if isinstance(data, Tensor) and data.dim() == 0 else data


def _new_tensor(t: Tensor, data: Any, **kwargs: Any) -> Tensor:
    """Make a tensor of Python data like another: where it is, of its type; torch would make it on the host."""
    place = kwargs.pop("device", None)
    if place is None:
        place = DEVICE if on_device(t) else t.device
    dtype = kwargs.pop("dtype", None) or (data.dtype if isinstance(data, Tensor) else t.dtype)
    if isinstance(data, Tensor):
        return data.detach().clone().to(_mapped(place), dtype).requires_grad_(kwargs.get("requires_grad", False))
    return _from_data(torch.tensor)(data, dtype=dtype, device=DEVICE if place == DEVICE else place, **kwargs)


def _lengths_on_device(ctc_loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Take lengths from the host too: torch turns them into numbers, and what it makes of those is on the device.

    Source: `ctc_loss` in aten/src/ATen/native/LossCTC.cpp, 2.13, whose way for fakes leaves them where they are.
    """

    def call(
        log_probs: Tensor, targets: Tensor, input_lengths: Any, target_lengths: Any, *args: Any, **kw: Any
    ) -> Tensor:
        lengths = (v.to(log_probs.device) if isinstance(v, Tensor) else v for v in (input_lengths, target_lengths))
        return ctc_loss(log_probs, targets, *lengths, *args, **kw)

    return call


def _patch_fakes(overlay: Overlay) -> None:
    """Let fakes name the CUDA device to the user's code and the traced one to torch's own."""
    true_device = FakeTensor.device
    # Without the switches of torch's compiler around it: nothing is compiled in a trace.
    dispatch = getattr(FakeTensorMode.__torch_dispatch__, "__wrapped__", FakeTensorMode.__torch_dispatch__)

    def device(self: FakeTensor) -> torch.device:
        if overlay.at_user_level and self.fake_device == DEVICE and not self.fake_mode.in_kernel_invocation:
            return CUDA
        return true_device.__get__(self)  # type: ignore[attr-defined,no-any-return]

    def torch_dispatch(self: FakeTensorMode, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        level, overlay.at_user_level = overlay.at_user_level, False
        try:
            with torch._C.DisableTorchFunction():
                out = dispatch(self, func, types, args, kwargs)
                if func is _to_copy and kwargs.get("device") == DEVICE and out.constant is not None:
                    # Fakes follow the values of scalars by real tensors on the host, and so lose their device.
                    out.constant, out.fake_device = None, DEVICE
                return out
        finally:
            overlay.at_user_level = level

    def swap_tensors(one: Any, other: Any) -> None:
        """Stand for `param.data = ...`, which `Module.to` uses for tensors with data; fakes it would swap, or fail."""
        if not isinstance(one, FakeTensor) or not isinstance(other, FakeTensor):
            swap(one, other)
        elif one is not other:
            one.data = other.detach()
            one.fake_device = other.fake_device

    def wrapper_subclass(*args: Any, **kwargs: Any) -> Any:
        """Tensors made of fakes (jagged ones) are where those are, whatever the user's code calls the place."""
        return make(*map(_mapped, args), **{name: _mapped(value) for name, value in kwargs.items()})

    def tensor(*args: Any, **kwargs: Any) -> Tensor:
        """Code of torch's own that makes a tensor of Python data (starts of jagged sequences) names the traced device."""
        return (on_the_device if kwargs.get("device") == DEVICE else from_data)(*args, **kwargs)

    from_data = torch.tensor
    on_the_device = _from_data(from_data)
    overlay.patch(torch, "tensor", tensor)
    make = torch.Tensor._make_wrapper_subclass
    overlay.patch(torch.Tensor, "_make_wrapper_subclass", staticmethod(wrapper_subclass))
    swap = torch.utils.swap_tensors
    overlay.patch(torch.utils, "swap_tensors", swap_tensors)
    overlay.patch(FakeTensor, "device", property(device, true_device.fset))  # type: ignore[attr-defined]
    overlay.patch(FakeTensorMode, "__torch_dispatch__", torch_dispatch)


def _patch_backward(overlay: Overlay, mode: DeviceNames) -> None:
    """Bring the mode back for Python code that runs inside of a call of torch's.

    Custom functions, hooks and the recomputation of checkpoints in a backward pass, and hooks on saved tensors
    in the forward, are the user's level again.
    """
    run = torch.autograd.graph._engine_run_backward  # type: ignore[attr-defined]

    def at_user_level(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            level, overlay.at_user_level = overlay.at_user_level, True
            try:
                with mode:
                    return function(*args, **kwargs)
            finally:
                overlay.at_user_level = level

        return run

    def hooks_init(self: Any, pack_hook: Callable[..., Any], unpack_hook: Callable[..., Any]) -> None:
        init(self, at_user_level(pack_hook), unpack_hook)

    for owner in (torch.autograd, torch.autograd.graph):
        overlay.patch(owner, "_engine_run_backward", at_user_level(run))
    hooks = torch.autograd.graph.saved_tensors_hooks
    init = hooks.__init__
    overlay.patch(hooks, "__init__", hooks_init)


__all__ = ["CUDA", "DeviceNames", "install"]
