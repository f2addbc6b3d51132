"""What oneDNN's convolutions want: the formats of their tensors and their scratchpads, asked of oneDNN itself.

Source: ideep, operators/conv.hpp and deconv.hpp (`do_prepare`, `do_compute`: formats are oneDNN's to choose unless the
tensors lie channels last, only the weights' then); enumerators of oneapi/dnnl/dnnl_types.h, oneDNN 3.x.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any, NamedTuple

from estimator.scratch.cpu.onednn import (
    QUERY_ARGUMENT,
    QUERY_SCRATCHPAD,
    Layout,
    OneDnn,
    dims,
    interface,
    on_threads,
)

FORWARD, DATA, WEIGHTS = "forward", "backward_data", "backward_weights"
_TRAINING = 64
_DIRECT, _TRANSPOSED_DIRECT = 1, 10
_ARGUMENTS = {FORWARD: (1, 33, 17), DATA: (129, 33, 145), WEIGHTS: (1, 161, 145)}
"""Numbers of (source, weights, destination) in each pass."""


class Convolution(NamedTuple):
    """A convolution of at least two spatial dimensions, as torch has it."""

    dtype: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    y: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    output_padding: tuple[int, ...]
    groups: int
    transposed: bool
    channels_last: bool
    bias: bool


class Wanted(NamedTuple):
    """Of (source, weights, destination): bytes in oneDNN's formats, whether these differ from torch's and are blocked."""

    nbytes: tuple[int, ...]
    differs: tuple[bool, ...]
    blocked: tuple[bool, ...]
    scratchpad: int

    def turned(self, index: int) -> bool:
        """Whether a tensor has the format of torch but for the order of its dimensions."""
        return self.differs[index] and not self.blocked[index]


@lru_cache(maxsize=16384)
def wanted(conv: Convolution, which: str, threads: int) -> Wanted | None:
    """What a pass of a convolution wants, None where oneDNN cannot be asked or does not have it."""
    dnnl = interface()
    if dnnl is None:
        return None
    found: list[Wanted] = []

    def ask() -> int:
        found.extend(_asked(dnnl, conv, which))
        return 0

    on_threads(threads, ask)
    return found[0] if found else None


def _asked(dnnl: OneDnn, conv: Convolution, which: str) -> list[Wanted]:
    kind = "deconvolution" if conv.transposed else "convolution"
    algorithm = ctypes.c_int(_TRANSPOSED_DIRECT if conv.transposed else _DIRECT)
    attributes = dnnl.attributes(add_to_result=False, scale_result=False)
    plain = [_tensor(conv.dtype, conv.x, conv.channels_last), _weights(conv), _tensor(conv.dtype, conv.y, conv.channels_last)]
    free = [layout._replace(stride=None) for layout in plain]
    x, w, y = (dnnl.layout(layout) for layout in ((plain[0], free[1], plain[2]) if conv.channels_last else free))
    bias = dnnl.layout(Layout(conv.dtype, (conv.y[1],), None)) if conv.bias and which != DATA else None
    right = tuple(p - o for p, o in zip(conv.padding, conv.output_padding, strict=True))
    less_one = tuple(d - 1 for d in conv.dilation)
    place = [dims(values) for values in (conv.stride, less_one, conv.padding, right if conv.transposed else conv.padding)]

    def made(name: str, *args: Any) -> ctypes.c_void_p | None:
        return dnnl.descriptor(f"dnnl_{kind}_{name}_primitive_desc_create", *args)

    forward = made("forward", ctypes.c_int(_TRAINING), algorithm, x, w, bias, y, *place, attributes)
    chosen = forward
    if forward is not None and which == DATA:
        chosen = made(which, algorithm, x, w, y, *place, forward, attributes)
    elif forward is not None and which == WEIGHTS:
        chosen = made(which, algorithm, x, w, bias, y, *place, forward, attributes)
    out = []
    if chosen is not None:
        numbers = _ARGUMENTS[which]
        given = [dnnl.layout(layout) for layout in plain]
        sizes = tuple(dnnl.bytes_of(chosen, QUERY_ARGUMENT, n) for n in numbers)
        differs = tuple(dnnl.differs(chosen, QUERY_ARGUMENT, g, n) for g, n in zip(given, numbers, strict=True))
        blocked = tuple(dnnl.is_blocked(chosen, QUERY_ARGUMENT, n) for n in numbers)
        out.append(Wanted(sizes, differs, blocked, dnnl.bytes_of(chosen, QUERY_SCRATCHPAD)))
        dnnl.forget(*given)
    dnnl.destroy(forward, *([chosen] if chosen is not forward else []))
    dnnl.forget(x, w, y, bias)
    return out


def _tensor(dtype: str, shape: tuple[int, ...], channels_last: bool) -> Layout:
    order = [0, *range(2, len(shape)), 1] if channels_last else range(len(shape))
    stride, step = [0] * len(shape), 1
    for dim in reversed(list(order)):
        stride[dim] = step
        step *= shape[dim]
    return Layout(dtype, shape, tuple(stride))


def _weights(conv: Convolution) -> Layout:
    """Weights as (out, in, ...), with their groups in front where there are several."""
    stride = _tensor(conv.dtype, conv.weight, conv.channels_last).stride
    assert stride is not None
    first, second, *kernel = conv.weight
    if conv.groups > 1:
        first //= conv.groups
    pair = ((second, stride[1]), (first, stride[0])) if conv.transposed else ((first, stride[0]), (second, stride[1]))
    shape, steps = (pair[0][0], pair[1][0], *kernel), (pair[0][1], pair[1][1], *stride[2:])
    if conv.groups > 1:
        shape, steps = (conv.groups, *shape), (first * stride[0], *steps)
    return Layout(conv.dtype, shape, steps)
