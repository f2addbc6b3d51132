"""Torch's fake tensor mode with less work around each op: what it decides, keeps and gives is unchanged.

Most of a trace's time goes to torch's cache of fake results (describing the arguments to it, making the result it names)
and to decompositions of what is not in it. Here the plain case is told shortly: strided tensors, numbers, lists of them,
and ops whose result a rule knows; any other goes torch's way.
Source: torch/_subclasses/fake_tensor.py, `FakeTensorMode.dispatch`, `_cache_key`, `_prep_args_for_hash`,
`_get_output_tensor_from_cache_entry`, `FakeTensor.__new__`, 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch._subclasses import fake_impls, fake_tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    disable_fake_tensor_cache,
    in_kernel_invocation_manager,
)
from torch.utils._mode_utils import no_dispatch

from estimator.trace.quick import BY_META, RULES

_PLAIN = frozenset([int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format])
_ASKS = frozenset([*fake_tensor._DISPATCH_META_HANDLERS, *fake_tensor._DISPATCH_HANDLE_DIRECTLY])
"""Ops that ask for a size or a device, and give no tensor."""
_HOST = torch.device("cpu")
_LIFT = torch.ops.aten.lift_fresh.default
_UNSAFE_VIEW = torch.ops.aten._unsafe_view.default
_GUARD_DATA = {
    False: torch._C._set_throw_on_mutable_data_ptr,  # type: ignore[attr-defined]
    True: torch._C._set_warn_deprecated_on_mutable_data_ptr,  # type: ignore[attr-defined]
}
"""What becomes of one who asks for a fake tensor's data, by whether the mode allows it."""


@contextlib.contextmanager
def without_cuda_guard() -> Iterator[None]:
    """Keep fake modes from telling a torch built for CUDA, on a machine that has none, that there are eight GPUs.

    A trace has no tensor on them, and autograd would start a thread for each, after which no fork of this process could
    run a backward pass (see `estimator.trace.isolate`).
    Source: `FakeTensorMode.__enter__` (2.11, 2.15); c10/core/impl/DeviceGuardImplInterface.cpp,
    `ensureCUDADeviceGuardSet`; torch/csrc/autograd/engine.cpp, `Engine::start_device_threads`.
    """
    before = torch._C._ensureCUDADeviceGuardSet  # type: ignore[attr-defined]
    torch._C._ensureCUDADeviceGuardSet = lambda: None  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._ensureCUDADeviceGuardSet = before  # type: ignore[attr-defined]


class _Info(NamedTuple):
    """One result of an op."""

    shape: Any
    stride: Any
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool = False
    alias: int | None = None
    """Number of the argument whose storage it lies in, at..."""
    offset: int = 0
    """...this place, in elements."""


class _Hit(NamedTuple):
    """What an op gave for arguments like these."""

    infos: tuple[_Info | int | None, ...]
    """An int is the number of the argument that is given back, None is None."""
    is_tuple: bool


