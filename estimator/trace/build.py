"""The user's model on the trace's device: built without memory, or a live module lent for the time of a trace."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._device import DeviceContext

from estimator.errors import JobError
from estimator.ledger import Category
from estimator.trace.recorder import Recorder
from estimator.trace.results import DEVICE
from estimator.trace.values import known_value, set_known

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype in which the weights of a pure low-precision job are made."""


@contextlib.contextmanager
def default_dtype(precision: str) -> Iterator[None]:
    """Make floating-point tensors in the precision's dtype unless told otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES.get(precision, before))
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _OnMeta(DeviceContext):
    """`with torch.device("meta")`, but tensors of Python data are made on the host first: their values are known.

    What is made there is no allocation of the program: the tensor on `meta` stands for it.
    """

    def __init__(self, recorder: Recorder, *, refuses_moves: bool) -> None:
        super().__init__(torch.device("meta"))  # type: ignore[no-untyped-call]
        self._recorder = recorder
        self._refuses_moves = refuses_moves

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MOVE and args[0].is_meta and not isinstance(args[0], FakeTensor):
            return self._moved(func, *args, **kwargs)
        if kwargs.get("device") == DEVICE:
            kwargs["device"] = None  # which stands for it until the model is there
        if func in _FROM_DATA and kwargs.get("device") is None and not (args and isinstance(args[0], Tensor)):
            requires_grad = kwargs.pop("requires_grad", False)
            recording, self._recorder.recording = self._recorder.recording, False
            try:
                made = func(*args, **kwargs)
            finally:
                self._recorder.recording = recording
            return made.to("meta").requires_grad_(requires_grad)
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]

    def _moved(self, func: Any, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A tensor that the factory moves stays where it is, in the type and layout that it asks for."""
        dtype, device, layout = None, None, kwargs.pop("memory_format", None)
        if func is Tensor.to:  # what `cuda()` has become under CUDA's semantics
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs, memory_format=layout)
        if device == DEVICE and self._refuses_moves:
            raise _MovedByFactory
        wanted: dict[str, Any] = {"dtype": dtype, "memory_format": layout, "copy": kwargs.get("copy")}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        return t.to(**wanted) if wanted else t


class _MovedByFactory(BaseException):
    """The factory builds on the host and moves what it has built to the device. No `except Exception` of its own holds it."""


_MOVE = frozenset({Tensor.to, Tensor.cuda, Tensor.cpu})
_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray})


@contextlib.contextmanager
def on_meta(precision: str, recorder: Recorder, *, refuses_moves: bool = False) -> Iterator[None]:
    """Make new tensors on the meta device in the job's dtype, as a model is built.

    With `refuses_moves`, `_MovedByFactory` is raised where one of them is moved to the device.
    """
    with _OnMeta(recorder, refuses_moves=refuses_moves), default_dtype(precision):
        yield


def make_model(given: Any, precision: str, recorder: Recorder, *, on_device: bool) -> tuple[nn.Module, bool]:
    """Call the job's factory under the meta device, or take its live module.

    With `on_device` the factory's own allocations are recorded, in its order; not those of a factory that moves what it
    has built to the device (`Net().to("cuda")`), which builds it on the host: that one is called again.

    Returns:
        The model, and whether its building is recorded (as that of a live module would be).

    Raises:
        JobError: what comes out is no `nn.Module`.
    """
    if isinstance(given, nn.Module):
        return given, on_device
    model, is_moved = None, False
    recorder.recording = on_device
    try:
        with on_meta(precision, recorder, refuses_moves=on_device and not recorder.whole_host), recorder:
            model = given()
    except _MovedByFactory:
        is_moved = True
    finally:
        recorder.recording = True
    if is_moved:
        recorder.start_over()
        return make_model(given, precision, recorder, on_device=False)
    if not isinstance(model, nn.Module):
        raise JobError(
            "the model factory gives no nn.Module",
            got=type(model).__name__,
            where="TrainingJob.model",
            allowed="an nn.Module or a function of no arguments that returns one",
        )
    return model, on_device


