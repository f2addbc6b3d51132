"""Elementwise kernels: numbers become tensors of no dimension, and arguments are cast to one dtype.

Source: aten/src/ATen/TensorIterator.cpp, `compute_types` (casts of outputs and inputs, in operand order, before outputs
are allocated); aten/src/ATen/ScalarOps.h, `wrapped_scalar_tensor`; python_arg_parser.cpp (numbers given for tensors);
ATen/native/ForeachOpsKernels.cpp (lists on a CPU are worked off one by one), torch 2.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from estimator.device import Target
from estimator.graph import Op, TensorSpec
from estimator.scratch.cpu.call import Call
from estimator.scratch.cpu.dtypes import is_complex, is_floating, itemsize, number_bytes, number_dtype, result_dtype
from estimator.scratch.registry import Scratch, rule

_NUMBER = (bool, int, float, complex)

_ARITHMETIC = (
    "add", "sub", "mul", "remainder", "fmod", "floor_divide", "maximum", "minimum", "fmax", "fmin", "gcd", "lcm",
    "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_left_shift", "bitwise_right_shift", "__and__", "__or__", "__xor__",
    "__lshift__", "__rshift__", "logical_and", "logical_or", "logical_xor", "eq", "ne", "lt", "le", "gt", "ge", "heaviside", "hypot", "nextafter", "copysign",
)  # fmt: skip
"""Binary ops that compute in the dtype their arguments promote to."""
_TO_FLOAT = ("div", "true_divide", "atan2", "xlogy", "logaddexp", "logaddexp2")
"""Binary ops that take integers as floats."""
_UNARY_TO_FLOAT = (
    "sqrt", "rsqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "sigmoid", "erf", "erfc", "erfinv", "lgamma", "digamma", "reciprocal",
    "logit", "i0", "sinc",
)  # fmt: skip
_TERNARY = ("addcmul", "addcdiv")


def _overloads(bases: Sequence[str], *overloads: str) -> tuple[str, ...]:
    """Names of the ops and of their in-place variants."""
    bases = [b for base in bases for b in (base, f"{base}_") if not b.endswith("___")]
    return tuple(f"aten.{base}.{overload}" for base in bases for overload in overloads)


def iterate(call: Call, values: Sequence[Any], *, in_place: bool, common: str | None = None, result: bool = True) -> None:
    """Tell what one elementwise kernel takes: tensors for its numbers, casts to `common`, its result.

    `values` are its arguments, the first of which is also its output where it is in place. What it took is freed at
    the end.
    """
    common = common or result_dtype(values)
    taken = [call.take(number_bytes(v)) for v in values if isinstance(v, _NUMBER)]
    first = values[0]
    if in_place and isinstance(first, TensorSpec) and first.dtype != common:
        taken.append(call.take(first.numel * itemsize(common)))
    for value in values:
        dtype = value.dtype if isinstance(value, TensorSpec) else number_dtype(value)
        if dtype != common:
            count = value.numel if isinstance(value, TensorSpec) else 1
            taken.append(call.take(count * itemsize(common)))
    if result and not in_place:
        call.result()
    call.free(*reversed(taken))


def as_float(dtype: str, default: str = "float32") -> str:
    """The dtype in which an op on floats takes a tensor."""
    return dtype if is_floating(dtype) or is_complex(dtype) else default


def is_in_place(op: Op) -> bool:
    """Whether the op writes its result into its first argument."""
    base = op.name.split(".")[1]
    return base.endswith("_") and not base.endswith("__")


@rule(*_overloads(_ARITHMETIC, "Tensor", "Scalar", "Scalar_Tensor", "default", "other"), kind="cpu")
def _arithmetic(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    iterate(call, op.args[:2], in_place=is_in_place(op))
    return call.scratch()


@rule(*_overloads(_TO_FLOAT, "Tensor", "Scalar", "Tensor_mode", "Scalar_mode", "default", "Scalar_Self", "Scalar_Other"), kind="cpu")
def _to_float(op: Op, target: Target) -> list[Scratch]:
    call, common = Call(), result_dtype(op.args[:2])
    if op.kwargs.get("rounding_mode") is None:
        common = as_float(common)
    iterate(call, op.args[:2], in_place=is_in_place(op), common=common)
    return call.scratch()


@rule(*_overloads(_UNARY_TO_FLOAT, "default"), kind="cpu")
def _unary_to_float(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    iterate(call, op.args[:1], in_place=is_in_place(op), common=as_float(op.args[0].dtype))
    return call.scratch()


@rule(*_overloads(_TERNARY, "default"), *_overloads(("lerp",), "Tensor"), kind="cpu")
def _ternary(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    iterate(call, op.args[:3], in_place=is_in_place(op))
    return call.scratch()


@rule("aten.rsub.Scalar", "aten.rsub.Tensor", kind="cpu")
def _rsub(op: Op, target: Target) -> list[Scratch]:
    call = Call()
    iterate(call, op.args[1::-1], in_place=False)
    return call.scratch()


@rule("aten.pow.Tensor_Tensor", "aten.pow_.Tensor", "aten.pow.Tensor_Scalar", "aten.pow_.Scalar", kind="cpu")
def _pow(op: Op, target: Target) -> list[Scratch]:
    """An exponent that is a number goes into the kernel as it is. Source: ATen/native/Pow.cpp."""
    call, common = Call(), result_dtype(op.args[:2])
    given = op.args[:2] if isinstance(op.args[1], TensorSpec) else op.args[:1]
    iterate(call, given, in_place=is_in_place(op), common=common)
    return call.scratch()


@rule("aten.pow.Scalar", kind="cpu")
def _pow_of_number(op: Op, target: Target) -> list[Scratch]:
    """The result comes first. Source: ATen/native/Pow.cpp, `pow_Scalar_out`."""
    call = Call()
    call.result()
    iterate(call, op.args[:2], in_place=False, common=result_dtype(op.args[:2]), result=False)
    return call.scratch() if op.args[0] != 1 else []


@rule("aten.where.self", kind="cpu")
def _where(op: Op, target: Target) -> list[Scratch]:
    """Source: ATen/native/TensorCompare.cpp, `where_self_out`: casts by itself what differs."""
    call = Call()
    iterate(call, op.args[1:3], in_place=False)
    return call.scratch()


@rule("aten.clamp.default", "aten.clamp_.default", "aten.clamp_min.default", "aten.clamp_max.default", kind="cpu")
def _clamp(op: Op, target: Target) -> list[Scratch]:
    """Bounds that are numbers go into the kernel as they are. Source: ATen/native/TensorCompare.cpp."""
    call = Call()
    iterate(call, op.args[:1], in_place=is_in_place(op), common=result_dtype(op.args))
    return call.scratch()


@rule("aten.isinf.default", kind="cpu")
def _isinf(op: Op, target: Target) -> list[Scratch]:
    """`self.abs() == inf`. Source: ATen/native/TensorCompare.cpp."""
    x = op.args[0]
    call = Call()
    if is_floating(x.dtype):
        call.take(x.nbytes)
        iterate(call, (x, float("inf")), in_place=False)
    return call.scratch()


# ------------------------------------------------------------ lists

_LISTED = {"add": _ARITHMETIC, "sub": _ARITHMETIC, "mul": _ARITHMETIC, "div": _TO_FLOAT}


@rule(
    *(f"aten._foreach_{base}{mark}.{overload}" for base in _LISTED for mark in ("", "_") for overload in ("Scalar", "ScalarList", "List", "Tensor")),
    kind="cpu",
)  # fmt: skip
def _foreach_binary(op: Op, target: Target) -> list[Scratch]:
    tensors, others = op.args[:2]
    others = others if isinstance(others, tuple) and not isinstance(others, TensorSpec) else (others,) * len(tensors)
    to_float = "_div" in op.name
    call = Call()
    for pair in zip(tensors, others, strict=True):
        common = result_dtype(pair)
        iterate(call, pair, in_place=is_in_place(op), common=as_float(common) if to_float else common)
    return call.scratch()


@rule("aten.native_dropout.default", kind="cpu")
def _dropout(op: Op, target: Target) -> list[Scratch]:
    """The mask as floats, then the number that the product is scaled by. Source: Dropout.cpp, `native_dropout_cpu`."""
    x, call = op.args[0], Call()
    call.result()
    iterate(call, (x, TensorSpec("bool", x.shape, x.stride)), in_place=False)
    iterate(call, (x, 1.0), in_place=True)
    return call.scratch()


@rule("aten.native_dropout_backward.default", kind="cpu")
def _dropout_backward(op: Op, target: Target) -> list[Scratch]:
    """The product of gradient and mask, which is then scaled. Source: Dropout.cpp, `native_dropout_backward`."""
    grad, mask = op.args[:2]
    call = Call()
    product = call.take(grad.nbytes)
    iterate(call, (grad, mask), in_place=False, result=False)
    iterate(call, (grad, 1.0), in_place=False)
    call.free(product)
    return call.scratch()
