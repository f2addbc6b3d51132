"""Layers of small networks for images as people write them themselves, over usual widths and image sizes. Needs no torch.

Written down by rules of what such networks look like (tutorials' classifiers, autoencoders, generators, UNets, recurrent
cells, style, enlarging), not from any one: `small_networks()` gives (name, layers) for `benchmarks.conv_lines`.
`conv_field_networks` has games, few examples, residual nets and parts of nets, `conv_series_networks` sound, text, points
and volumes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.conv_tracer import Found, Tracer, traced

Shape = Sequence[int]


def classifier(t: Tracer, x: Shape, widths: Iterable[int], kernels: Sequence[int], is_padded: bool, pool_each: int) -> None:
    """Convolutions with a pool after every `pool_each`; 0: each goes by two pixels instead. The last kernel repeats."""
    for i, k in enumerate(widths):
        kernel = kernels[min(i, len(kernels) - 1)]
        padding = kernel // 2 if is_padded else 0
        if min(x[1:]) + 2 * padding < kernel:
            break
        x = t.conv(x, k, kernel, 1 if pool_each else 2, padding)
        if pool_each and (i + 1) % pool_each == 0:
            x = t.shrink(x)


def autoencoder(t: Tracer, size: int, channels: int, first: int, kernel: int, depth: int = 4) -> None:
    """Strided convolutions down and transposed ones up (kernel 3 with output padding, 4, or 2), and the 3x3 at the end."""
    x: tuple[int, ...] = (channels, size, size)
    sides, widths = [x], [channels, *(first << level for level in range(depth))]
    for k in widths[1:]:
        if x[1] < 4:
            break
        x = t.conv(x, k, kernel, 2, 0 if kernel == 2 else 1)
        sides.append(x)
    for code in (4, 8, 16, 64):
        t.conv(x, code, 1)
        t.conv((code, *x[1:]), x[0], 1)
    for wide in reversed(sides[:-1]):
        k = max(wide[0], first)
        for end in {wide[0], k}:
            output_padding = wide[1] - ((x[1] - 1) * 2 - 2 * (kernel > 2) + kernel)
            up = t.up(x, end, kernel, 2, int(kernel > 2), output_padding) if 0 <= output_padding < 2 else wide
            t.conv(t.grow(x, 2), end, 3)
        x = k, *up[1:]
    t.conv(x, channels, 3)
    t.conv(x, channels, 1)


def dreams(t: Tracer, channels: int) -> None:
    """A world model's encoder of 64 pixels without padding and its decoder from one."""
    x: tuple[int, ...] = (channels, 64, 64)
    for k in (32, 64, 128, 256):
        x = t.conv(x, k, 4, 2, 0)
    x = (1024, 1, 1)
    for k, kernel in ((128, 5), (64, 5), (32, 6), (channels, 6)):
        x = t.up(x, k, kernel, 2, 0, 0)


def generator(t: Tracer, size: int, channels: int, width: int, noise: int) -> None:
    """A DCGAN from noise or from a projected 7x7 or 4x4, and its discriminator; kernels of 4, and 5 with output padding."""
    side, levels = (7, 2) if size == 28 else (4, size.bit_length() - 3)
    x: tuple[int, ...] = (width << (levels - 1), side, side)
    t.conv(x, noise, side, 1, 0)
    for level in reversed(range(levels)):
        k = width << (level - 1) if level else channels
        t.conv(t.grow(x, 2), k)
        t.up(x, k, 5, 2, 2, 1)
        x = t.up(x, k, 4, 2, 1)
    for kernel, padding in ((4, 1), (5, 2), (3, 1)):
        y: tuple[int, ...] = (channels, size, size)
        for level in range(levels):
            y = t.conv(y, width << level, kernel, 2, padding)
        t.conv(y, 1, y[1], 1, 0)


