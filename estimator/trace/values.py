"""Values that are known although no kernel runs: small integer, boolean and tiny tensors made from constants.

Models branch on such values (is the attention mask all ones? how wide is layer 3?), and so decide what is
allocated. Beside a fake tensor travels a real one on the host, in `_known`, as long as every input of the
op that made it was known too. Views of it share its memory, so in-place ops reach all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

from estimator.trace.constants import FILLERS, makes_constant
from estimator.trace.results import collect
from estimator.trace.uniform import healthy_result, looks_for_nan, may_be_uniform, uniform_result

DISCRETE_LIMIT_COUNT = 1 << 23
"""Elements up to which integers, booleans and constants are followed: token batches and masks, not images."""
TINY_LIMIT_COUNT = 1 << 12
"""Elements up to which tensors of any type are followed: schedules, scalars."""

_aten = torch.ops.aten
# Ops that write into a tensor what only data can tell, but whose written value is known for a step that goes
# well: no overflow was found, the loss scale stays. Source: torch/amp/grad_scaler.py, 2.13.
_GOES_WELL = frozenset({_aten._amp_foreach_non_finite_check_and_unscale_.default, _aten._amp_update_scale_.default})
READERS = frozenset(
    {
        _aten._local_scalar_dense.default,
        _aten.equal.default,
        _aten.is_nonzero.default,
        _aten.nonzero.default,
        _aten.masked_select.default,
        _aten._unique2.default,
        _aten.unique_consecutive.default,
        _aten.unique_dim.default,
        _aten.repeat_interleave.Tensor,
        _aten.bincount.default,
    }
)
"""Ops whose result, or the shape of whose result, depends on values."""


class Known:
    """A real tensor on the host with the values of a fake one. `valid` is shared by all views of one storage."""

    __slots__ = ("tensor", "valid")

    def __init__(self, tensor: Tensor, valid: list[bool] | None = None) -> None:
        self.tensor = tensor
        self.valid = [True] if valid is None else valid


def known_value(t: Any) -> Tensor | None:
    """The real values of `t`, or None where they are not known."""
    if not isinstance(t, Tensor):
        return None
    known = t.__dict__.get("_known")
    if known is not None:
        return known.tensor if known.valid[0] else None
    return t if t.device.type == "cpu" and not isinstance(t, FakeTensor) else None


def set_known(t: Tensor, value: Tensor) -> None:
    """Let `t` carry `value` (same shape) if it is small enough to be followed."""
    if _small(t):
        t._known = Known(value)  # type: ignore[attr-defined]


def is_discrete(t: Tensor) -> bool:
    """Whether `t` holds integers or booleans."""
    return not (t.dtype.is_floating_point or t.dtype.is_complex)


def _filled(like: Tensor, value: Any) -> Tensor:
    """A host tensor of one value: of its own memory where it is small, so that it can be written to; else of none."""
    if _small(like):
        return torch.full(like.shape, value, dtype=like.dtype)
    return torch.full((), value, dtype=like.dtype).expand(like.shape)


def _small(t: Tensor) -> bool:
    count = t.numel()
    return count <= TINY_LIMIT_COUNT or (count <= DISCRETE_LIMIT_COUNT and is_discrete(t))


def _to_known(value: Any) -> Any:
    """The arguments of an op with the real values of its tensors."""
    return tree_map_only(Tensor, known_value, value)


def _on_host(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: (torch.device("cpu") if k == "device" and v is not None else v) for k, v in kwargs.items()}


class _Kind(NamedTuple):
    """What there is to know of an op, looked up once."""

    mutable: bool
    """It writes to an argument."""
    random: bool
    """It draws random numbers."""
    view: bool
    may_be_uniform: bool
    looks_for_nan: bool
    filler: Callable[[tuple[Any, ...]], Any] | None


class Follower:
    """Computes known values beside the fake ops.

    `random_is_known`: also those of random integer ops, while the host makes its batch. `host_is_apart`: tensors
    without a device index are the host's own, not the device's.
    """

    def __init__(self, *, host_is_apart: bool) -> None:
        self.random_is_known = False
        self._host_is_apart = host_is_apart
        self._kinds: dict[Any, _Kind] = {}

    def _kind(self, func: Any) -> _Kind:
        found = self._kinds.get(func)
        if found is None:
            found = self._kinds[func] = _Kind(
                func._schema.is_mutable, torch.Tag.nondeterministic_seeded in func.tags, func.is_view,
                may_be_uniform(func), looks_for_nan(func), FILLERS.get(func._schema.name),
            )  # fmt: skip
        return found

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Give the results of an op that has run on fakes their values, if they follow from known ones."""
        if func in _GOES_WELL:
            return
        kind = self._kind(func)
        mutable, random = kind.mutable, kind.random
        if mutable:
            if not _writes_known(args, kwargs):
                return
        else:
            if not isinstance(out, Tensor):
                if (
                    not isinstance(out, (tuple, list))
                    or not out
                    or not isinstance(out[0], Tensor)
                    or not _small(out[0])
                ):
                    return
            elif not _small(out) and (kind.filler is None or out.numel() > DISCRETE_LIMIT_COUNT):
                self._follow_large(kind, func, args, kwargs, out)
                return
        filler = kind.filler
        if filler is not None and out.numel() <= DISCRETE_LIMIT_COUNT:
            with no_dispatch():
                out._known = Known(_filled(out, filler(args)))  # type: ignore[attr-defined]
            return
        given = _tensors(args, kwargs)
        values = [known_value(t) for t in given]
        if random and not self._known_although_random(given, out):
            values = [None]
        if any(v is None for v in values) or (not given and not makes_constant(func, random)):
            if mutable:
                _forget(func, args, kwargs, given)
            elif isinstance(out, Tensor):
                self._look_for_nan(func, args, out)
            return
        with no_dispatch(), torch.no_grad():
            try:
                if given:
                    args, kwargs = _to_known(args), _to_known(kwargs)
                real = func(*args, **_on_host(kwargs))
                if func._schema.name == "aten::randint":
                    real.fill_(_middle(func, args))
            except Exception:  # an op the host cannot do (half-precision corner cases): its value is just not known
                if mutable:
                    _forget(func, args, kwargs, given)
                return
        if not mutable or any(o is not g for o, g in zip(tree_leaves(out), given, strict=False)):
            self._attach(out, real, given, values)

    def _follow_large(self, kind: _Kind, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        """Follow a tensor whose values are too many to be kept: one value, or a view of what is known."""
        if kind.random or out.layout is not torch.strided:
            return
        first = args[0] if args and isinstance(args[0], Tensor) else None
        nothing_known = first is not None and known_value(first) is None  # the common case, told early
        if kind.view:
            if first is not None and not nothing_known:
                with no_dispatch(), torch.no_grad(), contextlib.suppress(Exception):  # what the host cannot do is not known
                    value = known_value(first)
                    self._attach(out, func(value, *args[1:], **kwargs), [first], [value])
            return
        value = None
        if kind.may_be_uniform and not nothing_known:
            with no_dispatch(), torch.no_grad():
                try:
                    value = uniform_result(func, args, _on_host(kwargs), out, known_value)
                except Exception:  # an op the host cannot do, strides beyond the one element: just not known
                    return
        if value is not None:
            out._known = Known(value)  # type: ignore[attr-defined]
        elif kind.looks_for_nan:
            self._look_for_nan(func, args, out)

    @staticmethod
    def _look_for_nan(func: Any, args: tuple[Any, ...], out: Tensor) -> None:
        found = healthy_result(func, args)
        if found is not None:
            with no_dispatch():
                out._known = Known(_filled(out, found))  # type: ignore[attr-defined]

    def _known_although_random(self, given: list[Tensor], out: Any) -> bool:
        """Integers of the host's batch, what the host draws beside the device, a single number; never other data."""
        if self.random_is_known:
            return all(is_discrete(t) for t in _tensors((out,), {}))
        if not self._host_is_apart:  # one number drawn for a branch (is this layer dropped?), as on a GPU's host
            return not given and all(t.numel() == 1 for t in _tensors((out,), {}))
        return _all_on_host(given, out)

    @staticmethod
    def _attach(out: Any, real: Any, given: list[Tensor], values: list[Any]) -> None:
        if not given and isinstance(out, Tensor) and isinstance(real, Tensor):  # made of Python numbers alone
            out._known = Known(real)  # type: ignore[attr-defined]
            return
        owners = {
            v.untyped_storage()._cdata: g.__dict__["_known"].valid
            for g, v in zip(given, values, strict=True)
            if "_known" in g.__dict__
        }
        for fake, value in zip(tree_leaves(out), tree_leaves(real), strict=False):
            if isinstance(fake, Tensor) and isinstance(value, Tensor) and fake.shape == value.shape:
                fake._known = Known(value, owners.get(value.untyped_storage()._cdata))  # type: ignore[attr-defined]

    @staticmethod
    def read(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The real result of an op that reads values, or None where one of its inputs is not known."""
        given = _tensors(args, kwargs)
        if any(known_value(t) is None for t in given):
            return None
        with no_dispatch(), torch.no_grad():
            return func(*_to_known(args), **_to_known(_on_host(kwargs)))


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    collect(args, found)
    if kwargs:
        collect(tuple(kwargs.values()), found)
    return found


def _all_on_host(given: list[Tensor], out: Any) -> bool:
    tensors = given or _tensors((out,), {})
    return all(t.device.type == "cpu" and t.device.index is None for t in tensors)


def _middle(func: Any, args: tuple[Any, ...]) -> int:
    """One value for all random integers of a batch: no branch may hang on luck, or on how many samples there are."""
    low, high = (args[0], args[1]) if func._overloadname.startswith("low") else (0, args[0])
    return int((low + high) // 2)


def _writes_known(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether any argument of an in-place op (its first, a list's first, or any by name) carries values."""
    for value in (*args, *kwargs.values()):
        t = value[0] if isinstance(value, (list, tuple)) and value else value
        if isinstance(t, Tensor) and "_known" in t.__dict__:
            return True
    return False


def _forget(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor]) -> None:
    """An op wrote something unknown: the tensors it wrote to, and all their views, are not known any more."""
    for i, a in enumerate(func._schema.arguments):
        if a.alias_info is not None and a.alias_info.is_write:
            written = kwargs.get(a.name) if a.kwarg_only else (args[i] if i < len(args) else None)
            for t in tree_leaves(written):
                if isinstance(t, Tensor) and "_known" in t.__dict__:
                    t.__dict__["_known"].valid[0] = False
