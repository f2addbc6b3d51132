"""Optimizers choose their implementation by the device and type of their parameters; fakes must not mislead them."""

from __future__ import annotations

import sys

import torch
from torch._subclasses.fake_tensor import FakeTensor

from estimator.semantics.overlay import Overlay


def install(overlay: Overlay) -> None:
    """Let `foreach` and `fused` defaults, gradient clipping and the like take fakes for plain CUDA tensors.

    Source: `_foreach_supported_types` in torch/utils/_foreach_utils.py and torch/optim/optimizer.py, 2.13.
    """
    import torch.optim.optimizer as optimizer
    import torch.utils._foreach_utils as foreach

    for module in (optimizer, foreach):
        types = module._foreach_supported_types  # one list, imported by name all over torch: changed in place
        if FakeTensor not in types:
            types.append(FakeTensor)
            overlay.on_exit(lambda types=types: types.remove(FakeTensor))  # type: ignore[misc]


def as_on_cuda(optimizer: torch.optim.Optimizer) -> None:
    """Choose `foreach` for a native optimizer as torch does for CUDA parameters, unless the user has chosen.

    Source: `_default_to_fused_or_foreach` in torch/optim/optimizer.py, 2.13: on CUDA, `foreach` where neither it
    nor `fused` is set and `differentiable` is off. Optimizers outside of torch are left alone, and those of torch that do
    not ask it: Adafactor goes parameter by parameter unless told otherwise (`adafactor` in torch/optim/_adafactor.py).
    """
    from torch.optim.optimizer import _get_foreach_kernels_supported_devices

    if not type(optimizer).__module__.startswith("torch.optim"):
        return
    owner = next(c for c in type(optimizer).__mro__ if "step" in vars(c))  # AdamW's is that of Adam
    if not hasattr(sys.modules[owner.__module__], "_default_to_fused_or_foreach"):
        return
    if "cuda" not in _get_foreach_kernels_supported_devices():
        return
    for group in (optimizer.defaults, *optimizer.param_groups):
        if group.get("foreach", False) is None and not group.get("fused") and not group.get("differentiable"):
            group["foreach"] = True
