"""Ask cuDNN for the workspaces of many convolutions: the measurements from which `benchmarks.conv_fit` makes a table.

    python -m benchmarks.conv_sample --capability 8.0 --count 400000 --seed 1 --out rows.jsonl.gz
    python -m benchmarks.conv_sample --capability 8.0 --usual --out usual.jsonl.gz
    python -m benchmarks.conv_sample --capability 8.0 --lines --out lines.jsonl.gz

Needs cuDNN (`pip install batch-estimator[cudnn]`) and torchvision; timm's models take part where it is installed. The
table wants the engines that are compiled when they are used, so libcuda.so.1 must be loadable; else it says so and ends.
A third of the convolutions are layers of models, a third those of networks written down (`conv_line_layers`), at random
batch and image sizes; a third is made up. With `--usual` they
are no sample, but all of the usual ones: layers of torchvision's models at 224 pixels, and square images with channels
by powers of two, at common batch sizes (`benchmarks.conv_exceptions` reads these). With `--lines` they are the layers
that `conv_line_layers` lists, at two dozen batch sizes each (`benchmarks.conv_lines`); with `--missing` of these only
what has no line yet.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import math
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.conv_asker import Asker
from benchmarks.conv_layers import Layer, layers_of_models, output
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv, Ints, Kind
from estimator.scratch.conv_forms import tensor_bytes

MOST_BYTES = 6 << 30
KINDS: tuple[Kind, ...] = ("forward", "data", "weight")
CHANNELS = (16, 32, 64, 128, 256, 512, 1024, 48, 96, 192, 384, 768, 24, 40, 80, 160, 320, 640, 72, 144, 112, 224, 448, 8,
            4, 3, 1, 12, 20, 36, 56, 100, 200, 300)  # fmt: skip
KERNELS = ((3, 1, 1, 1),) * 8 + ((1, 1, 0, 1),) * 4 + ((3, 2, 1, 1), (4, 2, 1, 1)) * 2 + (
    (1, 2, 0, 1), (2, 2, 0, 1), (5, 1, 2, 1), (5, 2, 2, 1), (7, 2, 3, 1), (7, 1, 3, 1), (7, 4, 3, 1), (4, 4, 0, 1),
    (3, 1, 0, 1), (4, 1, 0, 1), (3, 1, 2, 2), (3, 1, 4, 4), (3, 1, 6, 6), (3, 1, 12, 12), (3, 1, 18, 18), (16, 16, 0, 1),
    (8, 8, 0, 1), (9, 1, 4, 1),
)  # fmt: skip
"""Kernel, stride, padding and dilation, the usual ones more often."""
SIDES = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 60, 64, 72, 80, 96, 100, 112, 120, 128, 144, 160, 192,
         224, 256, 299, 300, 320, 384, 512)  # fmt: skip
LENGTHS = (50, 100, 128, 200, 256, 400, 500, 512, 1000, 1024, 1500, 2000, 3000, 4000, 4096, 8000, 8192, 16000)
BATCHES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 100, 128, 192, 256)
LARGE_BATCHES = (384, 512, 768, 1024, 2048)
"""At which layers of small networks are asked besides."""
SMALLEST, LARGEST = 0.25, 2.5
"""Least and largest scale of the pixels of a layer that is drawn at another image size than its own."""


def made_up(rng: random.Random) -> Layer:
    """A convolution of a network as people write them, of one, two or three dimensions."""
    while True:
        c, k = (rng.choice(CHANNELS[: rng.choice((7, 12, 20, len(CHANNELS)))]) for _ in range(2))
        k = rng.choice((k, k, c, c, 2 * c))
        kernel, stride, padding, dilation = rng.choice(KERNELS)
        groups, draw = 1, rng.random()
        if draw < 0.06:
            groups = k = c
        elif draw < 0.12:
            groups = rng.choice((2, 4, 8, 16, 32))
            c, k = (max(n // groups, 1) * groups for n in (c, k))
        draw = rng.random()
        if draw < 0.82:
            side = rng.choice(SIDES)
            pixels: Ints = (side, side if rng.random() < 0.85 else rng.choice((2 * side, side * 3 // 2, side // 2)))
            shape = [(kernel, stride, padding, dilation)] * 2
        elif draw < 0.91:
            kernel, dilation = rng.choice((1, 2, 3, 3, 5, 7, 9, 11, 15)), rng.choice((1, 1, 1, 2, 4, 8, 16, 32, 64))
            padding = rng.choice((0, dilation * (kernel - 1) // 2, dilation * (kernel - 1)))
            pixels = (1, rng.choice(LENGTHS))
            shape = [(1, 1, 0, 1), (kernel, rng.choice((1, 1, 1, 2)), padding, dilation)]
        else:
            side = rng.choice((7, 8, 14, 16, 28, 32, 56, 64, 112, 128))
            pixels = (rng.choice((4, 8, 8, 16, 16, 32, 64)), side, side)
            flat = kernel > 7 or rng.random() < 0.5
            shape = [(1, 1, 0, 1) if flat else (kernel, stride, padding, dilation)]
            shape += [(kernel, stride, padding, dilation)] * 2
        kernels, strides, paddings, dilations = zip(*shape, strict=True)
        layer = Layer((c, *pixels), (k, c // groups, *kernels), (), strides, paddings, dilations, groups)
        pixels = output(pixels, layer)
        if min(pixels) > 0:
            return layer._replace(y=(k, *pixels))


def rescaled(layer: Layer, rng: random.Random) -> Layer | None:
    """The layer as it is in an image of another size, of another shape too in a third of the draws; None if nothing is left."""
    low, high = math.log(SMALLEST), math.log(LARGEST)
    scale = math.exp(rng.uniform(low, high))
    scales = [math.exp(rng.uniform(low, high)) if rng.random() < 0.33 else scale for _ in layer.x[1:]]
    pixels = tuple(max(1, round(n * scale)) if n > 1 else n for n, scale in zip(layer.x[1:], scales, strict=True))
    out = output(pixels, layer)
    if min(out) < 1:
        return None
    return layer._replace(x=(layer.x[0], *pixels), y=(layer.y[0], *out))


def usual_layers() -> Iterator[tuple[Layer, bool]]:
    """Layers of torchvision's models at 224 pixels, then those of square images with channels by powers of two."""
    yield from ((layer, True) for layer in layers_of_models((224,), others=False) if len(layer.x) == 3)
    powers = [16 << i for i in range(7)]
    pairs = [(c, k) for c in powers for k in (c // 2, c, 2 * c, 4 * c) if k in powers]
    pairs += [(c, k) for c in (1, 3) for k in powers[:4]] + [(c, k) for c in powers[:4] for k in (1, 2, 3)]
    for c, k in pairs:
        for side in (4, 8, 16, 32, 64, 128, 256, 512, 7, 14, 28, 56, 112, 224):
            for kernel, stride, padding in ((3, 1, 1), (1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 2, 1)):
                layer = Layer((c, side, side), (k, c, kernel, kernel), (), (stride,) * 2, (padding,) * 2, (1, 1), 1)
                pixels = output((side, side), layer)
                if min(pixels) > 0:
                    yield layer._replace(y=(k, *pixels)), False


def usual_calls() -> Iterator[tuple[int, CudnnConv]]:
    """The usual convolutions at the batch sizes people take, in the layouts they come in."""
    for number, (layer, is_of_model) in enumerate(usual_layers()):
        for batch in (1, 4, 8, 16, *((2, 12, 24, 32, 48, 64, 128) if is_of_model else ())):
            for dtype, nhwc in itertools.product(("float32", "bfloat16"), (False, True)):
                for kind in KINDS:
                    call = layer.at(batch, kind, dtype, nhwc)
                    if goes_to_cudnn(call):
                        yield number, call


def goes_to_cudnn(call: CudnnConv) -> bool:
    """Whether PyTorch gives it to cuDNN (depthwise ones have kernels of PyTorch's own), and its tensors are not too large."""
    is_pytorchs = call.groups == call.x[1] > 1 and not call.nhwc and call.dtype != "float16"
    return not is_pytorchs and tensor_bytes(call) <= MOST_BYTES


def batch_size(rng: random.Random) -> int:
    """Powers of two, small numbers, three times a power of two, and any."""
    return rng.choices(
        (1 << rng.randint(0, 8), rng.randint(1, 16), 3 << rng.randint(0, 6), int(2 ** rng.uniform(0, 8.6))),
        (45, 15, 10, 30),
    )[0]  # fmt: skip


def draw(
    rng: random.Random, models: Sequence[Layer], networks: Sequence[Layer], halves: tuple[str, ...]
) -> Iterator[tuple[int, CudnnConv]]:
    """Endlessly yield calls with the number of their layer; made-up layers are below zero."""
    known, invented = [*models, *networks], [made_up(rng) for _ in range(120_000)]
    while True:
        kind = rng.randrange(3)
        if kind == 0:
            number = rng.randrange(len(models))
        elif kind == 1:
            number = len(models) + rng.randrange(len(networks))
        else:
            number = -1 - rng.randrange(len(invented))
        layer: Layer | None = known[number] if number >= 0 else invented[-1 - number]
        if number >= 0 and rng.random() < 0.6:
            layer = rescaled(known[number], rng)
        if layer is None:
            continue
        batch = batch_size(rng) if len(layer.x) == 3 else max(1, batch_size(rng) // 8)
        dtype, nhwc = rng.choice(("float32", *halves)), rng.random() < 0.33
        for step in KINDS:
            call = layer.at(batch, step, dtype, nhwc)
            if goes_to_cudnn(call):
                yield number, call


def each_row(paths: Sequence[Path]) -> Iterator[tuple[int, CudnnConv, int]]:
    """Of files that this command wrote: (layer, call, workspace in bytes), one row after the other."""
    for path in paths:
        with gzip.open(path, "rt") as file:
            for line in file:
                if isinstance(row := json.loads(line), list):
                    shapes = (tuple(numbers) for numbers in row[4:10])
                    yield row[0], CudnnConv(row[1], row[2], row[3], *shapes, row[10]), row[11]


def read_head(path: Path) -> dict[str, Any]:
    with gzip.open(path, "rt") as file:
        head: dict[str, Any] = json.loads(file.readline())
    return head


def read_rows(paths: Sequence[Path]) -> tuple[dict[str, Any], list[tuple[int, CudnnConv, int]]]:
    """Of files that this command wrote: head of the first, and all rows (`each_row`)."""
    return read_head(paths[0]), list(each_row(paths))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", default="8.0")
    parser.add_argument("--count", type=int, default=400_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--usual", action="store_true", help="all of the usual ones in place of a sample")
    parser.add_argument("--lines", action="store_true", help="usual layers at every batch size in place of a sample")
    parser.add_argument("--missing", action="store_true", help="of these only layers without a line")
    parser.add_argument("--no-timm", action="store_true", help="of these without timm's models")
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    major, minor = map(int, options.capability.split("."))
    asker = Asker((major, minor))
    halves = ("bfloat16", "float16") if (major, minor) >= (8, 0) else ("float16",)
    written = 0
    with gzip.open(options.out, "wt", compresslevel=1) as file:
        file.write(json.dumps({"capability": [major, minor], "cudnn": asker.version}) + "\n")
        if options.lines:
            from benchmarks.conv_line_layers import line_calls

            known = conv_lines.load((major, minor)) if options.missing else None
            sample = line_calls(halves[0], known, with_timm=not options.no_timm)
        elif options.usual:
            sample = usual_calls()
        else:
            from benchmarks.conv_line_layers import written_layers

            sample = draw(random.Random(options.seed), layers_of_models(), written_layers(halves[0]), halves)
        for number, call in sample:
            size = asker.workspace(call)
            if size is not None:
                row = [number, call.kind, call.dtype, call.nhwc, *(getattr(call, n) for n in Layer._fields)]
                file.write(json.dumps([*row, size]) + "\n")
                written += 1
            if written >= options.count and not (options.usual or options.lines):
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
