"""Read an op's arguments as its schema names them; what a call leaves out has the schema's default."""

from __future__ import annotations

from typing import Any

from estimator.graph import Op, TensorSpec

_REDUCED = ("float16", "bfloat16")
_FLOATING = (*_REDUCED, "float32", "float64", "complex32", "complex64", "complex128")


def argument(op: Op, index: int, name: str, default: Any = None) -> Any:
    """The argument called `name`, at place `index` of the schema."""
    if index < len(op.args):
        return op.args[index]
    return op.kwargs.get(name, default)


def tensor(op: Op, index: int, name: str) -> TensorSpec | None:
    """The same, where it is a tensor; None where it is none or not given."""
    value = argument(op, index, name)
    return value if isinstance(value, TensorSpec) else None


def dtype_name(value: Any, default: str) -> str:
    """A dtype's name (`float32`) from whatever the trace kept of it, `default` where nothing was given."""
    return default if value is None else str(value).removeprefix("torch.")


def is_reduced(dtype: str) -> bool:
    """Whether it is one of the 16-bit floats, which kernels accumulate in float32."""
    return dtype in _REDUCED


def is_integral(dtype: str) -> bool:
    return dtype not in _FLOATING


def accumulate_bytes(dtype: str) -> int:
    """Bytes of the type in which CUDA kernels accumulate.

    Source: aten/src/ATen/AccumulateType.h, `AccumulateTypeDevice<scalar_t, CUDA>`.
    """
    sizes = {"float64": 8, "complex64": 8, "complex128": 16, "complex32": 8}
    return sizes.get(dtype, 8 if is_integral(dtype) else 4)


def reduced_dims(dim: Any, ndim: int) -> frozenset[int]:
    """The dimensions that `dim` (None, an int or a tuple) names; none named means all of them."""
    if dim is None or dim == ():
        return frozenset(range(ndim))
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    return frozenset(d % ndim for d in dims) if ndim else frozenset()
