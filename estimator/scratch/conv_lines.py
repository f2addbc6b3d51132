"""Workspaces of usual convolutions as cuDNN gave them, a line a layer over the batch sizes. Needs no torch.

A tree (`conv_workspace`) tells a plan from a shape; of layers that many networks have, the plans were asked for one by
one. A file `conv_plans/*.lines` holds for one compute capability a line a layer, pass, kind of type and layout: from which
batch size on which form holds (`conv_forms.form_bytes`). At a batch size that was asked, the line is the answer; in
between, the plan is nearly always one of those around. Where the plans of two batch sizes asked differ, the batch size
at which one takes over from the other was sought by halving: a start that is none of the file's batch sizes was asked,
and so was the size below it. Where plans come and go between the file's batch sizes, every batch size was asked
(`benchmarks.conv_every`).

Float16 has the lines of bfloat16, asked again; `*.float16.lines` holds those whose workspaces are others in float16, of
all the other lines' layers the workspaces agreed (`look_up_float16`).
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from estimator.graph import TensorSpec
from estimator.scratch.conv_call import CudnnConv
from estimator.scratch.conv_forms import Form, form_bytes

KEY = 12
"""Characters of a fingerprint at the start of a line."""
AROUND = 3
"""Batch sizes asked on either side whose plans a batch size in between is taken to have one of."""


class Lines(NamedTuple):
    """A file of lines: the batch sizes that were asked, the forms that lines name, the lines, sorted."""

    cudnn: tuple[int, int]
    multiprocessor_count: int
    batches: tuple[int, ...]
    forms: tuple[Form, ...]
    text: bytes


class Around(NamedTuple):
    """Workspaces of a convolution in bytes, by the forms that hold at the batch sizes asked around its own.

    `next_to`: at the batch size itself, else at the next smaller and the next larger one asked; `all`: at up to three of
    the file's batch sizes on either side, and at what was asked between them. `is_within`: false beyond the largest batch
    size asked, where only smaller ones are known.
    """

    next_to: list[int]
    all: list[int]
    is_within: bool


def look_up(call: CudnnConv, lines: Lines) -> Around | None:
    """What the line of this layer says of this batch size, None where the layer has none.

    Source: measured: conv_plans/*.lines (benchmarks/conv_lines.py; cuDNN's heuristics asked for a simulated card).
    """
    line = _line_of(fingerprint(call), lines.text, lines.batches)
    if line is None:
        return None
    batch, (asked, starts, names) = call.x[0], line
    place = bisect_right(asked, batch)
    if place and asked[place - 1] == batch:
        around = next_to = [batch]
    else:
        next_to = asked[place - 1 : place + 1]
        ends = [b for b in lines.batches if b <= asked[-1]]
        place = bisect_right(ends, batch)
        ends = ends[max(place - AROUND, 0) : place + AROUND]
        around = [b for b in asked if ends[0] <= b <= ends[-1]]
    runs = {b: names[bisect_right(starts, b)] for b in around}
    forms = [chosen(run, b) for b, run in runs.items()]
    mine = [chosen(runs[b], batch) for b in next_to]
    sizes = {form: run_bytes(call, form, lines.forms) for form in (*forms, *mine)}
    return Around([sizes[form] for form in mine], [sizes[form] for form in forms], batch <= asked[-1])


def look_up_float16(call: CudnnConv, lines: Lines, own: Lines | None) -> tuple[Around | None, bool]:
    """What is known of a convolution in float16, and whether that was asked in float16.

    `own` holds the lines that differ from those of bfloat16 in `lines`, and bare names of lines that were not asked.

    Source: measured: conv_plans/*.float16.lines (benchmarks/conv_float16.py).
    """
    parts = find(own.text, fingerprint(call)) if own is not None else None
    if own is not None and parts:
        return look_up(call, own), True
    return look_up(call, lines), own is not None and parts is None


@lru_cache(maxsize=1024)  # one search asks for a layer at hundreds of batch sizes
def _line_of(key: str, text: bytes, batches: tuple[int, ...]) -> tuple[list[int], list[int], list[str]] | None:
    """The line that starts with `key`: batch sizes asked, those at which a form begins, the forms."""
    parts = find(text, key)
    if parts is None:
        return None
    begins = [part.split(":") for part in parts[1:]]
    return batches_asked(parts, batches), [int(b) for b, _ in begins], ["", *(f for _, f in begins)]


def batches_asked(parts: Sequence[str], batches: Sequence[int]) -> list[int]:
    """Batch sizes that were asked for a line: the file's up to the line's largest, and those on either side of a turn.

    A star after the largest says that every one was asked, or every one up to the number after the star.
    """
    largest, is_every, every = parts[0].partition("*")
    starts = {int(part.split(":")[0]) for part in parts[1:]}.difference(batches)
    asked = {b for b in batches if b <= int(largest)} | starts | {start - 1 for start in starts}
    return sorted(asked.union(range(1, int(every or largest) + 1)) if is_every else asked)


def chosen(part: str, batch: int) -> str:
    """Of two forms that take turns, `A%period%bits%B`, the one of this batch size; any other part is itself.

    B holds where the bit of the batch size's remainder is set (hexadecimal): how full the last tile of a product's rows is
    comes again with these.
    """
    if "%" not in part:
        return part
    a, period, bits, b = part.split("%")
    return b if int(bits, 16) >> batch % int(period) & 1 else a


def run_bytes(call: CudnnConv, part: str, forms: tuple[Form, ...]) -> int:
    """Bytes of one part of a line: a form's number, or `fixed+each`, bytes besides bytes for each sample, or two in turns."""
    part = chosen(part, call.x[0])
    if "+" in part:
        fixed, each = part.split("+")
        return max(int(fixed) + int(each) * call.x[0], 0)
    return form_bytes(call, forms[int(part)])


def find(text: bytes, key: str) -> list[str] | None:
    """Words of the line that starts with `key`, without it, found by halving the sorted text."""
    wanted, low, high = key.encode(), 0, len(text)
    while low < high:
        start = text.rfind(b"\n", 0, (low + high) // 2) + 1
        end = text.find(b"\n", start)
        here = text[start : start + KEY]
        if here == wanted:
            return text[start + KEY : end].decode().split()
        if here < wanted:
            low = end + 1
        else:
            high = start
    return None


def fingerprint(call: CudnnConv) -> str:
    """A short name of a convolution without its batch; float16 has that of bfloat16, whose plans mostly agree."""
    return _named(
        call.kind, call.dtype, call.nhwc, call.x[1:], call.w, call.y[1:], call.stride, call.padding, call.dilation, call.groups
    )


@lru_cache(maxsize=1024)
def _named(kind: str, dtype: str, nhwc: bool, *rest: Any) -> str:
    dtype = "half" if TensorSpec(dtype, (), ()).itemsize == 2 else dtype
    *shapes, groups = rest
    text = repr((kind, dtype, bool(nhwc), *(tuple(map(int, shape)) for shape in shapes), int(groups)))
    return hashlib.blake2b(text.encode(), digest_size=KEY // 2).hexdigest()


@cache
def load(capability: tuple[int, int], only: str = "") -> Lines | None:
    """Read the lines of a compute capability, or those that `only` one type has; None where there are none."""
    name = ".".join((*map(str, capability), *([only] if only else []), "lines"))
    file = files("estimator.scratch").joinpath("conv_plans").joinpath(name)
    return read(file.read_bytes()) if file.is_file() else None


def read(content: bytes) -> Lines:
    """Read the content of a file of lines."""
    first, _, text = content.partition(b"\n")
    head: dict[str, Any] = json.loads(first)
    forms = tuple((base, (what, count)) for base, (what, count) in head["forms"])
    version = (head["cudnn"] // 10000, head["cudnn"] // 100 % 100)
    return Lines(version, head["multiprocessors"], tuple(head["batches"]), forms, text)
