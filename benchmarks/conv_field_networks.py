"""Layers of small networks of single fields: games, few examples, residual and separable nets, parts. Needs no torch.

Written down as those of `conv_small_networks` are: `field_networks()` gives (name, layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.conv_small_networks import classifier
from benchmarks.conv_tracer import Found, Tracer, traced


def players(t: Tracer) -> None:
    """Networks that play: DQN's two, IMPALA's, pixel control's encoder, board games' towers, driving."""
    for size in (64, 84, 96):
        for channels in (1, 3, 4, 9, 12):
            x: tuple[int, ...] = (channels, size, size)
            for widths in ((32, 64, 64), (16, 32, 32), (32, 64, 32)):
                y = t.conv(t.conv(x, widths[0], 8, 4, 0), widths[1], 4, 2, 0)
                t.conv(y, widths[2], 3, 1, 0)
            for k in (16, 32, 32):
                t.conv(x, 2 * k)
                t.conv((2 * k, *x[1:]), 2 * k)
                x = t.conv(x, k)
                x = k, *(-(-n // 2) for n in x[1:])
                t.conv(x, k)
            x = t.conv((channels, size, size), 32, 3, 2, 0)
            for _ in range(3):
                x = t.conv(x, 32, 3, 1, 0)
    for board in ((3, 3), (6, 6), (6, 7), (8, 8), (9, 9), (10, 10), (15, 15), (19, 19)):
        for width in (32, 64, 128, 256, 512):
            for planes in (1, 2, 3, 17, 119):
                t.conv((planes, *board), width)
            t.conv(t.conv((width, *board), width), width, 3, 1, 0)
            for k in (1, 2, 73):
                t.conv((width, *board), k, 1)
    x = (3, 66, 200)
    for k, kernel, stride in ((24, 5, 2), (36, 5, 2), (48, 5, 2), (64, 3, 1), (64, 3, 1)):
        x = t.conv(x, k, kernel, stride, 0)


def few_examples(t: Tracer) -> None:
    """Siamese networks at 105 pixels, four-layer embeddings at 28, 32 and 84; verification of faces."""
    for size in (100, 105):
        x: tuple[int, ...] = (1, size, size)
        for k, kernel in ((64, 10), (128, 7), (128, 4), (256, 4)):
            x = t.shrink(t.conv(x, k, kernel, 1, 0))
        x = (1, size, size)
        for k in (4, 8, 8):
            for channels in (1, 3):
                t.conv(t.wrap((channels, *x[1:]), 1), k, 3, 1, 0)
            x = t.conv(t.wrap(x, 1), k, 3, 1, 0)
    for size, channels in ((28, 1), (32, 3), (84, 3)):
        for width in (32, 64):
            for pool_each in (0, 1):
                classifier(t, (channels, size, size), (width,) * 4, (3,), True, pool_each)


def residual(t: Tracer, size: int, widths: Sequence[int], channels: int) -> None:
    """Residual networks without a strided stem."""
    x = t.conv((channels, size, size), widths[0])
    for i, k in enumerate(widths):
        stride = 2 if i else 1
        for kernel in (1, 3):
            y = t.conv(x, k, kernel, stride, kernel // 2)
        x = t.conv(y, k)


def dense(t: Tracer, size: int, growth: int, blocks: int) -> None:
    """DenseNet with bottlenecks for small images, of three stages."""
    c = 2 * growth
    t.conv((3, size, size), c)
    for stage in range(3):
        x = (size >> stage, size >> stage)
        t.conv((4 * growth, *x), growth)
        for _ in range(blocks):
            t.conv((c, *x), 4 * growth, 1)
            t.conv((c, *x), growth)
            c += growth
        t.conv((c, *x), c // 2, 1)
        c //= 2


def separable(t: Tracer, size: int, first: int) -> None:
    """MobileNet's depthwise and pointwise pairs, with and without a strided stem."""
    for stem in (1, 2):
        x = t.conv((3, size, size), first, 3, stem, 1)
        for times, stride in ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (32, 2), (32, 1)):
            if x[1] < 2 and stride == 2:
                break
            x = t.conv(t.conv(x, x[0], 3, stride, 1, groups=x[0]), first * times, 1)


def squeezes(t: Tracer) -> None:
    """Squeeze and excitation, and heads, on one pixel."""
    for c in (16, 24, 32, 48, 64, 72, 96, 120, 128, 144, 192, 240, 256, 320, 384, 480, 512, 672, 768, 960, 1024, 1152, 1280, 2048):
        for k in {max(c // times, 1) for times in (1, 4, 16)} | {1, 10}:
            t.conv((c, 1, 1), k, 1)
            t.conv((k, 1, 1), c, 1)



def patches(t: Tracer, size: int, patch: int) -> None:
    for channels in (1, 3):
        for width in (64, 96, 128, 192, 256, 384, 512, 768):
            t.conv((channels, size, size), width, patch, patch, 0)


def quantized(t: Tracer, size: int, channels: int, width: int) -> None:
    """VQ-VAE: two kernels of 4 down and up, residual blocks of 3x3 and 1x1 between."""
    x = t.conv(t.conv((channels, size, size), width // 2, 4, 2, 1), width, 4, 2, 1)
    x = t.conv(x, width)
    for inner in (32, width // 4, width // 2, width):
        t.conv(t.conv(x, inner), width, 1)
    for code in (16, 32, 64, 128):
        t.conv(x, code, 1)
        t.conv((code, *x[1:]), width, 3)
    t.up(t.up(x, width // 2, 4, 2, 1), channels, 4, 2, 1)


def reader(t: Tracer, width: int) -> None:
    """CRNN for lines of text 32 pixels high."""
    x = t.shrink(t.conv((1, 32, width), 64))
    x = t.shrink(t.conv(x, 128))
    x = t.shrink(t.conv(t.conv(x, 256), 256), (2, 1))
    x = t.shrink(t.conv(t.conv(x, 512), 512), (2, 1))
    for y in (x, (512, 2, width // 4 + 1)):
        t.conv(y, 512, 2, 1, 0)


def field_networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name; the first word of the name is its kind."""
    for make in (players, few_examples, squeezes):
        yield traced(make)
    for size in (28, 32, 64):
        for channels in (1, 3):
            for widths in ((16, 32, 64), (64, 128, 256, 512), (32, 64, 128), (128, 256, 512), (160, 320, 640), (32, 64, 128, 256)):
                yield traced(residual, size, widths, channels)
    for growth, blocks in ((12, 16), (24, 16), (32, 12)):
        yield traced(dense, 32, growth, blocks)
    for size in (32, 64, 96, 128):
        for first in (8, 16, 32):
            yield traced(separable, size, first)
    for patch, sizes in (
        (2, (28, 32, 64, 128)), (4, (28, 32, 64, 96, 128)), (7, (28, 224)), (8, (32, 64, 96, 128, 224)), (14, (28, 224, 518)),
        (16, (64, 96, 128, 160, 192, 224)), (32, (96, 128, 224)),
    ):  # fmt: skip
        for size in sizes:
            yield traced(patches, size, patch)
    for size in (28, 32, 64, 96, 128, 256):
        for channels in (1, 3):
            for width in (64, 128, 256):
                yield traced(quantized, size, channels, width)
    for width in (100, 128, 160, 200, 256):
        yield traced(reader, width)
