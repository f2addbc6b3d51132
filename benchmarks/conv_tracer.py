"""Collects the convolutions of a network that is written down by hand, shape by shape. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.conv_layers import Layer, output

Found = dict[Layer, None]
Sizes = int | Sequence[int]
"""One number for all dimensions, or one each."""


class Tracer:
    """Collects the layers of one network while its shape is followed by hand; pixels are of one image."""

    def __init__(self) -> None:
        self.found: Found = {}

    def conv(self, x: Sequence[int], k: int, kernel: Sizes = 3, stride: Sizes = 1, padding: Sizes | None = None,
             dilation: Sizes = 1, groups: int = 1) -> tuple[int, ...]:  # fmt: skip
        """Add a convolution of `x` (channels, pixels...); give the shape of its result. One dimension becomes two.

        Without `padding` as many pixels come out as go in, where the kernel is odd. Where no pixel comes out, nothing is
        added.
        """
        c, *pixels = x
        dims = len(pixels)
        kernels, strides, dilations = (spread(n, dims) for n in (kernel, stride, dilation))
        same = tuple(d * (n - 1) // 2 for n, d in zip(kernels, dilations, strict=True))
        paddings = same if padding is None else spread(padding, dims)
        flat = (1,) if dims == 1 else ()
        layer = Layer((c, *flat, *pixels), (k, c // groups, *flat, *kernels), (), (*flat, *strides),
                      (*(0,) * len(flat), *paddings), (*flat, *dilations), groups)  # fmt: skip
        out = output(layer.x[1:], layer)
        if min(out) > 0:
            self.found[layer._replace(y=(k, *out))] = None
        return k, *out[len(flat) :]

    def up(self, x: Sequence[int], k: int, kernel: int = 2, stride: int = 2, padding: int = 0,
           output_padding: int | None = None) -> tuple[int, ...]:  # fmt: skip
        """Add a transposed convolution: the gradient of the convolution back.

        Without `output_padding` it gives `stride` times the pixels.
        """
        pixels = [n * stride for n in x[1:]]
        if output_padding is not None:
            pixels = [(n - 1) * stride - 2 * padding + kernel + output_padding for n in x[1:]]
        self.conv((k, *pixels), x[0], kernel, stride, padding)
        return k, *pixels

    def grow(self, x: Sequence[int], times: int) -> tuple[int, ...]:
        return x[0], *(n * times for n in x[1:])

    def shrink(self, x: Sequence[int], times: Sizes = 2) -> tuple[int, ...]:
        """What pooling without padding leaves, one pixel at least."""
        return x[0], *(max(n // by, 1) for n, by in zip(x[1:], spread(times, len(x) - 1), strict=True))

    def wrap(self, x: Sequence[int], by: Sizes) -> tuple[int, ...]:
        """Borders of `by` pixels on either side, made outside of the convolution (mirrored, say)."""
        return x[0], *(n + 2 * more for n, more in zip(x[1:], spread(by, len(x) - 1), strict=True))


def spread(value: Sizes, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def traced(make: Callable[..., None], *arguments: Any) -> tuple[str, Found]:
    """Name and layers of the network that `make` follows with these arguments; the first word of the name is its kind."""
    tracer = Tracer()
    make(tracer, *arguments)
    return f"{make.__name__} {' '.join(map(str, arguments))}", tracer.found