def unet(t: Tracer, size: int, channels: int, width: int, depth: int, is_padded: bool) -> None:
    """Two 3x3 a level; up by 2x2 kernels, or by enlarging and halving the channels in the first of two 3x3."""
    padding = int(is_padded)
    x: tuple[int, ...] = (channels, size, size)
    sides = []
    for level in range(depth + 1):
        k = width << level
        x = t.conv(t.conv(x, k, 3, 1, padding), k, 3, 1, padding)
        sides.append(x[1])
        if level < depth:
            x = t.shrink(x)
    if min(x[1:]) < 2:
        return
    half = (width << depth - 1, *x[1:])
    t.conv((width << depth - 1, x[1] + 2 - 2 * padding, x[1] + 2 - 2 * padding), half[0], 3, 1, padding)  # of milesial's
    for level in reversed(range(depth)):
        k = width << level
        x = t.up(x, k)
        if is_padded:
            joined = (2 * k, sides[level], sides[level])
            t.conv((2 * k, *joined[1:]), k, 1)
            mid = t.conv(joined, k)
            t.conv(mid, max(k // 2, width))
            t.conv((3 * k, *joined[1:]), k)
            x = t.conv(mid, k)
        else:
            x = t.conv(t.conv((2 * k, *x[1:]), k, 3, 1, 0), k, 3, 1, 0)
    for classes in (1, 2, 3, 4, 10):
        t.conv(x, classes, 1)


def cells(t: Tracer, size: int, hidden: int) -> None:
    """ConvLSTM's and ConvGRU's gates: of input and memory together and apart, and what reads the memory."""
    for channels in (1, 3, 8, 16, hidden):
        for kernel in (3, 5):
            for gates in (4, 2, 1):
                t.conv((channels + hidden, size, size), gates * hidden, kernel)
                if kernel == 3 and gates != 2:
                    t.conv((channels, size, size), gates * hidden, kernel)
                    t.conv((hidden, size, size), gates * hidden, kernel)
        t.conv((hidden, size, size), channels, 1)
        t.conv((hidden, size, size), channels, 3)


def style(t: Tracer, size: int, width: int) -> None:
    """Fast style transfer: mirrored borders around 9x9 and 3x3, enlarged by two on the way up."""
    x: tuple[int, ...] = (3, size, size)
    x = t.conv(t.wrap(x, 4), width, 9, 1, 0)
    for k in (2 * width, 4 * width):
        for c in (x[0], k):
            t.conv(t.wrap((c, *x[1:]), 1), k, 3, 1, 0)
        x = t.conv(t.wrap(x, 1), k, 3, 2, 0)
    t.conv(t.wrap(x, 1), x[0], 3, 1, 0)
    for k in (2 * width, width):
        t.conv(t.wrap(x, 1), k, 3, 1, 0)
        x = t.conv(t.wrap(t.grow(x, 2), 1), k, 3, 1, 0)
    for kernel in (9, 7, 3):
        t.conv(t.wrap(x, kernel // 2), 3, kernel, 1, 0)
        t.conv(x, 3, kernel)
    t.conv(x, 3, 1)


def enlarger(t: Tracer, size: int, channels: int) -> None:
    """SRCNN, FSRCNN, ESPCN, VDSR and residual blocks with pixels shuffled, at the small image's size; DnCNN."""
    x = (channels, size, size)
    for is_padded in (True, False):
        padding = None if is_padded else 0
        y = t.conv(x, 64, 9, 1, padding)
        for kernel in (1, 5):
            z = t.conv(y, 32, kernel, 1, padding)
        t.conv(z, channels, 5, 1, padding)
    t.conv(t.conv(x, 56, 5), 12, 1)
    t.conv((12, size, size), 12)
    t.conv((12, size, size), 56, 1)
    y = t.conv(t.conv(x, 64, 5), 64)
    z = t.conv(y, 32)
    for times in (2, 3, 4):
        t.up((56, size, size), channels, 9, times, 4, times - 1)
        for c in (32, 64):
            t.conv((c, size, size), channels * times**2)
            t.conv((c, size, size), c * times**2)
        t.conv((64, size * times, size * times), channels)
    for c in (32, 48, 64):
        for k in (c, channels):
            t.conv((c, size, size), k)
        t.conv(x, c)


def small_networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name; the first word of the name is its kind."""
    for size, channels in (
        *((n, 1) for n in (28, 32, 64, 128)), *((n, 3) for n in (32, 64, 96, 128, 150, 224)),
    ):  # fmt: skip
        x = (channels, size, size)
        for first in (8, 16, 32, 64):
            for widths in ([first << i for i in range(6) if first << i <= 512], [first, *(first << i // 2 for i in range(6))]):
                for kernels in ((3,), (5, 3), (5,), (7, 5, 3)):
                    for is_padded in (True, False):
                        for pool_each in (1, 2, 0) if kernels == (3,) else (1, 0) if kernels == (5,) else (1,):
                            yield traced(classifier, x, widths[:6], kernels, is_padded, pool_each)
        for widths in ((6, 16, 120), (10, 20), (20, 50), (6, 16, 32), (32, 48, 64), (32, 64, 10), (12, 24), (20, 40), (64, 32, 16)):
            for kernels in ((3,), (5,), (5, 3)):
                for is_padded in (True, False):
                    yield traced(classifier, x, widths, kernels, is_padded, 1)
    for size in (28, 32, 64, 96, 128, 256):
        for channels in (1, 3):
            for first in (8, 16, 32, 64):
                for kernel in (2, 3, 4):
                    yield traced(autoencoder, size, channels, first, kernel, 3 if size == 28 else 5)
    for channels in (1, 3):
        yield traced(dreams, channels)
        for size in (28, 32, 64, 128):
            for width in (16, 32, 64, 128):
                for noise in (64, 100, 128):
                    yield traced(generator, size, channels, width, noise)
    for size in (32, 64, 96, 128, 160, 192, 256, 320, 512):
        for channels in (1, 3, 4):
            for width in (8, 16, 32, 64):
                yield traced(unet, size, channels, width, 4, True)
    for size in (64, 128, 256, 572):
        for channels in (1, 3):
            for width in (16, 32, 64):
                for depth in (3, 4):
                    yield traced(unet, size, channels, width, depth, False)
    for size in (16, 32, 40, 64, 128):
        for hidden in (16, 32, 64, 128):
            yield traced(cells, size, hidden)
    for size in (64, 128, 224, 256, 512):
        for width in (16, 32, 64):
            yield traced(style, size, width)
    for size in (24, 32, 33, 41, 48, 64, 96, 128, 256):
        for channels in (1, 3):
            yield traced(enlarger, size, channels)
