"""CUDA's autocast over the trace: its cast lists, its weight cache and its state.

The lists hold what `AutocastCUDA` registers; ops that only `AutocastCPU` casts fall through, as they do on CUDA.
Source: include/ATen/autocast_mode.h and aten/src/ATen/autocast_mode.cpp, 2.11 to 2.15.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from estimator.semantics.inference import in_inference_mode
from estimator.semantics.overlay import AUTOCAST, DEVICE, Overlay

LOWER_PRECISION = frozenset(
    ["_convolution.deprecated", "_convolution", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d", "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv", "addr", "matmul", "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell", "_scaled_dot_product_flash_attention", "scaled_dot_product_attention", "cudnn_convolution", "cudnn_convolution_transpose"]
)
FP32 = frozenset(
    ["acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan", "pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar", "softplus", "layer_norm", "native_layer_norm", "rms_norm", "group_norm", "frobenius_norm.dim", "nuclear_norm", "nuclear_norm.dim", "cosine_similarity", "poisson_nll_loss", "cosine_embedding_loss", "nll_loss", "nll_loss2d", "hinge_embedding_loss", "kl_div", "l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss", "margin_ranking_loss", "multilabel_margin_loss", "soft_margin_loss", "triplet_margin_loss", "multi_margin_loss", "binary_cross_entropy_with_logits", "dist", "pdist", "cdist", "renorm", "logsumexp", "upsample_nearest1d", "_upsample_nearest_exact1d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa"]
)
FP32_BESIDE = frozenset({"linalg_matrix_sqrth"})
"""Cast to float32 too, though not of the header's list."""
FP32_SINCE = {"rms_norm": (2, 12), "linalg_matrix_sqrth": (2, 15)}
"""Ops cast to float32 and the release that began to cast them. Source: pytorch pull request 174824 (in 2.12); measured: 2.11
registers no autocast for `rms_norm`; 2.15's kernel for `linalg_matrix_sqrth` makes float32 of bfloat16."""
FP32_SET_OPT_DTYPE = frozenset(
    ["prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "linalg_vector_norm", "linalg_matrix_norm", "linalg_matrix_norm.str_ord", "sum", "sum.dim_IntList"]
)
FP32_APPEND_DTYPE = {
    "norm.Scalar": "ScalarOpt_dtype", "norm.ScalarOpt_dim": "ScalarOpt_dim_dtype",
    "norm.names_ScalarOpt_dim": "names_ScalarOpt_dim_dtype",
}  # fmt: skip
"""The overload with a dtype that each is sent to."""
BY_DIMENSION_NAMES = frozenset(
    ["prod.dim_Dimname", "softmax.Dimname", "log_softmax.Dimname", "cumprod.dimname", "cumsum.dimname", "sum.dim_DimnameList"]
)
"""Overloads of ops of `FP32_SET_OPT_DTYPE` that torch 2.11 and 2.12 have and 2.13 has not."""
PROMOTE = frozenset(
    ["addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put", "tensordot", "scatter_add"]
)
BANNED = frozenset({"binary_cross_entropy"})
ELSEWHERE = frozenset({"_cudnn_rnn"})
"""Registered at AutocastCUDA by files that CPU builds lack; handled in rnn.py."""

_aten = torch.ops.aten
_KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_below = torch._C._ExcludeDispatchKeyGuard
_current_dtype = torch.get_autocast_dtype  # the dispatcher's own, whatever is patched over it later


class Autocast:
    """State of CUDA's autocast. The dispatcher's CPU autocast is its switch; the CPU's own state is kept aside."""

    def __init__(self) -> None:
        self._cache: dict[int, tuple[Tensor, Tensor]] = {}
        self.cpu_enabled = False
        self.cpu_dtype = torch.bfloat16

    @property
    def dtype(self) -> torch.dtype:
        """What lower-precision ops run in."""
        return _current_dtype("cpu")

    def clear_cache(self) -> None:
        """Drop the low-precision copies of parameters."""
        self._cache.clear()

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """Cast what is eligible in an argument: floating tensors of the device, but not float64."""
        if isinstance(value, Tensor):
            return self.cast_tensor(value, dtype)
        if isinstance(value, (list, tuple)):
            return [self.cast(v, dtype) for v in value]
        return value

    def cast_tensor(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        """Cast one tensor; copies of float32 leaves that require gradients are made once until autocast ends."""
        if t.dtype is dtype or not eligible(t):
            return t
        if not (
            dtype is self.dtype
            and t.dtype is torch.float32
            and t.requires_grad
            and t.is_leaf
            and not t._is_view()
            and torch.is_autocast_cache_enabled()
            and not in_inference_mode()
        ):
            return t.to(dtype)
        found = self._cache.get(id(t))
        if found is None:
            with torch.enable_grad():  # so too where the user has switched gradients off: measured with 2.11 and 2.13
                found = self._cache[id(t)] = (t, t.to(dtype))  # `t` is held so that its id stays its own
        return found[1]


def eligible(t: Any) -> bool:
    """Whether autocast may cast `t`, a tensor made of tensors too. Source: `is_eligible` in ATen/autocast_mode.h, 2.13."""
    if t.__class__ is FakeTensor:
        device = t.fake_device
    elif is_traceable_wrapper_subclass(t):
        device = t.device
    else:
        return False
    return t.dtype.is_floating_point and t.dtype is not torch.float64 and device == DEVICE


def install(overlay: Overlay) -> Autocast:
    """Lay CUDA's autocast over the CPU's, switched off and with CUDA's default dtype."""
    state = Autocast()
    known = LOWER_PRECISION | FP32 | FP32_BESIDE | FP32_SET_OPT_DTYPE | BY_DIMENSION_NAMES | set(FP32_APPEND_DTYPE)
    known |= PROMOTE | BANNED | ELSEWHERE
    for name, key in registered():
        if overlay.target.torch_release < FP32_SINCE.get(name, (0, 0)):
            overlay.impl(name, torch.library.fallthrough_kernel, AUTOCAST)
        elif name in LOWER_PRECISION:
            overlay.impl(name, _lower_precision(state, _op(name)), AUTOCAST)
        elif name in FP32 or name in FP32_BESIDE:
            overlay.impl(name, _fp32(state, _op(name)), AUTOCAST)
        elif name in FP32_SET_OPT_DTYPE or name in BY_DIMENSION_NAMES:
            overlay.impl(name, _set_dtype(_op(name)), AUTOCAST)
        elif name in FP32_APPEND_DTYPE:
            overlay.impl(name, _append_dtype(_op("norm." + FP32_APPEND_DTYPE[name])), AUTOCAST)
        elif name in PROMOTE:
            overlay.impl(name, _promote(state, _op(name)), AUTOCAST)
        elif name in BANNED:
            overlay.impl(name, _banned, AUTOCAST)
        elif key == "AutocastCUDA" and name not in known:
            overlay.warn("autocast-unknown-op", f"this torch casts {name} under CUDA's autocast in a way that is not known here")
        elif key == AUTOCAST:
            overlay.impl(name, torch.library.fallthrough_kernel, AUTOCAST)
    _install_state(overlay, state)
    return state


@cache
def registered() -> tuple[tuple[str, str], ...]:
    """(op, key) of all that CUDA's or the CPU's autocast casts in this torch; CUDA's first.

    Asked once a process, of thousands of ops, while no overlay is in force at autocast's keys.
    """
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    names = sorted({n for n in torch._C._dispatch_get_all_op_names() if n.startswith("aten::")})
    on_cuda = [n for n in names if has(n, "AutocastCUDA")]
    on_cpu = [n for n in names if has(n, AUTOCAST) and n not in set(on_cuda) | {f"aten::{f}" for f in FP32_SINCE}]
    on_cuda += [f"aten::{n}" for n in FP32_SINCE if f"aten::{n}" not in on_cuda]  # where the torch that traces is older
    keyed = [(n, "AutocastCUDA") for n in on_cuda] + [(n, AUTOCAST) for n in on_cpu]
    return tuple((name.removeprefix("aten::"), key) for name, key in keyed)


def _op(name: str) -> Any:
    base, _, overload = name.partition(".")
    return getattr(getattr(_aten, base), overload or "default")


# ------------------------------------------------------------ the policies


def _call(op: Any, state: Autocast, dtype: torch.dtype, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Cast the arguments, the last first: so does the C++ that CUDA's wheels are compiled from by gcc."""
    cast_kwargs = {name: state.cast(kwargs[name], dtype) for name in reversed(kwargs)}
    return op(*reversed([state.cast(a, dtype) for a in reversed(args)]), **cast_kwargs)


def _lower_precision(state: Autocast, op: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _below(_KEY):
            dtype = state.dtype
            return _call(op, state, dtype, args, kwargs)

    return kernel


def _fp32(state: Autocast, op: Any) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _below(_KEY):
            dtype = torch.float32
            return _call(op, state, dtype, args, kwargs)

    return kernel


def _set_dtype(op: Any) -> Callable[..., Any]:
    """Set the optional dtype to float32 where it is not given."""
    names = [a.name for a in op._schema.arguments]
    place = names.index("dtype")

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _below(_KEY):
            given = args[place] if len(args) > place else kwargs.get("dtype")
            if given is None and eligible(args[0]):
                args = (*args[:place],) if len(args) > place else args
                kwargs = {**kwargs, "dtype": torch.float32}
            return op(*args, **kwargs)

    return kernel


def _append_dtype(op: Any) -> Callable[..., Any]:
    """Redirect to the overload that takes a dtype."""
    has_dim = "dim" in [a.name for a in op._schema.arguments]

    def kernel(self: Tensor, p: Any = 2, dim: Any = (), keepdim: bool = False) -> Any:
        with _below(_KEY):
            dtype = torch.float32 if eligible(self) else self.dtype
            return op(self, p, dim, keepdim, dtype=dtype) if has_dim else op(self, p, dtype=dtype)

    return kernel


def _promote(state: Autocast, op: Any) -> Callable[..., Any]:
    """Cast everything to the widest type among the arguments."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _below(_KEY):
            tensors = [t for a in args for t in (a if isinstance(a, (list, tuple)) else (a,)) if eligible(t)]
            wide = any(t.dtype is torch.float32 for t in tensors)
            dtype = torch.float32 if wide else state.dtype
            return _call(op, state, dtype, args, kwargs)

    return kernel


def _banned(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError(
        "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast; "
        "use binary_cross_entropy_with_logits"
    )


# ------------------------------------------------------------ the state


def _install_state(overlay: Overlay, state: Autocast) -> None:
    """Let "cuda" mean the switch that the traced tensors obey, and keep "cpu" apart."""
    enabled, set_enabled = torch.is_autocast_enabled, torch.set_autocast_enabled
    dtype_of, set_dtype, clear = torch.get_autocast_dtype, torch.set_autocast_dtype, torch.clear_autocast_cache
    before = enabled("cpu"), dtype_of("cpu")

    def restore() -> None:
        state.clear_cache()
        set_enabled("cpu", before[0])
        set_dtype("cpu", before[1])

    overlay.on_exit(restore)
    set_enabled("cpu", False)
    set_dtype("cpu", dtype_of("cuda"))

    def is_enabled(device_type: str = "cuda") -> bool:
        if device_type == "cpu":
            return state.cpu_enabled
        return enabled("cpu" if device_type == "cuda" else device_type)

    def enable(device_type: Any, value: bool | None = None) -> None:
        if value is None:  # the old form, set_autocast_enabled(bool), means CUDA
            device_type, value = "cuda", bool(device_type)
        if device_type == "cpu":
            state.cpu_enabled = value
        else:
            set_enabled("cpu" if device_type == "cuda" else device_type, value)

    def get_dtype(device_type: str) -> torch.dtype:
        if device_type == "cpu":
            return state.cpu_dtype
        return dtype_of("cpu" if device_type == "cuda" else device_type)

    def choose_dtype(device_type: str, dtype: torch.dtype) -> None:
        if device_type == "cpu":
            state.cpu_dtype = dtype
        else:
            set_dtype("cpu" if device_type == "cuda" else device_type, dtype)

    def clear_cache() -> None:
        state.clear_cache()
        clear()

    for name, function in (
        ("is_autocast_enabled", is_enabled),
        ("set_autocast_enabled", enable),
        ("get_autocast_dtype", get_dtype),
        ("set_autocast_dtype", choose_dtype),
        ("clear_autocast_cache", clear_cache),
        ("get_autocast_gpu_dtype", lambda: get_dtype("cuda")),
        ("set_autocast_gpu_dtype", lambda dtype: choose_dtype("cuda", dtype)),
        ("is_autocast_cpu_enabled", lambda: state.cpu_enabled),
        ("set_autocast_cpu_enabled", lambda value: enable("cpu", value)),
        ("get_autocast_cpu_dtype", lambda: state.cpu_dtype),
        ("set_autocast_cpu_dtype", lambda dtype: choose_dtype("cpu", dtype)),
    ):
        if hasattr(torch, name):
            overlay.patch(torch, name, function)
