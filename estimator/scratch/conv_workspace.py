"""Bytes of workspace that cuDNN takes for one convolution, from a table of its measured choices. Needs no torch.

cuDNN has a few dozen engines for a convolution. Which one its heuristics put first cannot be computed from published
rules, but what an engine takes can: nearly always the copies of the tensors it rearranges, with the channels innermost
and padded to 16 bytes (`BASES`), and sometimes partial sums of a split reduction (`addend_bytes`). `conv_plans.json`
holds, for each compute capability, pass, kind of type and layout, a small decision tree over the shape (`FEATURES`)
whose leaves name one such form and the error seen there.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from estimator.device import Target
from estimator.graph import TensorSpec
from estimator.scratch import cudnn_deviceless
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.registry import Confidence
from estimator.units import round_up

FEATURES = (
    "in_channels", "out_channels", "groups", "kernel", "kernel_height", "kernel_width", "stride", "dilation",
    "batch", "out_pixels", "in_pixels", "out_width", "rows", "weights", "depth", "multiplications",
    "input_count", "output_count", "is_pointwise", "is_unpadded", "spatial_dims", "is_float16",
    "in_channels_power", "out_channels_power", "out_pixels_power", "in_pixels_power", "in_aligned", "out_aligned",
)  # fmt: skip
Leaf = tuple[int, float, float]
"""Index of the form, then the least and the most that was seen beyond it, as fractions of the three tensors' bytes."""
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
        size, is_exact = asked
        low, high = (size, size) if is_exact else (min(size, found.low_bytes), max(size, found.high_bytes))
        found = Prediction(size, low, high, "exact" if is_exact else "modelled")
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

    Source: measured: conv_plans.json (heuristics of the cuDNN named there, asked for a simulated card of each
    compute capability).
    Bound: low and high hold 99 in 100 of the convolutions measured in the same leaf of the table.
    """
    plans = load_plans()
    capability, is_measured = nearest_capability(target.device.compute_capability or (8, 0), call.dtype)
    tree = plans["trees"][_key(capability, call)]
    values = features(call)
    while len(tree) == 4:
        tree = tree[2] if values[tree[0]] <= tree[1] else tree[3]
    base, addend = plans["forms"][tree[0]]
    size = form_bytes(call, (base, (addend[0], addend[1])))
    whole = tensor_bytes(call)
    low, high = size + math.floor(tree[1] * whole), size + math.ceil(tree[2] * whole)
    if not is_measured:
        low, high = 0, max(high, size + whole)
    return Prediction(size, max(low, 0), max(high, size), "modelled" if is_measured else "assumed")


def nearest_capability(capability: tuple[int, int], dtype: str) -> tuple[tuple[int, int], bool]:
    """The measured capability whose table stands for `capability`, and whether it is that one."""
    measured = load_plans()["capabilities"]
    if list(capability) in measured and dtype != "float64":
        return capability, True
    major, minor = max((c for c in measured if tuple(c) <= capability), default=measured[0])
    return (major, minor), False


@lru_cache(maxsize=1)
def load_plans() -> dict[str, Any]:
    """Read `conv_plans.json`; a tree is a leaf (form, low, high) or a node (feature, threshold, at most, more)."""
    data: dict[str, Any] = json.loads(files("estimator.scratch").joinpath("conv_plans.json").read_text())
    data["trees"] = {key: _tree(iter(flat)) for key, flat in data["trees"].items()}
    return data


def _tree(flat: Any) -> tuple[Any, ...]:
    entry = tuple(next(flat))
    return entry if len(entry) == 3 else (*entry, _tree(flat), _tree(flat))


def _key(capability: tuple[int, int], call: CudnnConv) -> str:
    kind = "half" if call.dtype in ("float16", "bfloat16") else "float32"
    return f"{capability[0]}.{capability[1]} {kind} {'nhwc' if call.nhwc else 'nchw'} {call.kind}"


def tensor_bytes(call: CudnnConv) -> int:
    """Bytes of input, weight and output together, as they lie in memory."""
    return _itemsize(call.dtype) * (math.prod(call.x) + math.prod(call.w) + math.prod(call.y))


def features(call: CudnnConv) -> tuple[int, ...]:
    """Numbers that a tree asks about, in the order of `FEATURES`. Channels are those of one group."""
    x, w, y = call.x, call.w, call.y
    c, k = x[1] // call.groups, y[1] // call.groups
    pixels, in_pixels, kernel, step = math.prod(y[2:]), math.prod(x[2:]), math.prod(w[2:]), _channel_step(call.dtype)
    rows = x[0] * pixels
    return (
        c, k, call.groups, kernel, w[2], w[-1], max(call.stride), max(call.dilation), x[0],
        pixels, in_pixels, y[-1], rows, math.prod(w), c * kernel, rows * c * k * kernel, math.prod(x), math.prod(y),
        int(kernel == 1 and max(call.stride) == 1 and max(call.padding) == 0), int(max(call.padding) == 0),
        len(call.stride), int(call.dtype == "float16"), math.gcd(c, 64), math.gcd(k, 64), math.gcd(pixels, 64),
        math.gcd(in_pixels, 64), int(c % step == 0), int(k % step == 0),
    )  # fmt: skip


def form_bytes(call: CudnnConv, form: Form) -> int:
    """Bytes of one form: the copies that an engine makes, and what its reduction needs besides."""
    base, (addend, count) = form
    copies = base_bytes(call)[base]
    if addend == "bytes":
        return copies + count if copies or base == "none" else max(count - 16, 0)
    partial = math.prod(call.w) if addend == "weights" else math.prod(call.y if call.kind == "forward" else call.x)
    return copies + count * partial * 4 + 16


def base_bytes(call: CudnnConv) -> dict[str, int]:
    """Bytes of the copies that cuDNN's engines make, by name; only those that the call's shape allows.

    `transposed` copies every tensor that is not yet channels innermost and padded, `padded` copies all three,
    `unpadded` transposes without padding; `-operands` leaves the result out. In grouped convolutions `packed` pads a
    group's channels to a power of two, and `-by-8` works on eight groups at a time. `per-image` is a gradient of the
    weight for each image, `depthwise` eight of them, `weights` one copy of the weight. `winograd` holds the weight, the
    operands and the result as 6x6 tiles, `winograd-weights` the weight alone as 5x5 tiles.
    """
    step, size, groups = _channel_step(call.dtype), _itemsize(call.dtype), call.groups
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


def _channel_step(dtype: str) -> int:
    return max(16 // _itemsize(dtype), 1)


def _itemsize(dtype: str) -> int:
    return TensorSpec(dtype, (), ()).itemsize
