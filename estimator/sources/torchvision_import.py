"""Import torchvision also where its compiled operators do not load.

The CUDA wheel of torchvision beside a CPU-only torch fails with `operator torchvision::nms does not exist`: its
`_C.so` wants CUDA's libraries, and its Python registers shapes for operators that were then never defined. Nothing of
the compiled code is needed to trace. So the operators' schemas are defined here, torchvision is told that its library
is loaded, and it then registers shapes, derivatives and autocast rules of its own.

Source: the schemas of `TORCH_LIBRARY_FRAGMENT(torchvision, m)` in `torchvision/csrc/ops/*.cpp`, torchvision 0.28.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from estimator.errors import SourceError
from estimator.sources.words import require

_BOXES = "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
_SHAPE = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
_DEFORM = (
    "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, "
    "bool use_mask"
)
_GRAD_BOXES = _BOXES.replace("Tensor input", "Tensor grad")
_GRAD_MAPPED = _GRAD_BOXES.replace("Tensor rois", "Tensor rois, Tensor channel_mapping")
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align({_BOXES}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward({_GRAD_BOXES}, {_SHAPE}, int sampling_ratio, bool aligned) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
    "int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, "
    "bool aligned) -> Tensor",
    f"roi_pool({_BOXES}) -> (Tensor, Tensor)",
    f"_roi_pool_backward({_GRAD_BOXES.replace('Tensor rois', 'Tensor rois, Tensor argmax')}, {_SHAPE}) -> Tensor",
    f"ps_roi_align({_BOXES}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward({_GRAD_MAPPED}, int sampling_ratio, {_SHAPE}) -> Tensor",
    f"ps_roi_pool({_BOXES}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward({_GRAD_MAPPED}, {_SHAPE}) -> Tensor",
    f"deform_conv2d({_DEFORM}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, {_DEFORM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",
    "_cuda_version() -> int",
)

_libraries: list[Any] = []
"""Keeps the definitions alive: a `torch.library.Library` takes them back when it is collected."""


def import_torchvision(required: bool = True) -> ModuleType | None:
    """Import torchvision; define its operators first where its own library does not load.

    Args:
        required: without it, None is returned where torchvision is not installed.

    Raises:
        SourceError: torchvision is absent and required, or does not import even so.
    """
    if not required and sys.modules.get("torchvision", ...) is None:
        return None
    try:
        import torchvision
    except ImportError as error:
        if not required and error.name == "torchvision":
            return None
        return require("torchvision", "torchvision", "torchvision:")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise SourceError(f"torchvision does not import: {error}", hint="install the one for this torch") from error
        _forget_half_imported()
        _define()
        with _library_taken_as_loaded():
            import torchvision
        _register_missing()
    module: ModuleType = torchvision
    return module


@contextmanager
def torchvision_on_demand() -> Iterator[None]:
    """Let whatever imports torchvision, itself or through another library, get it as `import_torchvision` would."""
    if "torchvision" in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder, Loader):
    """Answers the first import of torchvision with the module that `import_torchvision` has made by then."""

    def __init__(self) -> None:
        self._busy = False
        self._own: ModuleSpec | None = None

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "torchvision" or self._busy:
            return None
        self._busy = True
        try:
            module = import_torchvision(required=False)
        finally:
            self._busy = False
        if module is None:
            return None
        self._own = module.__spec__
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules["torchvision"]

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # The import system has just put ours there.


def is_stand_in() -> bool:
    """Whether the operators in this process are the definitions of this file, not torchvision's compiled ones."""
    return bool(_libraries)


def _forget_half_imported() -> None:
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


def _define() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    # -1 is what torchvision's library says when it was built without CUDA; its import compares versions otherwise.
    library.impl("_cuda_version", lambda: -1, "CompositeExplicitAutograd")
    _libraries.append(library)


@contextmanager
def _library_taken_as_loaded() -> Iterator[None]:
    """Let `torchvision.extension` believe that `_C` was loaded; every other library loads as ever."""
    import torch

    load: Any = torch.ops.load_library

    def load_others(path: Any) -> None:
        if not ("torchvision" in str(path) and "_C" in str(path)):
            load(path)

    torch.ops.load_library = load_others  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.ops.load_library = load  # type: ignore[method-assign]


def _register_missing() -> None:
    """Add what the compiled library would have brought: derivatives (before torchvision 0.28), and CPU kernels."""
    from estimator.sources import torchvision_ops

    _libraries.extend(torchvision_ops.register())
