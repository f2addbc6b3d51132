"""Torch's fake tensor mode with less work around each op: what it decides, keeps and gives is unchanged.

Most of a trace's time goes to torch's cache of fake results: describing the arguments to it, and making the result it
names. Both are done here for the plain case (strided tensors, numbers, lists of them); any other goes torch's way.
Source: torch/_subclasses/fake_tensor.py, `FakeTensorMode._prep_args_for_hash`, `extract_tensor_metadata`,
`_get_output_tensor_from_cache_entry`, 2.11 and 2.13.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_PLAIN = frozenset([int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format])
_KNOWN = {
    "_prep_args_for_hash": ["self", "result", "args", "state", "id_hashed_objects"],
    "_get_output_tensor_from_cache_entry": ["self", "state", "entry", "key", "func", "args"],
}
"""Parameters of the methods that are replaced: with others, torch has changed, and its own are kept."""


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


class Fakes(FakeTensorMode):
    """The mode of a trace."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled in a trace."""
        return False

    def _prep_args_for_hash(self, result: list[Any], args: Any, state: Any, id_hashed_objects: list[Any]) -> None:
        """Add to `result` all of the arguments that a cached result may hang on."""
        if self.shape_env is not None or self.in_kernel_invocation or args.__class__ not in (list, tuple):
            super()._prep_args_for_hash(result, args, state, id_hashed_objects)
            return
        result.append((args.__class__, len(args)))
        for arg in args:
            kind = arg.__class__
            if kind is FakeTensor and _is_plain(arg, self):
                result.append(
                    (
                        arg.dtype, arg.shape, arg.stride(), arg.fake_device, arg.storage_offset(),
                        arg.untyped_storage().nbytes(), arg.requires_grad, arg.is_inference(),
                    )
                )  # fmt: skip
            elif kind is list or kind is tuple:
                self._prep_args_for_hash(result, arg, state, id_hashed_objects)
            elif kind in _PLAIN:
                result.append((kind, arg))  # 1 and 1.0 are equal and yet lead to other dtypes
            else:
                super()._prep_args_for_hash(result, (arg,), state, id_hashed_objects)

    def _get_output_tensor_from_cache_entry(self, state: Any, entry: Any, key: Any, func: Any, args: Any) -> Any:
        """The result that a cache entry describes: a new tensor, or a view of its argument."""
        made = entry.metadata
        if (
            self.shape_env is not None
            or made is None
            or entry.inplace_idx is not None
            or made.layout is not torch.strided
            or made.is_conj
            or made.is_neg
        ):
            return super()._get_output_tensor_from_cache_entry(state, entry, key, func, args)
        with torch._C._DisableTorchDispatch():  # type: ignore[attr-defined]
            meta = torch.empty_strided(
                made.shape, made.stride, dtype=made.dtype, device="meta", requires_grad=made.requires_grad
            )
            if func.is_view:
                meta.set_(args[entry.view_idx].untyped_storage(), made.storage_offset, made.shape, made.stride)
        return FakeTensor(self, meta, made.device)


def _is_plain(t: FakeTensor, mode: FakeTensorMode) -> bool:
    return (
        t.fake_mode is mode
        and t.constant is None
        and t.layout is torch.strided
        and not (t.is_conj() or t.is_neg() or t.is_quantized)
    )


for _name, _parameters in _KNOWN.items():
    _theirs = getattr(FakeTensorMode, _name, None)
    if _theirs is None or list(inspect.signature(_theirs).parameters) != _parameters:
        delattr(Fakes, _name)
