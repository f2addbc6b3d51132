"""Forms that explain a measured workspace: copies of tensors, and what a split reduction needs besides. Needs no torch."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence

from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_forms import Form, product_extents

TILES = tuple((h, w) for h in (32, 64, 128, 256) for w in (32, 64, 128, 256) if {h, w} not in ({32, 256}, {32}, {256}))
"""Output tiles that cuDNN's kernels work in, as far as workspaces showed any."""
CLOSE = 256
"""Bytes a form may be off: half of the allocator's step."""
SMALL = 300
"""What an engine takes besides its copies without splitting anything: at most 300 bytes were seen, mostly 16."""
MOST_CONSTANT = 1 << 26
LAYERS = 12
"""A plain number of bytes is a form where it was seen in so many layers."""
Constants = frozenset[tuple[str, int]]


def constants(rows: Iterable[tuple[int, Mapping[str, int], int]]) -> Constants:
    """Plain numbers of bytes beyond a base, each seen in enough layers; a row is (layer, bases, workspace)."""
    seen: dict[tuple[str, int], set[int]] = collections.defaultdict(set)
    for layer, bases, size in rows:
        for name, copies in bases.items():
            if SMALL < size - copies < MOST_CONSTANT:
                layers = seen[name, size - copies]
                if len(layers) < LAYERS:
                    layers.add(layer)
    return frozenset(key for key, layers in seen.items() if len(layers) >= LAYERS)


def candidates(call: CudnnConv, size: int, bases: Mapping[str, int], known: Constants) -> set[Form]:
    """Every form that gives `size` for `call`."""
    found: set[Form] = set()
    result = call.y if call.kind == "forward" else call.x
    partial = {"weights": math.prod(call.w), "outputs": math.prod(result)}
    rows, columns = product_extents(call)
    for name, copies in bases.items():
        rest = size - copies
        if rest < 0:
            continue
        if rest <= SMALL:
            found.add((name, ("bytes", 0 if name == "none" and not rest else 16)))
            continue
        if (name, rest) in known:
            found.add((name, ("bytes", rest)))
        for what, count in partial.items():
            times = round((rest - 16) / (4 * count))
            if 1 <= times <= 130 and abs(rest - 16 - 4 * count * times) <= CLOSE:
                found.add((name, (what, times)))
        for height, width in TILES:
            tiles = call.groups * -(-rows // height) * -(-columns // width)
            whole = 4 * height * width * tiles
            parts = round((rest - 175 + whole) / (whole + 4 * tiles))
            if 2 <= parts <= 200 and abs((parts - 1) * whole + 4 * parts * tiles + 175 - rest) <= CLOSE:
                found.add((name, (f"{height}x{width}", parts)))
    return found


def canonical(found: Sequence[set[Form]]) -> list[Form | None]:
    """One form for each convolution, so that few forms explain all: the commonest first; None where there is none."""
    weight = collections.Counter(form for forms in found for form in forms)
    labels: list[Form | None] = []
    for _ in range(4):
        labels = [max(forms, key=lambda form: (weight[form], str(form)), default=None) for forms in found]
        chosen = collections.Counter(labels)
        weight = collections.Counter({form: 1_000_000 * chosen[form] + weight[form] % 1_000_000 for form in weight})
    return labels
