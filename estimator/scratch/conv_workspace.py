"""Bytes of workspace that cuDNN takes for one convolution, from a table of its measured choices. Needs no torch.

cuDNN has a few dozen engines for a convolution. Which one its heuristics put first cannot be computed from published
rules, but what an engine takes can: nearly always the copies of the tensors it rearranges, with the channels innermost
and padded to 16 bytes (`base_bytes`), and sometimes partial sums of a split reduction (`form_bytes`). The choice itself
answers to thresholds on single numbers (channels in steps of 64, rows of the product modulo 64, ...), so a file of
`conv_plans/` holds, for one compute capability, a decision tree over the shape (`conv_features.FEATURES`) for each
pass, kind of type and layout, whose leaves name one such form and the error seen there.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from estimator.device import Target
from estimator.graph import TensorSpec
from estimator.scratch import cudnn_deviceless
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_features import channel_step, features
from estimator.scratch.registry import Confidence
from estimator.units import round_up

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""Compute capabilities with a table."""
Addend = tuple[str, int]
Form = tuple[str, Addend]


class Prediction(NamedTuple):
    """A workspace in bytes with what bounds it."""

    size_bytes: int
    low_bytes: int
    high_bytes: int
    confidence: Confidence


def workspace(call: CudnnConv, target: Target) -> Prediction:
    """Predict the workspace of the plan that cuDNN's heuristics choose: asked of cuDNN where that is on, or looked up.

    With `cudnn.benchmark` PyTorch first allocates the largest workspace among the plans that fit what is free, tries
    them all and keeps the fastest. What must fit is a plan's own workspace, so that stays the prediction; the largest
    is `high_bytes`.
    Source: aten/src/ATen/native/cudnn/Conv_v8.cpp, run_single_conv, generate_and_filter_plans, 2.11.
    """
    found = look_up(call, target)
    asked = cudnn_deviceless.ask_workspace(call, target) if cudnn_deviceless.is_enabled() else None
    if asked is not None:
        low, high = asked.size_bytes, asked.size_bytes
        if asked.confidence == "assumed":  # another cuDNN than the target's: the table was measured with that one
            low, high = min(low, found.low_bytes), max(high, found.high_bytes)
        found = Prediction(asked.size_bytes, low, high, asked.confidence)
    elif target.deterministic:
        found = Prediction(found.size_bytes, 0, found.high_bytes + tensor_bytes(call), "assumed")
    if target.cudnn_benchmark:
        largest = cudnn_deviceless.ask_largest(call, target) if asked is not None else None
        if largest is None:
            factor = BENCHMARK_FACTORS["half" if _itemsize(call.dtype) == 2 else "float32"]
            largest = min(factor * tensor_bytes(call), target.device.capacity_bytes)
        found = Prediction(found.size_bytes, found.low_bytes, max(found.high_bytes, largest), "assumed")
    return found


BENCHMARK_FACTORS = {"half": 27, "float32": 560}
"""Largest workspace among all plans, as a multiple of the three tensors' bytes: the 99th percentile.

Source: measured: 250 convolutions of torchvision's models on the simulated card, compute capability 8.0, cuDNN 9.19.
The float32 figure is that of the engines that transform whole images (FFT).
"""


