"""Forms that explain the workspace of a convolution: copies of its tensors, and partial sums. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from estimator.graph import TensorSpec
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_features import channel_step
from estimator.units import round_up

Addend = tuple[str, int]
Form = tuple[str, Addend]


def tensor_bytes(call: CudnnConv) -> int:
    """Bytes of input, weight and output together, as they lie in memory."""
    return _itemsize(call.dtype) * (math.prod(call.x) + math.prod(call.w) + math.prod(call.y))


def form_bytes(call: CudnnConv, form: Form, bases: Mapping[str, int] | None = None) -> int:
    """Bytes of one form: the copies that an engine makes (`base_bytes`), and what its reduction needs besides.

    A reduction split in `count` parts keeps partial sums in float32: of the weight (`weights`) or of the result
    (`outputs`) as often as that, or, where it works in tiles ("64x128": rows by columns of the product), all but the
    last part's in whole tiles, and a counter a part and tile. `bytes` is a plain number.
    """
    base, (addend, count) = form
    if base == "none":
        copies = 0
    else:
        bases = bases or base_bytes(call)
        copies = bases.get(base, bases["transposed"])  # a shape unlike those measured, where `base` cannot be
    if addend == "bytes":
        return copies + count if copies or base == "none" else max(count - 16, 0)
    if addend in ("weights", "outputs"):
        partial = math.prod(call.w) if addend == "weights" else math.prod(call.y if call.kind == "forward" else call.x)
        return copies + count * partial * 4 + 16
    height, width = (int(side) for side in addend.split("x"))
    rows, columns = product_extents(call)
    tile_count = call.groups * -(-rows // height) * -(-columns // width)
    return copies + (count - 1) * tile_count * height * width * 4 + 4 * count * tile_count + 175


def product_extents(call: CudnnConv) -> tuple[int, int]:
    """Rows and columns of the result of one group, seen as the matrix product that the convolution is."""
    if call.kind == "weight":
        return call.w[0] // call.groups, math.prod(call.w[1:])
    result = call.y if call.kind == "forward" else call.x
    return result[0] * math.prod(result[2:]), result[1] // call.groups


@lru_cache(maxsize=256)  # several forms of one call are asked for
def base_bytes(call: CudnnConv) -> Mapping[str, int]:
    """Bytes of the copies that cuDNN's engines make, by name; only those that the call's shape allows.

    `transposed` copies every tensor that is not yet channels innermost and padded, `padded` copies all three,
    `unpadded` transposes without padding; `-operands` leaves the result out. In grouped convolutions `packed` pads a
    group's channels to a power of two, and `-by-8` works on eight groups at a time. `per-image` is a gradient of the
    weight for each image, `depthwise` eight of them, `weights` one copy of the weight. `winograd` holds the weight, the
    operands and the result as 6x6 tiles, `winograd-weights` the weight alone as 5x5 tiles.
    """
    step, size, groups = channel_step(call.dtype), _itemsize(call.dtype), call.groups
    x, w, y = call.x, call.w, call.y
    c, k, kernel, pixels, in_pixels = x[1] // groups, y[1] // groups, *map(math.prod, (w[2:], y[2:], x[2:]))

    def shaped(pad_c: int, pad_k: int) -> tuple[int, int, int]:
        return (
            x[0] * groups * pad_c * in_pixels * size,
            groups * pad_k * pad_c * kernel * size,
            y[0] * groups * pad_k * pixels * size,
        )

    extents = ((in_pixels, x[1]), (kernel, c), (pixels, y[1]))
    is_moved = tuple(not call.nhwc and count > 1 and channels > 1 for count, channels in extents)
    raw, padded = shaped(c, k), shaped(round_up(c, step), round_up(k, step))
    transposed = tuple(p if moved or p != r else 0 for p, r, moved in zip(padded, raw, is_moved, strict=True))
    unpadded = tuple(r if moved else 0 for r, moved in zip(raw, is_moved, strict=True))
    operands = {"forward": (0, 1), "data": (1, 2), "weight": (0, 2)}[call.kind]
    found = {"none": 0, "weights": raw[1]}
    sets = {"transposed": transposed, "padded": padded, "unpadded": unpadded, "copied": raw}
    if groups > 1:
        sets["packed"] = shaped(_power_of_two(c), _power_of_two(k))
    for name, sizes in sets.items():
        found[name], found[f"{name}-operands"] = sum(sizes), sum(sizes[i] for i in operands)
    if groups > 8:
        for name in ("transposed", "padded", "padded-operands"):
            found[f"{name}-by-8"] = found[name] * 8 // groups
    if groups == 1 and kernel == 9 and w[-1] == 3:
        tiles = round_up(x[0], 16) * math.prod(-(-p // 4) for p in y[2:])
        found["winograd"] = 36 * 4 * (c * k + (c + k) * tiles)
        found["winograd-weights"] = 25 * 4 * c * k + 4 * (c if call.kind == "data" else k)
    if call.kind == "weight":
        found["per-image"] = x[0] * math.prod(w) * 4
        if c == k == 1:
            found["depthwise"] = 8 * x[0] * round_up(groups, 32) * kernel * 4
    return found


def _power_of_two(channels: int) -> int:
    return max(4, 1 << (channels - 1).bit_length())


def _itemsize(dtype: str) -> int:
    return TensorSpec(dtype, (), ()).itemsize