class Fakes(FakeTensorMode):
    """The mode of a trace.

    What it has found before it makes again at once (`_hits`). Of what is new a rule may know the result
    (`estimator.trace.quick`); all else goes torch's way, whose own cache decides what may be kept.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._hits: dict[tuple[Any, ...], _Hit] = {}
        self._entry: tuple[int, Any] | None = None
        """Identity of the arguments (which must not be kept alive) and entry, where torch's cache had or took one."""
        self._attributes: dict[torch.device, dict[str, Any]] = {}
        """What torch lets a new fake tensor carry, by device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled in a trace."""
        return False

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Give what an op gives."""
        kwargs = kwargs or {}
        key = self._key(func, args, kwargs)
        if key is None:
            lifted = self._lifted(args[0]) if func is _LIFT else None
            return super().dispatch(func, types, args, kwargs) if lifted is None else lifted
        hit = self._hits.get(key)
        if hit is None:
            hit = self._by_rule(func, args, kwargs)
            if hit is None:
                return self._torchs(key, func, types, args, kwargs)
            self._hits[key] = hit
        out = self._made_again(hit, args)
        if self.cache_crosscheck_enabled:
            with disable_fake_tensor_cache(self):
                self._crosscheck_cache_output(out, func, types, args, kwargs)
        return out

    def again(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The same, for one who stands before this mode in torch's dispatch; `NotImplemented` of what is new here."""
        key = None if self.cache_crosscheck_enabled else self._key(func, args, kwargs)
        hit = None if key is None else self._hits.get(key)
        return NotImplemented if hit is None else self._made_again(hit, args)

    def _made_again(self, hit: _Hit, args: Any) -> Any:
        made = [self._made(info, args) for info in hit.infos]
        return tuple(made) if hit.is_tuple else made[0]

    def _key(self, func: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
        """All that a result hangs on, if that is plain. Source: `FakeTensorMode._cache_key`."""
        if (
            self.shape_env is not None
            or self.in_kernel_invocation
            or not self.cache_enabled
            or func in _ASKS
            or args.__class__ is not tuple
            or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None  # type: ignore[attr-defined]
        ):
            return None
        said: list[Any] = [func, torch.get_default_dtype(), torch._C._get_default_device(), torch.is_inference_mode_enabled()]  # type: ignore[attr-defined]
        if not self._describe(args, said):
            return None
        for name, value in kwargs.items():
            said.append(name)
            if not self._describe((value,), said):
                return None
        return tuple(said)

    def _describe(self, args: Any, said: list[Any]) -> bool:
        """Write down plain arguments; False where one is not."""
        said.append(len(args))
        for arg in args:
            kind = arg.__class__
            if kind is FakeTensor:
                if not _is_plain(arg, self):
                    return False
                said += (
                    arg.dtype, arg.shape, arg.stride(), arg.fake_device, arg.storage_offset(),
                    arg.untyped_storage().nbytes(), arg.requires_grad, arg.is_inference(),
                )  # fmt: skip
            elif kind in _PLAIN:
                said += (kind, arg)  # 1 and 1.0 are equal and yet lead to other dtypes
            elif (kind is list or kind is tuple) and self._describe(arg, said):
                pass
            else:
                return False
        return True

    def _by_rule(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Hit | None:
        """What a rule says; it speaks of tensors of one device."""
        if func not in RULES and func not in BY_META:
            return None
        given = [arg for arg in args if arg.__class__ is FakeTensor]
        if not given or any(t.fake_device != given[0].fake_device for t in given) or _has_own_kernel(func):
            return None
        device = given[0].fake_device
        if func in BY_META:
            with in_kernel_invocation_manager(self):
                meta = func(*args, **kwargs)
            alias = 0 if func.is_view or func is _UNSAFE_VIEW else None
            shape, stride = tuple(meta.shape), meta.stride()
            return _Hit((_Info(shape, stride, meta.dtype, device, False, alias, meta.storage_offset()),), False)
        made = RULES[func](args, kwargs)
        return _Hit(tuple(_Info(*m, device) for m in made), len(made) > 1) if made is not None else None

    def _made(self, info: _Info | int | None, args: tuple[Any, ...]) -> Any:
        """A result: new, a view of an argument, or the argument itself."""
        if info is None or isinstance(info, int):
            return None if info is None else args[info]
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            meta = torch.empty_strided(
                info.shape, info.stride, dtype=info.dtype, device="meta", requires_grad=info.requires_grad
            )
            if info.alias is not None:
                meta.set_(args[info.alias].untyped_storage(), info.offset, info.shape, info.stride)
        attributes = self._attributes.get(info.device)
        if attributes is None:
            fake = FakeTensor(self, meta, info.device)
            self._attributes[info.device] = dict(fake.__dict__)
            return fake
        fake = torch.Tensor._make_subclass(
            FakeTensor, meta, info.requires_grad, dispatch_device=True, device_for_backend_keys=info.device
        )
        _GUARD_DATA[self._allow_unsafe_data_ptr_access](fake)
        fake.__dict__.update(attributes)
        return fake

    def _lifted(self, real: Any) -> FakeTensor | None:
        """A fake of a number that Python has made a tensor of (`torch.tensor(0.0)`), which it keeps as its constant.

        Source: `FakeTensorMode._dispatch_impl`, on `lift_fns`; `FakeTensorConverter.from_real_tensor`, 2.11 and 2.13.
        """
        if type(real) is not torch.Tensor or real.shape or real.device != _HOST or real.requires_grad:
            return None
        if self.shape_env is not None or torch.is_inference_mode_enabled():
            return None
        fake: FakeTensor = self._made(_Info((), (), real.dtype, _HOST), ())
        with no_dispatch():
            fake.constant = real.clone()
        self.fake_tensor_converter.add_constant_storage_mapping(fake)
        return fake

    def _torchs(self, key: tuple[Any, ...], func: Any, types: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Go torch's way, and keep what its cache keeps."""
        self._entry = None
        out = super().dispatch(func, types, args, kwargs)
        if self._entry is not None and self._entry[0] == id(args):
            hit = _hit_of(self._entry[1], func)
            if hit is not None:
                self._hits[key] = hit
        return out

    def _make_cache_entry(self, state: Any, key: Any, func: Any, args: Any, *others: Any) -> Any:
        entry = super()._make_cache_entry(state, key, func, args, *others)
        self._entry = id(args), entry
        return entry

    def _output_from_cache_entry(self, state: Any, entry: Any, key: Any, *others: Any) -> Any:
        self._entry = id(others[-1]), entry  # the last are the arguments; 2.15 leaves out the op before them
        return super()._output_from_cache_entry(state, entry, key, *others)


def _hit_of(entry: Any, func: Any) -> _Hit | None:
    """The same of an entry of torch's cache; None where a result is not plain."""
    infos: list[_Info | int | None] = []
    for said in entry.output_infos:
        made = said.metadata
        if said.inplace_idx is not None:
            infos.append(said.inplace_idx)
        elif made is None:
            if said.view_idx is not None or said.constant_value is not None:
                return None
            infos.append(None)
        elif made.layout is not torch.strided or made.is_conj or made.is_neg:
            return None
        else:
            alias = said.view_idx if func.is_view else None
            offset = made.storage_offset if alias is not None else 0
            infos.append(
                _Info(tuple(made.shape), tuple(made.stride), made.dtype, made.device, made.requires_grad, alias, offset)
            )
    return _Hit(tuple(infos), entry.is_output_tuple)


def _has_own_kernel(func: Any) -> bool:
    """Whether the device's semantics have put a fake kernel of their own in the place of torch's."""
    kernel = fake_impls.op_implementations_dict.get(func)
    return kernel is not None and not kernel.__module__.startswith("torch.")


def _is_plain(t: FakeTensor, mode: FakeTensorMode) -> bool:
    return (
        t.fake_mode is mode
        and t.constant is None
        and t.layout is torch.strided
        and not (t.is_conj() or t.is_neg() or t.is_quantized)
    )