class _Faker:
    """Makes one fake on the trace's device for each tensor; what shared storage keeps sharing it."""

    def __init__(self, mode: FakeTensorMode, precision: str, device: torch.device, *, live: bool) -> None:
        self._mode, self._device, self._live = mode, device, live
        self._dtype = DTYPES.get(precision)
        self._made: dict[int, Tensor] = {}
        self._storages: dict[int, Tensor] = {}
        self._kept: list[Tensor] = []

    def __call__(self, t: Tensor) -> Tensor:
        if id(t) in self._made:
            return self._made[id(t)]
        if isinstance(t, FakeTensor):
            fake: Tensor = t
        else:
            shares = t.is_meta and not self._live  # what the trace has built is what it has recorded
            fake = FakeTensor(self._mode, t.detach() if shares else self._like(t), self._device)
            values = known_value(t)
            if values is not None:
                set_known(fake, values.detach().clone())
        if isinstance(t, nn.Parameter):
            extra = {k: v for k, v in t.__dict__.items() if k != "_known"}
            fake = nn.Parameter(fake, t.requires_grad)
            fake.__dict__.update({k: v for k, v in extra.items() if k not in fake.__dict__})
        self._made[id(t)] = fake
        self._kept.append(t)  # an id is only good while its object lives
        return fake

    def forget(self) -> None:
        """Let go of all fakes: from here on only the program keeps them."""
        self._made.clear()
        self._storages.clear()
        self._kept.clear()

    def _like(self, t: Tensor) -> Tensor:
        """A meta tensor with the layout of a real one, on one meta storage for each real storage."""
        dtype = self._dtype if self._dtype is not None and t.is_floating_point() else t.dtype
        storage = t.untyped_storage()
        count = storage.nbytes() // t.element_size()
        base = self._storages.get(storage._cdata)
        if base is None or base.dtype != dtype:
            base = self._storages[storage._cdata] = torch.empty(count, dtype=dtype, device="meta")
        return base.as_strided(t.shape, t.stride(), t.storage_offset())


class _Twins:
    """Stands in for each tensor without data by another one, the same for the same, and leaves all else alone."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta or isinstance(value, FakeTensor):
            return value
        if nn.parameter.is_lazy(value):
            return value
        if id(value) not in self._made:
            twin = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            if isinstance(value, nn.Parameter):
                twin = nn.Parameter(twin, value.requires_grad)
            self._made[id(value)] = (twin, value)
        return self._made[id(value)][0]

    def forget(self) -> None:
        """Let go of the tensors that were stood in for."""
        self._made.clear()


@contextlib.contextmanager
def lent(
    model: nn.Module, mode: FakeTensorMode, precision: str, device: torch.device, *, live: bool
) -> Iterator[None]:
    """Swap every parameter and buffer of `model` for a fake on `device`, and give everything back at the end.

    Every module's whole `__dict__` comes back too, so that attributes a forward sets leave nothing behind. Nothing kept
    for that is a tensor that the trace has recorded: what the program itself lets go must die in the trace.

    Args:
        model: whose tensors are swapped.
        mode: of the fakes.
        precision: of the job.
        device: of the fakes.
        live: the model is the user's own object; otherwise the trace has built it.
    """
    faker = _Faker(mode, precision, device, live=live)
    twins = _Twins()
    aside: Callable[[Any], Any] = (lambda value: value) if live else twins
    before = [
        (
            m,
            {k: {i: aside(x) for i, x in v.items()} if isinstance(v, dict) else aside(v) for k, v in m.__dict__.items()},
            {k: v for k, v in m.__dict__.items() if isinstance(v, dict)},
        )
        for m in model.modules()
    ]
    twins.forget()
    try:
        for module in model.modules():
            slots: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in slots:
                for name, t in held.items():
                    if t is not None and not nn.parameter.is_lazy(t):
                        held[name] = faker(t)
            for name, value in list(module.__dict__.items()):
                if isinstance(value, Tensor):
                    module.__dict__[name] = faker(value)
        slots, held, t, value = (), {}, None, None  # nor may this frame keep the last of them
        faker.forget()
        yield
    finally:
        for module, attributes, dicts in before:
            module.__dict__.clear()
            for name, value in attributes.items():
                if name in dicts:
                    dicts[name].clear()
                    dicts[name].update(value)
                    value = dicts[name]
                module.__dict__[name] = value


def in_move_order(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers in the order in which `Module.to` moves them: children first.

    Source: torch/nn/modules/module.py, Module._apply, 2.13.
    """
    seen: set[int] = set()

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        for name, child in module._modules.items():
            if child is not None:
                yield from walk(child, f"{prefix}{name}.")
        for held in (module._parameters, module._buffers):
            for name, t in held.items():
                if t is not None and id(t) not in seen and not nn.parameter.is_lazy(t):
                    seen.add(id(t))
                    yield f"{prefix}{name}", t

    yield from walk(model, "")


def register_storages(model: nn.Module, recorder: Recorder, *, live: bool) -> None:
    """Record the storages that the trace has not seen being made, and say which are parameters and buffers."""
    for _, t in in_move_order(model) if live else ():
        recorder.adopt(t)
    for name, p in model.named_parameters():
        recorder.adopt(p)
        recorder.label(p, Category.PARAMETER, name)
    for name, b in model.named_buffers():
        recorder.adopt(b)
        recorder.label(b, Category.BUFFER, name)
