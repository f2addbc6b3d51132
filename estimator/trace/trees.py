"""Batches and outputs of any shape: tensors in lists, dicts, named tuples, dataclasses and objects that can move."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from torch import Tensor

DEPTH = 6
"""Containers within objects that are looked into; a batch that nests deeper than this is not one of data."""


def map_tensors(change: Callable[[Tensor], Any], value: Any, *, moves: Callable[[Any], Any] | None = None) -> Any:
    """The same structure with every tensor changed; what holds none is returned as it is.

    Args:
        change: of one tensor.
        value: lists, tuples, named tuples, mappings, dataclasses, nested; another object is left alone.
        moves: what to do with an object that has a `.to()` of its own (a packed sequence, a graph, an encoding), which
            knows what of it goes to the device; without it such an object is gone through like others.
    """
    if isinstance(value, Tensor):
        return change(value)
    if moves is not None and callable(getattr(value, "to", None)):
        return moves(value)

    def inner(item: Any) -> Any:
        return map_tensors(change, item, moves=moves)

    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(inner, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(inner, value)) if type(value) in (list, tuple) else _rebuilt(value, map(inner, value))
    if isinstance(value, dict) and type(value) is dict:
        return {key: inner(item) for key, item in value.items()}
    if isinstance(value, MutableMapping):  # also ModelOutput and BatchEncoding, whose classes add to it
        made: Any = copy.copy(value)
        for key, item in value.items():
            made[key] = inner(item)
        return made
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)  # type: ignore[type-var]
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                object.__setattr__(made, field.name, inner(getattr(value, field.name)))
        return made
    return value


def _rebuilt(value: Any, items: Any) -> Any:
    """A list or tuple of a class of its own, where that takes its items as a list does; else a plain one."""
    items = list(items)
    try:
        return type(value)(items)
    except TypeError:
        return items if isinstance(value, list) else tuple(items)


def tensors_in(value: Any, depth: int = DEPTH) -> Iterator[Tensor]:
    """Every tensor of a structure in its order, those in the attributes of an object that can move included."""
    if isinstance(value, Tensor):
        yield value
        return
    if depth == 0 or isinstance(value, (str, bytes, int, float, type(None), type)):
        return
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    elif dataclasses.is_dataclass(value):
        items = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif callable(getattr(value, "to", None)) or depth < DEPTH:
        items = getattr(value, "__dict__", {}).values()
    for item in items:
        yield from tensors_in(item, depth - 1)
