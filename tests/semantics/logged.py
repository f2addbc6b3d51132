"""Run a function on fakes under CUDA's semantics and list the ops it dispatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from estimator.device import DeviceProfile, Target
from estimator.semantics import DEVICE, Overlay, cuda_semantics

UNTOLD = {"prim.device.default", "aten.detach.default"}
VIEWS = {"t", "view", "expand", "transpose", "slice", "select", "unsqueeze", "squeeze", "_unsafe_view", "permute", "as_strided", "alias"}


def target(capability: tuple[int, int] = (8, 0), version: str = "2.11.0") -> Target:
    profile = DeviceProfile(
        name="made-up", kind="cuda", total_bytes=80 << 30, compute_capability=capability, multiprocessor_count=108
    )
    return Target(device=profile, torch_version=version)


class Log(TorchDispatchMode):
    """Ops that give a tensor on the device, as `name` or `name dtype[shape], ...`; host results end in `@host`."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if str(func) in UNTOLD:
            return out
        with torch._C.DisableTorchFunction():
            tensors = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            if tensors and not any(_on_device(t) for t in tensors):
                return out
            name = str(func).removeprefix("aten.").removesuffix(".default")
            self.names.append(name)
            self.ops.append(" ".join([name, ", ".join(_spec(t) for t in tensors)]).strip())
        return out

    @property
    def kernels(self) -> list[str]:
        """Names without overloads, without views."""
        names = [n.partition(".")[0] for n in self.names]
        return [n for n in names if n not in VIEWS]


def _on_device(t: torch.Tensor) -> bool:
    return isinstance(t, FakeTensor) and t.fake_device == DEVICE


def _spec(t: torch.Tensor) -> str:
    shape = ",".join(map(str, t.shape))
    return f"{str(t.dtype).removeprefix('torch.')}[{shape}]" + ("" if _on_device(t) else "@host")


def run(
    function: Callable[[], Any], capability: tuple[int, int] = (8, 0), version: str = "2.11.0", overlays: list[Overlay] | None = None
) -> Log:
    """Run `function` on fakes on the device and log it; `cuda` is its default device."""
    log = Log()
    with cuda_semantics(target(capability, version)) as overlay, FakeTensorMode(allow_non_fake_inputs=True):
        if overlays is not None:
            overlays.append(overlay)
        with log:
            function()
    return log


def run_with_values(function: Callable[[], Any], capability: tuple[int, int] = (8, 0)) -> None:
    """Run under the tracer's own recorder, which follows the values of small tensors."""
    from estimator.graph import StepGraph
    from estimator.trace.fakes import Fakes
    from estimator.trace.paths import ModulePaths
    from estimator.trace.recorder import Recorder

    mode = Fakes(allow_non_fake_inputs=True)
    with cuda_semantics(target(capability)), mode, Recorder(StepGraph(1), mode, ModulePaths(), whole_host=False):
        function()