def look_up(call: CudnnConv, target: Target) -> Prediction:
    """Predict the workspace from the table of measured choices, `cudnn.benchmark` off.

    Source: measured: conv_plans/ (heuristics of the cuDNN named there, asked for a simulated card of each
    compute capability).
    Bound: low and high hold 98 in 100 of the convolutions like it (same leaf, or the branch above it that has 60), each
    predicted by a tree that had not seen its layer. A convolution that was itself measured, and for which the tree is
    wrong, has what was measured; the interval stays.
    """
    capability, is_measured = nearest_capability(target.device.compute_capability or (8, 0), call.dtype)
    plans = load_plans(capability)
    tree = plans["trees"][_key(call)]
    values, at = features(call), 0
    while tree[at] >= 0:  # an inner node: feature, threshold, where the larger values go; the smaller ones come next
        at = at + 3 if values[tree[at]] <= tree[at + 1] else tree[at + 2]
    base, addend = plans["forms"][-1 - tree[at]]
    least, most = plans["bounds"][tree[at + 1]]
    size = form_bytes(call, (base, (addend[0], addend[1])))
    whole = tensor_bytes(call)
    low, high = size + math.floor(least * whole), size + math.ceil(most * whole)
    size = load_exceptions(capability).get(fingerprint(call), size)
    low = min(low, size)
    if not is_measured:
        low, high = 0, max(high, size + whole)
    return Prediction(size, max(low, 0), max(high, size), "modelled" if is_measured else "assumed")


def nearest_capability(capability: tuple[int, int], dtype: str) -> tuple[tuple[int, int], bool]:
    """The measured capability whose table stands for `capability`, and whether it is that one."""
    if capability in CAPABILITIES and dtype != "float64":
        return capability, True
    return max((c for c in CAPABILITIES if c <= capability), default=CAPABILITIES[0]), False


@cache
def load_plans(capability: tuple[int, int]) -> dict[str, Any]:
    """Read the table of one of `CAPABILITIES`.

    A tree is a flat list. An inner node is (feature, threshold, index of the subtree for larger values), its subtree
    for values up to the threshold follows it; a leaf is (-1 - index of the form, index of the bounds). Bounds are the
    least and the most that was seen beyond the form, as fractions of the three tensors' bytes. `exceptions`, where there
    are any, are those of `load_exceptions`.
    """
    name = f"{capability[0]}.{capability[1]}.json"
    data: dict[str, Any] = json.loads(files("estimator.scratch").joinpath("conv_plans").joinpath(name).read_text())
    return data


@cache
def load_exceptions(capability: tuple[int, int]) -> dict[str, int]:
    """Measured convolutions for which the trees are wrong: their workspaces in bytes by `fingerprint`.

    Source: measured as the trees were (benchmarks/conv_exceptions.py): the layers of torchvision's models at 224 pixels at
    eleven batch sizes from 1 to 128, and of square images of 4 to 512 pixels with channels by powers of two at four.
    """
    found: dict[str, int] = load_plans(capability).get("exceptions", {})
    return found


def fingerprint(call: CudnnConv) -> str:
    """A short name of one convolution, batch and all; float16 has that of bfloat16, whose plans nearly always agree."""
    dtype = "half" if _itemsize(call.dtype) == 2 else call.dtype
    shapes = (call.x, call.w, call.y, call.stride, call.padding, call.dilation)
    text = repr((call.kind, dtype, bool(call.nhwc), *(tuple(map(int, shape)) for shape in shapes), int(call.groups)))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _key(call: CudnnConv) -> str:
    kind = "half" if call.dtype in ("float16", "bfloat16") else "float32"
    return f"{kind} {'nhwc' if call.nhwc else 'nchw'} {call.kind}"


def tensor_bytes(call: CudnnConv) -> int:
    """Bytes of input, weight and output together, as they lie in memory."""
    return _itemsize(call.dtype) * (math.prod(call.x) + math.prod(call.w) + math.prod(call.y))


def form_bytes(call: CudnnConv, form: Form) -> int:
    """Bytes of one form: the copies that an engine makes, and what its reduction needs besides.

    A reduction split in `count` parts keeps partial sums in float32: of the weight (`weights`) or of the result
    (`outputs`) as often as that, or, where it works in tiles ("64x128": rows by columns of the product), all but the
    last part's in whole tiles, and a counter a part and tile. `bytes` is a plain number.
    """
    base, (addend, count) = form
    bases = base_bytes(call)
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


def base_bytes(call: CudnnConv) -> dict[str, int]:
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
