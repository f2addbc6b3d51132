"""The dtype in which an op computes, from those of its arguments.

Source: aten/src/ATen/native/TypeProperties.cpp, `update_result_type_state`, `result_type`; c10/core/ScalarType.cpp,
`promoteTypes`, torch 2.13.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from estimator.graph import TensorSpec

_SIGNED = ("int8", "int16", "int32", "int64")
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_COMPLEX = {"float16": "complex32", "bfloat16": "complex64", "float32": "complex64", "float64": "complex128"}
_REAL = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}
_SHORTER = {"uint16": ("uint8", "bool"), "uint32": ("uint16", "uint8", "bool"), "uint64": ("uint32", "uint16", "uint8", "bool")}


def itemsize(dtype: str) -> int:
    """Bytes of one element."""
    return TensorSpec(dtype, (), ()).itemsize


def number_dtype(value: Any) -> str:
    """Dtype of the tensor that a Python number becomes. Source: ATen/ScalarOps.h, `scalar_to_tensor`."""
    if isinstance(value, bool):
        return "bool"
    return "int64" if isinstance(value, int) else "complex128" if isinstance(value, complex) else "float64"


def number_bytes(value: Any) -> int:
    """Bytes of that tensor."""
    return itemsize(number_dtype(value))


def promote(a: str, b: str) -> str:
    """The dtype that holds both."""
    if a == b:
        return a
    if is_complex(a) or is_complex(b):
        real = promote(_REAL.get(a, a), _REAL.get(b, b))
        return _COMPLEX.get(real, a if is_complex(a) else b)
    if is_floating(a) and is_floating(b):
        if {a, b} == {"float16", "bfloat16"}:
            return "float32"
        return max(a, b, key=_rank)
    if is_floating(a) or is_floating(b):
        return a if is_floating(a) else b
    if "bool" in (a, b):
        return b if a == "bool" else a
    if a in _SIGNED and b in _SIGNED:
        return max(a, b, key=_SIGNED.index)
    return _with_unsigned(a, b)


def _with_unsigned(a: str, b: str) -> str:
    if {a, b} == {"uint8", "int8"}:
        return "int16"
    for wide, short in ((a, b), (b, a)):
        if wide in _SHORTER and short in _SHORTER[wide]:
            return wide
    return max(a, b, key=itemsize)


def _rank(dtype: str) -> int:
    return _FLOATS.index(dtype) if dtype in _FLOATS else -1


def is_complex(dtype: str) -> bool:
    return dtype.startswith("complex")


def is_floating(dtype: str) -> bool:
    return "float" in dtype


def result_dtype(values: Iterable[Any], default: str = "float32") -> str:
    """Dtype in which an op on tensors and Python numbers computes.

    Tensors with dimensions come before those without, these before numbers: a later kind counts only where it is of
    a higher category (floating above integral). `default` is torch's default dtype, which a float number takes.
    """
    groups: list[str | None] = [None, None, None]
    for value in values:
        if isinstance(value, TensorSpec):
            kind, dtype = (0 if value.shape else 1), value.dtype
        elif isinstance(value, (bool, int, float, complex)):
            kind, dtype = 2, number_dtype(value)
            dtype = default if dtype == "float64" else _COMPLEX[default] if dtype == "complex128" else dtype
        else:
            continue
        before = groups[kind]
        groups[kind] = dtype if before is None else promote(before, dtype)
    return _combine(groups[0], _combine(groups[1], groups[2])) or default


def _combine(higher: str | None, lower: str | None) -> str | None:
    if higher is None or lower is None:
        return lower if higher is None else higher
    if is_complex(higher):
        return higher
    if is_floating(higher):
        return _COMPLEX[higher] if is_complex(lower) else higher
    if higher == "bool" or is_floating(lower) or is_complex(lower):
        return promote(higher, lower)
    return higher
