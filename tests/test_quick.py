"""Every rule for the result of an op gives what torch's own fake tensors give, or says nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from estimator.trace.fakes import Fakes
from estimator.trace.quick import BY_META, RULES, in_order

pytestmark = pytest.mark.torch

aten = torch.ops.aten
DEVICE = torch.device("cpu", 0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64)

Layout = tuple[tuple[int, ...], tuple[int, ...], int, torch.dtype]
"""Shape, strides, offset and type."""


@st.composite
def layouts(draw: Any, dims: tuple[int, int] = (0, 4)) -> Layout:
    """Tensors in order, turned, sliced and of none or one element along a dimension."""
    shape = draw(st.lists(st.integers(0, 5), min_size=dims[0], max_size=dims[1]))
    order = draw(st.permutations(range(len(shape)))) if draw(st.booleans()) else list(range(len(shape)))
    step = draw(st.sampled_from([1, 1, 1, 2]))
    strides = [0] * len(shape)
    for d in reversed(order):
        strides[d], step = step, step * max(1, shape[d])
    return tuple(shape), tuple(strides), draw(st.sampled_from([0, 0, 3])), draw(st.sampled_from(DTYPES))


def fake(layout: Layout) -> Tensor:
    shape, strides, offset, dtype = layout
    room = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
    return torch.empty(max(room, 1), dtype=dtype, device=DEVICE).as_strided(shape, strides, offset)


def told(out: Any, given: list[Tensor]) -> Any:
    """All there is to know of results: what they look like, and which argument they share memory with."""
    if isinstance(out, (tuple, list)):
        return [told(o, given) for o in out]
    assert isinstance(out, FakeTensor)
    storage = out.untyped_storage()._cdata
    shares = [i for i, t in enumerate(given) if t.untyped_storage()._cdata == storage]
    steps = [step for step, size in zip(out.stride(), out.shape, strict=True) if size > 1]  # of others no one asks
    return out.shape, steps, out.storage_offset(), out.dtype, out.fake_device, out.requires_grad, shares


def answers(mode: FakeTensorMode, op: Any, arguments: list[Any], kwargs: dict[str, Any]) -> list[Any]:
    """What an op gives twice in a mode; the error where it gives none."""
    with mode:
        args = [fake(a) if isinstance(a, tuple) and a and isinstance(a[0], tuple) else a for a in arguments]
        tensors = [a for a in args if isinstance(a, Tensor)]
        try:
            return [told(op(*args, **kwargs), tensors) for _ in range(2)]
        except (RuntimeError, IndexError, ValueError, AssertionError) as error:
            return [type(error)]


def same(op: Any, *arguments: Any, **kwargs: Any) -> None:
    ours, theirs = (answers(mode(), op, list(arguments), kwargs) for mode in (Fakes, FakeTensorMode))
    if isinstance(ours[0], type) and not isinstance(theirs[0], type):  # 2.11's fakes give an element of nothing
        with pytest.raises((RuntimeError, IndexError)):
            op(*(fake(a) if isinstance(a, tuple) and a and isinstance(a[0], tuple) else a for a in arguments), **kwargs)
    elif isinstance(theirs[0], type):
        assert isinstance(ours[0], type), f"torch refuses {op}{arguments}"
    else:
        assert ours == theirs, f"{op}{arguments}"


ONE = (aten.neg, aten.exp, aten.log, aten.sin, aten.cos, aten.tanh, aten.sigmoid, aten.relu, aten.silu, aten.gelu, aten.sqrt,
       aten.rsqrt, aten.abs)  # fmt: skip
TWO = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.gelu_backward.default,
       aten.silu_backward.default, aten.tanh_backward.default, aten.sigmoid_backward.default)  # fmt: skip
LIKE = (aten.clone, aten.empty_like, aten.zeros_like, aten.ones_like)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ONE), layouts())
def test_of_one_tensor(op: Any, x: Layout) -> None:
    same(op.default, x)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(TWO), layouts(), layouts(), st.booleans())
def test_of_two_tensors(op: Any, x: Layout, y: Layout, alike: bool) -> None:
    same(op, x, x if alike else y)


@settings(max_examples=30, deadline=None)
@given(layouts(), st.sampled_from([0, 0.5]))
def test_of_a_threshold(x: Layout, threshold: float) -> None:
    same(aten.threshold_backward.default, x, x, threshold)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LIKE), layouts(), st.sampled_from([None, torch.float32, torch.float16]), st.booleans())
def test_of_a_tensor_like_another(op: Any, x: Layout, dtype: torch.dtype | None, named: bool) -> None:
    wanted: dict[str, Any] = {} if op is aten.clone or dtype is None else {"dtype": dtype}
    if named and op is not aten.clone:
        wanted |= {"device": DEVICE, "layout": torch.strided, "pin_memory": False}
    same(op.default, x, **wanted)
    same(op.default, x, memory_format=torch.contiguous_format)


@settings(max_examples=60, deadline=None)
@given(layouts(), st.sampled_from(DTYPES), st.booleans())
def test_to_another_type(x: Layout, dtype: torch.dtype, named: bool) -> None:
    same(aten._to_copy.default, x, dtype=dtype, **({"device": DEVICE, "layout": torch.strided} if named else {}))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.sampled_from(DTYPES[:3]), st.booleans(), st.booleans())
def test_products(m: int, k: int, n: int, dtype: torch.dtype, turned: bool, whole_bias: bool) -> None:
    one = (m, k), (1, m) if turned else (k, 1), 0, dtype
    other = (k, n), (1, k) if turned else (n, 1), 0, dtype
    bias = ((m, n), (n, 1), 0, dtype) if whole_bias else ((n,), (1,), 0, dtype)
    same(aten.mm.default, one, other)
    same(aten.addmm.default, bias, one, other)
    same(aten.addmm.default, bias, one, one)
    same(aten.bmm.default, ((2, m, k), (m * k, *one[1]), 0, dtype), ((2, k, n), (k * n, *other[1]), 0, dtype))


@settings(max_examples=40, deadline=None)
@given(layouts(), st.integers(-3, 3), st.booleans())
def test_log_softmax(x: Layout, dim: int, to_float: bool) -> None:
    same(aten._log_softmax.default, x, dim, to_float)
    same(aten._log_softmax_backward_data.default, x, x, dim, torch.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2), st.sampled_from(DTYPES[:3]), st.booleans())
def test_nll_loss(n: int, classes: int, reduction: int, dtype: torch.dtype, weighted: bool) -> None:
    x, target = ((n, classes), (classes, 1), 0, dtype), ((n,), (1,), 0, torch.int64)
    weight = ((classes,), (1,), 0, dtype) if weighted else None
    grad = ((n,) if reduction == 0 else (), (1,) if reduction == 0 else (), 0, dtype)
    same(aten.nll_loss_forward.default, x, target, weight, reduction, -100)
    same(aten.nll_loss_backward.default, grad, x, target, weight, reduction, -100, ((), (), 0, dtype))


VIEWS: tuple[tuple[Any, Callable[[int, int], tuple[Any, ...]]], ...] = (
    (aten.transpose.int, lambda a, b: (a, b)),
    (aten.unsqueeze.default, lambda a, b: (a,)),
    (aten.squeeze.dim, lambda a, b: (a,)),
    (aten.squeeze.dims, lambda a, b: ([a],)),
    (aten.select.int, lambda a, b: (a, b)),
    (aten.slice.Tensor, lambda a, b: (a, b, 3)),
    (aten.view.default, lambda a, b: ([-1],)),
    (aten._unsafe_view.default, lambda a, b: ([-1],)),
    (aten.view.default, lambda a, b: ([a, b],)),
    (aten.expand.default, lambda a, b: ([2, 3, 4, 5][: abs(a) + 1],)),
    (aten.permute.default, lambda a, b: (list(range(abs(b) + 1))[::-1],)),
    (aten.t.default, lambda a, b: ()),
    (aten.detach.default, lambda a, b: ()),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VIEWS), layouts(), st.integers(-3, 3), st.integers(-3, 3))
def test_views(view: tuple[Any, Callable[[int, int], tuple[Any, ...]]], x: Layout, a: int, b: int) -> None:
    op, rest = view
    same(op, x, *rest(a, b))


def test_every_rule_is_tested() -> None:
    tested = {op.default for op in (*ONE, *LIKE)} | set(TWO) | {op for op, _ in VIEWS}
    tested |= {
        aten.threshold_backward.default, aten._to_copy.default, aten.mm.default, aten.bmm.default, aten.addmm.default,
        aten._log_softmax.default, aten._log_softmax_backward_data.default, aten.nll_loss_forward.default,
        aten.nll_loss_backward.default,
    }  # fmt: skip
    assert tested == set(RULES) | BY_META


def test_a_tensor_of_a_number_keeps_it() -> None:
    with Fakes() as mode:
        number = torch.tensor(2.5)
        assert isinstance(number, FakeTensor)
        assert number.fake_mode is mode
        assert number.item() == 2.5
        assert (number * 2).item() == 5.0
        number.fill_(torch.ones((), device=DEVICE) * torch.rand(()))  # from now on nobody knows
        assert number.constant is None


def test_strides_in_order() -> None:
    for shape in ((), (3,), (2, 0, 3), (4, 1, 5)):
        assert in_order(shape) == torch.empty(shape).stride()
