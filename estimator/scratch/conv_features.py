"""Numbers of a convolution that decide which plan cuDNN takes. Needs no torch."""

from __future__ import annotations

import math

from estimator.graph import TensorSpec
from estimator.scratch.conv_call import CudnnConv

FEATURES = (
    "in_channels", "out_channels", "groups", "kernel", "kernel_height", "kernel_width", "stride", "dilation",
    "batch", "out_pixels", "in_pixels", "out_width", "rows", "weights", "depth", "multiplications",
    "input_count", "output_count", "is_pointwise", "is_unpadded", "spatial_dims", "is_float16",
    "in_channels_power", "out_channels_power", "out_pixels_power", "in_pixels_power", "in_aligned", "out_aligned",
    "in_height", "in_width", "out_height", "rows_modulo_64", "rows_modulo_128", "in_rows", "in_rows_modulo_64",
    "in_rows_modulo_128", "batch_in_channels", "batch_out_channels", "channel_ratio", "rows_power", "batch_power",
    "in_channels_modulo_64", "out_channels_modulo_64", "channel_product", "out_depth", "padding",
)  # fmt: skip
"""What `features` gives, in order. Channels are those of one group; `rows` is batch times pixels, the first extent of
the product that the convolution is; a `power` is the largest power of two (at most 64, of rows 256) that divides the
number."""


def features(call: CudnnConv) -> tuple[int, ...]:
    """Numbers that a tree asks about, in the order of `FEATURES`."""
    x, w, y, groups, batch = call.x, call.w, call.y, call.groups, call.x[0]
    c, k, step = x[1] // groups, y[1] // groups, channel_step(call.dtype)
    pixels, in_pixels, kernel = math.prod(y[2:]), math.prod(x[2:]), math.prod(w[2:])
    rows, in_rows, stride, padding = batch * pixels, batch * in_pixels, max(call.stride), max(call.padding)
    return (
        c, k, groups, kernel, w[2], w[-1], stride, max(call.dilation),
        batch, pixels, in_pixels, y[-1], rows, math.prod(w), c * kernel, rows * c * k * kernel,
        math.prod(x), math.prod(y), int(kernel == 1 and stride == 1 and padding == 0), int(padding == 0),
        len(call.stride), int(call.dtype == "float16"),
        math.gcd(c, 64), math.gcd(k, 64), math.gcd(pixels, 64), math.gcd(in_pixels, 64), int(c % step == 0),
        int(k % step == 0), x[2], x[-1], y[2], rows % 64, rows % 128, in_rows, in_rows % 64,
        in_rows % 128, batch * c, batch * k, 1000 * c // k, math.gcd(rows, 256), math.gcd(batch, 64),
        c % 64, k % 64, c * k, k * kernel, padding,
    )  # fmt: skip


def channel_step(dtype: str) -> int:
    """Channels to which cuDNN's engines pad a tensor: 16 bytes of them."""
    return max(16 // TensorSpec(dtype, (), ()).itemsize, 1)
