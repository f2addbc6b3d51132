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
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from estimator.device import Target
from estimator.graph import TensorSpec
from estimator.scratch import conv_lines, cudnn_deviceless
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_features import features
from estimator.scratch.conv_forms import form_bytes, tensor_bytes
from estimator.scratch.registry import Confidence

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""Compute capabilities with a table."""
STEP = 512
"""The allocator's step: workspaces that differ by less are taken for one."""
COUNTING = ((9, 0), (10, 0))
"""Where cuDNN's choice hangs on the number of multiprocessors. Source: measured: `cudnn_deviceless._CARDS`."""


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
            factor = BENCHMARK_FACTORS["half" if TensorSpec(call.dtype, (), ()).itemsize == 2 else "float32"]
            largest = min(factor * tensor_bytes(call), target.device.capacity_bytes)
        found = Prediction(found.size_bytes, found.low_bytes, max(found.high_bytes, largest), "assumed")
    return found


BENCHMARK_FACTORS = {"half": 27, "float32": 560}
"""Largest workspace among all plans, as a multiple of the three tensors' bytes: the 99th percentile.

Source: measured: 250 convolutions of torchvision's models on the simulated card, compute capability 8.0, cuDNN 9.19.
The float32 figure is that of the engines that transform whole images (FFT).
"""


def look_up(call: CudnnConv, target: Target) -> Prediction:
    """Predict the workspace from what was measured, `cudnn.benchmark` off: the layer's line where it has one, or a tree.

    A line (`conv_lines`) is right to 512 bytes at the batch sizes that were asked, for the cuDNN that was asked. In
    between, the answer is that of the two sizes around where they agree, else the tree's where it is one of theirs, else
    the larger; beyond the largest, that of the largest.

    Source: measured: conv_plans/ (heuristics of the cuDNN named there, asked for a simulated card of each
    compute capability).
    Bound: a tree's low and high hold 98 in 100 of the convolutions like it (same leaf, or the branch above it that has
    60), each predicted by a tree that had not seen its layer. Between two batch sizes asked, low and high are the least
    and the most of three on either side and the tree's answer: of 6,435 convolutions of 250 layers on 8.0 and 6,318 on 9.0,
    batch sizes drawn from 9 to 255, 993 and 991 in 1000 lay within, 6 and 8 above. Beyond the largest, the tree's bounds
    are taken in: of 12,195 on 8.0 up to batch size 768, 996 in 1000 were not above.
    """
    capability, is_measured = nearest_capability(target.device.compute_capability or (8, 0), call.dtype)
    guess = _by_tree(call, capability)
    lines = conv_lines.load(capability)
    found, is_of_type = None, True
    if lines is not None and is_measured and call.dtype == "float16":
        found, is_of_type = conv_lines.look_up_float16(call, lines, conv_lines.load(capability, "float16"))
    elif lines is not None and is_measured:
        found = conv_lines.look_up(call, lines)
    if lines is not None and found is not None:
        is_bound = is_of_type and found.is_within and _is_of_the_asked(target, lines)
        return _by_line(found, guess, is_bound=is_bound)
    if not is_measured:
        high = max(guess.high_bytes, guess.size_bytes + tensor_bytes(call))
        return Prediction(guess.size_bytes, 0, high, "assumed")
    return guess


def _by_line(found: conv_lines.Around, guess: Prediction, *, is_bound: bool) -> Prediction:
    """The answer from a line and a tree; where the line does not bound it, its bounds are joined with the tree's."""
    size = min(found.next_to, key=lambda n: (abs(n - guess.size_bytes) > STEP, -n))
    low, high = min(found.all), max(found.all)
    if len(found.all) > 1:
        low, high = min(low, guess.size_bytes), max(high, guess.size_bytes)
    low, high = max(low - STEP, 0), high + STEP
    if not is_bound:
        low, high = min(low, guess.low_bytes), max(high, guess.high_bytes)
    return Prediction(size, low, high, "modelled")


def _is_of_the_asked(target: Target, lines: conv_lines.Lines) -> bool:
    """Whether the target's cuDNN and card choose as those that were asked for the lines."""
    device = target.device
    is_same_card = device.multiprocessor_count == lines.multiprocessor_count
    if not is_same_card and device.compute_capability in COUNTING:
        return False
    return cudnn_deviceless.is_alike(cudnn_deviceless.BUNDLED.get(target.torch_release), lines.cudnn)


@lru_cache(maxsize=4096)  # layers repeat, and so do their steps
def _by_tree(call: CudnnConv, capability: tuple[int, int]) -> Prediction:
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
    return Prediction(size, max(min(low, size), 0), max(high, size), "modelled")


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
    dtype = "half" if TensorSpec(call.dtype, (), ()).itemsize == 2 else call.dtype
    shapes = (call.x, call.w, call.y, call.stride, call.padding, call.dilation)
    text = repr((call.kind, dtype, bool(call.nhwc), *(tuple(map(int, shape)) for shape in shapes), int(call.groups)))
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def _key(call: CudnnConv) -> str:
    kind = "half" if call.dtype in ("float16", "bfloat16") else "float32"
    return f"{kind} {'nhwc' if call.nhwc else 'nchw'} {call.kind}"
