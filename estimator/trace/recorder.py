"""The thin dispatch mode: every ATen call and the life of every storage become lines of a `StepGraph`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)
from torch.utils._python_dispatch import TorchDispatchMode

from estimator.errors import DataDependentError
from estimator.graph import Op, StepGraph, StorageEvent, TensorSpec
from estimator.ledger import Category
from estimator.trace import sparse
from estimator.trace.assumed import AssumedNumbers
from estimator.trace.bounds import check_rows
from estimator.trace.checks import asks_for_truth, passing_answer
from estimator.trace.explain import no_fake_kernel
from estimator.trace.fakes import Fakes
from estimator.trace.lists import NOT_DONE, run_on_lists
from estimator.trace.paths import ModulePaths
from estimator.trace.results import DEVICE, HOST, collect, with_their_arguments
from estimator.trace.shapes import SHAPED, shaped, with_places
from estimator.trace.values import READERS, Follower, known_value, set_known
from estimator.trace.wrappers import any_wrapper, is_composite, parts

_GIVE_HOST_TENSORS = ("aten::_scaled_dot_product", "aten::_flash_attention", "aten::_efficient_attention",
                      "aten::_pack_padded_sequence")  # fmt: skip
"""Ops on the device some of whose results are on the host: seeds of dropout, batch sizes."""

_DEVICE_OF = torch.ops.prim.device.default
_READ_NUMBER = torch.ops.aten._local_scalar_dense.default
_TO_COPY = torch.ops.aten._to_copy.default


_WITHOUT_RESULT = (UnsupportedOperatorException, DynamicOutputShapeException, NotImplementedError)
"""What torch raises where an op cannot be run on fakes."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records ops on and storages of the target device; with `whole_host`, of the host too (a CPU target).

    A storage is born when an op first returns it and dies when its Python object is collected, so that lifetimes
    are those of the real autograd engine and the user's own frames.
    """

    def __init__(self, graph: StepGraph, fake_mode: Fakes, paths: ModulePaths, *, whole_host: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.values = Follower(host_is_apart=not whole_host)
        self.phase = ""
        self.recording = True
        self.on_unknown: Callable[[Any], Any] | None = None
        """Asked for the result of an op that reads values, or has no fake kernel; None where it does not know."""
        self.own_check: Callable[[], bool | None] = lambda: None
        """What a check within an op of torch must hear to go on; None where no such op runs."""
        self.on_backward: Callable[[], None] | None = None
        """Told of each op that autograd's backward pass runs."""
        self._fake_mode = fake_mode
        self._paths = paths
        self.assumed = AssumedNumbers(graph, self._at_hand)
        self.whole_host = whole_host
        self.device = HOST if whole_host else DEVICE
        """Where the traced program's tensors are."""
        self._live: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._born = 0
        self._dtype_names: dict[torch.dtype, str] = {}
        self._sparse = sparse.SparseOps(self._warn, self._note_alone)

    # ------------------------------------------------------------ phases and roles

    def mark(self, phase: str) -> None:
        """Begin a phase."""
        self.phase = phase
        self.graph.phases.append((phase, len(self.graph.events)))

    def start_over(self) -> None:
        """Forget all that was recorded in this phase, the first; what is left of it dies unseen."""
        graph = self.graph
        graph.ops, graph.events, graph.phases = [], [], [(self.phase, 0)]
        graph.categories.clear()
        graph.names.clear()
        self._live, self._born = {}, 0

    def label(self, tensor: Tensor, category: Category, name: str = "") -> None:
        """Say what the storage of `tensor` is for. The first label that is given stays."""
        if tensor.layout is torch.sparse_coo:
            tensor = tensor._values()
        for part in parts(tensor):
            entry = self._live.get(part.untyped_storage()._cdata) if part.layout is torch.strided else None
            if entry is not None:
                self.graph.categories.setdefault(entry[1], category)
                if name:
                    self.graph.names.setdefault(entry[1], name)

    def adopt(self, tensor: Tensor) -> None:
        """Record the storage of a tensor that no recorded op made."""
        for part in parts(tensor):
            if self._on_device(part) and part.layout is torch.strided:
                self._storage_of(part, -1)

    # ------------------------------------------------------------ storages

    def _on_device(self, t: Tensor) -> bool:
        if isinstance(t, FakeTensor):  # of the meta device it is where the program asks for that: it takes nothing
            return t.fake_device == DEVICE or (self.whole_host and t.fake_device.type != "meta")
        return self.whole_host or t.device == DEVICE or t.device.type == "meta"

    def _storage_of(self, t: Tensor, op: int) -> int:
        storage = t.untyped_storage()
        key = storage._cdata
        entry = self._live.get(key)
        if entry is not None:
            return entry[1]
        number, self._born = self._born, self._born + 1
        size = storage.nbytes()
        events, live = self.graph.events, self._live

        def dead(_: Any) -> None:
            live.pop(key, None)
            events.append(StorageEvent(False, number, size, len(self.graph.ops) - 1))

        live[key] = (weakref.ref(storage, dead), number)
        events.append(StorageEvent(True, number, size, op))
        return number

    # ------------------------------------------------------------ ops

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would wrap each call in switches of its compiler, and nothing is compiled in a trace."""
        return False

    def _spec(self, t: Tensor) -> TensorSpec:
        name = self._dtype_names.get(t.dtype)
        if name is None:
            name = self._dtype_names[t.dtype] = str(t.dtype).removeprefix("torch.")
        entry = self._live.get(t.untyped_storage()._cdata) if t.layout is torch.strided else None
        stride = t.stride() if t.layout is torch.strided else ()
        return TensorSpec(
            name, tuple(t.shape), stride, -1 if entry is None else entry[1], t.__dict__.get("_source", -1)
        )

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._spec(value)
        if isinstance(value, (list, tuple)):
            return tuple(self._plain(v) for v in value)
        if value is None or isinstance(value, (int, float, bool, str)):
            return value
        return str(value)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE_OF:  # asked by torch's C++ as often as all ops together; no op of the program
            return args[0].fake_device if isinstance(args[0], FakeTensor) else args[0].device
        kwargs = kwargs or {}
        if any_wrapper(types):
            return NotImplemented  # it takes itself apart, and its parts come here
        if is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        if self._sparse.takes(func, args):
            with self:
                out = self._sparse.run(func, args, kwargs)
            if out is not sparse.NOT_DONE:
                return out
        if not self.recording:
            with torch._C.DisableTorchFunction():
                return self._run(func, args, kwargs)
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward and self.on_backward is not None:
            self.on_backward()
        with torch._C.DisableTorchFunction():  # the modes that user code runs under need not see us look
            specs = self._plain(args), {k: self._plain(v) for k, v in kwargs.items()}
            out = self._run(func, args, kwargs)
            self._note(func, args, specs, out, in_backward)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], specs: tuple[Any, Any], out: Any, in_backward: bool) -> None:
        """Write down an op that has run, if it is one of the device's and no mere reading of a number (`tolist` makes
        as many of these as there are samples)."""
        if func is _READ_NUMBER:
            return
        index = len(self.graph.ops)
        outputs: list[TensorSpec] = []
        tensors: list[Tensor] = []
        collect(out, tensors)
        born: list[Tensor] = []
        for t in tensors:
            if self._on_device(t):
                if t.layout is torch.strided:
                    self._storage_of(t, index)
                born.append(t)
        if not born and (tensors or not self._touches_device(args)):
            return
        for t in tensors:
            t._source = index  # type: ignore[attr-defined]
            outputs.append(self._spec(t))
        self.graph.ops.append(
            Op(
                str(func),
                specs[0],
                specs[1],
                tuple(outputs),
                self._paths.of_op(in_backward),
                self.phase,
                in_backward,
                len(self.graph.events),
            )
        )

    def _note_alone(self, name: str, args: tuple[Any, ...]) -> None:
        """Write down a call that is made within an op, for the scratch it takes."""
        path, in_backward = self._paths.of_op(False), torch._C._current_graph_task_id() != -1
        end = len(self.graph.events)
        self.graph.ops.append(Op(name, self._plain(args), {}, (), path, self.phase, in_backward, end))

    def _warn(self, code: str, text: str) -> None:
        if (code, text) not in self.graph.warnings:
            self.graph.warnings.append((code, text))

    def _touches_device(self, args: tuple[Any, ...]) -> bool:
        """Whether an op without results (foreach and fused ops in place) works on device tensors."""
        given: list[Tensor] = []
        collect(args, given)
        return bool(given) and self._on_device(given[0])

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in READERS:
            told = None if self.on_unknown is None else self.on_unknown(func)
            real = self.values.read(func, args, kwargs)
            real = told if real is None else real
            if real is None and asks_for_truth(func, args):
                real = self.own_check()
                real = passing_answer() if real is None else real
            if real is None and func is _READ_NUMBER:
                real = self.assumed.number(args[0])
            if real is None and (found := self._of_known_shape(func, args)) is not None:
                return found
            if real is None:
                raise DataDependentError(f"the step reads values that only a real run has: {func}", got=str(func))
            return self._fake_like(real, args)
        if func is _TO_COPY and args[0].is_meta and not isinstance(args[0], FakeTensor):
            # A model being built looks at numbers it has just computed (`tolist`): torch first copies them to the host.
            real = known_value(args[0])
            if real is not None and torch.device(kwargs.get("device") or "meta").type == "cpu":
                return real.clone()
        args = with_places(func, args, known_value, self._fake_beside)
        check_rows(func, args, known_value, self._paths.current)
        if (found := self._of_known_shape(func, args)) is not None:
            return found
        out = run_on_lists(func, args, self._fake_mode)
        if out is NOT_DONE and (out := self._fake_mode.again(func, args, kwargs)) is NotImplemented:
            try:
                out = func(*args, **kwargs)
            except RuntimeError as error:
                if not isinstance(error, _WITHOUT_RESULT) and not no_fake_kernel(error):
                    raise
                told = None if self.on_unknown is None else self.on_unknown(func)
                if told is None:
                    raise
                return self._fake_like(told, args)
        if not self.whole_host and "device" not in kwargs and not func._schema.name.startswith(_GIVE_HOST_TENSORS):
            with_their_arguments(args, out)
        self.values.follow(func, args, kwargs, out)
        if isinstance(out, FakeTensor) and out.constant is not None:
            # Torch's own following of constants forgets the device index that tells device from host; ours does not.
            out.constant = None
        return out

    def _of_known_shape(self, func: Any, args: tuple[Any, ...]) -> Any:
        """What an op gives whose result's shape hangs on values, where these tell it; else None."""
        if func not in SHAPED:
            return None
        with self._fake_mode:
            return shaped(func, args, known_value, self._warn)

    def _at_hand(self, t: Tensor) -> Tensor | None:
        """The numbers that a fake stands for, unless a real run is to tell what is read."""
        if self.on_unknown is not None or t.__class__ is not FakeTensor:
            return None
        return known_value(t)

    def _fake_beside(self, real: Tensor, other: Tensor) -> Any:
        return self._fake_like(real, (other,))

    def _fake_like(self, real: Any, args: tuple[Any, ...]) -> Any:
        """Make fakes of the real results of an op that reads values, on the device of its first tensor."""
        if isinstance(real, Tensor):
            given = next(a for a in args if isinstance(a, Tensor))
            place = given.fake_device if isinstance(given, FakeTensor) else given.device  # not as user code sees it
            with self._fake_mode:
                out = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=place)
            set_known(out, real)
            return out
        return tuple(self._fake_like(r, args) for r in real) if isinstance(real, (tuple, list)) else real
