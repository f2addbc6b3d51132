"""Layers of small networks on series: sound, sensors, text, spectrograms, points; and on volumes. Needs no torch.

Written down as those of `conv_small_networks` are, by rules of what such networks look like over usual lengths, widths and
dilations: `series_networks()` and `volume_networks()` give (name, layers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.conv_tracer import Found, Tracer, traced


def dilations(t: Tracer, length: int, width: int) -> None:
    """WaveNets and temporal convolutions: padded outside on the left, cut off on the right, and on both sides."""
    x = (width, length)
    for level in range(10):
        d = 1 << level
        if d >= length:
            break
        for kernel in (2, 3) if level > 4 or length > 1024 else (2, 3, 5, 7):
            reach = (kernel - 1) * d
            for k in (width, 2 * width) if kernel == 2 else (width,):
                t.conv((width, length + reach), k, kernel, 1, 0, d)
                if kernel > 2:
                    t.conv(x, k, kernel, 1, None, d)
            t.conv(x, width, kernel, 1, reach, d)
    for k in (width // 2, width, 2 * width, 256):
        t.conv(x, k, 1)
    for kernel in (1, 2, 3, 7):
        for channels in (1, 3, 80):
            t.conv((channels, length), width, kernel, 1, kernel // 2 if kernel != 2 else 0)
            t.conv((channels, length + kernel - 1), width, kernel, 1, 0)


def sensors(t: Tracer, length: int, channels: int) -> None:
    """Classifiers of time series: plain, residual, inception's wide kernels, strided ones with pools."""
    x = (channels, length)
    for first in (16, 32, 64):
        for kernel in (3, 5, 7):
            for is_padded in (True, False):
                y: tuple[int, ...] = x
                for k in (first, 2 * first, 4 * first):
                    if y[1] < kernel:
                        break
                    y = t.shrink(t.conv(y, k, kernel, 1, kernel // 2 if is_padded else 0))
            y = x
            for k in (first, 2 * first, 4 * first, 8 * first):
                y = t.conv(y, k, kernel, 2, kernel // 2)
    for c in (channels, 32, 128):
        t.conv((c, length), 32, 1)
        for kernel in (9, 19, 39):
            t.conv((c, length), 32, kernel)
        for kernel in (10, 20, 40):
            t.conv((c, length + 1), 32, kernel, 1, (kernel - 1) // 2)
    for c, k, kernel in ((channels, 128, 8), (128, 256, 5), (256, 128, 3), (channels, 64, 8), (64, 64, 5), (64, 64, 3), (64, 128, 8),
                         (128, 128, 5), (128, 128, 3), (64, 128, 1), (channels, 64, 1)):  # fmt: skip
        t.conv((c, length + 1 - kernel % 2), k, kernel, 1, (kernel - 1) // 2)


def words(t: Tracer, length: int, size: int) -> None:
    """Text: kernels over whole vectors and along time, without and with padding; gated ones of twice the channels."""
    for k in (64, 100, 128):
        for kernel in (2, 3, 4, 5):
            t.conv((1, length, size), k, (kernel, size), 1, 0)
            t.conv((size, length), k, kernel, 1, 0)
            if kernel % 2:
                t.conv((size, length), k, kernel)
                t.conv((k, length), k, kernel)
    for k in (size, 2 * size):
        t.conv((size, length), k)
        t.conv((size, length + 2), k, 3, 1, 0)


def characters(t: Tracer, length: int, width: int) -> None:
    """Classifiers of characters: kernels of 7 and 3 with pools by three, and deep ones of kernels of 3."""
    x: tuple[int, ...] = (70, length)
    for kernel, pool in ((7, 3), (7, 3), (3, 1), (3, 1), (3, 1), (3, 3)):
        x = t.shrink(t.conv(x, width, kernel, 1, 0), pool)
    x = t.conv((16, length), 64)
    for k in (64, 128, 256, 512):
        x = t.shrink(t.conv(t.conv(x, k), k))


def waves(t: Tracer, length: int, width: int) -> None:
    """Sound as a wave: wide strided first kernels, then pools by four; waves made by transposed ones; U-shapes."""
    for kernel, stride in ((80, 4), (80, 16), (64, 8), (10, 5), (16, 8), (20, 10), (40, 20)):
        x: tuple[int, ...] = t.conv((1, length), width, kernel, stride, 0)
        for k in (width, 2 * width, 4 * width):
            x = t.conv(t.shrink(x, 4), k, 3, 1, 0)
        t.conv((1, length), width, kernel, stride, kernel // 2)
        t.up((width, length // stride), 1, kernel, stride, (kernel - stride) // 2)
    x = (1, length)
    for kernel in (15, 25):
        y: tuple[int, ...] = x
        for level in range(5):
            y = t.conv(y, width << level, kernel, 4, kernel // 2)
    for level in range(8):
        x = t.conv(x, 24 + 24 * level, 15)
        t.conv((24 + 24 * level + x[0], x[1]), 24 + 24 * level, 5)
        x = t.shrink(x)
    x = (1, length)
    for level in range(5):
        x = t.conv(x, width << level, 8, 4, 2)
        t.conv(x, 2 * x[0], 1)
        t.conv((x[0], x[1]), 2 * x[0], 3)
        t.up(x, x[0] // 2, 8, 4, 2)


def spectrogram(t: Tracer, bands: int, frames: int) -> None:
    """One channel of bands by frames, either way round: pools or strides; a Conformer's and DeepSpeech's stems; keywords."""
    for x in ((1, bands, frames), (1, frames, bands)):
        for first in (16, 32, 64):
            y: tuple[int, ...] = x
            z: tuple[int, ...] = x
            v: tuple[int, ...] = x
            for level in range(4):
                t.conv(y, first << level, 5)
                y = t.conv(y, first << level)
                t.conv(y, y[0])
                y = t.shrink(y)
                v = t.shrink(t.conv(v, first << level, 3, 1, 0))
                z = t.conv(z, first << level, 3, 2, 1)
        for width in (32, 144, 256):
            t.conv(t.conv(x, width, 3, 2, 0), width, 3, 2, 0)
            t.conv(t.conv(x, width, 3, 2, 1), width, 3, 2, 1)
    x = t.conv((1, bands, frames), 32, (41, 11), 2, (20, 5))
    t.conv(x, 32, (21, 11), (2, 1), (10, 5))
    t.conv((1, frames, bands), 64, (20, 8), 1, 0)
    t.conv((1, frames, bands), 64, (10, 4), 2, (4, 1))
    for width in (64, 128, 256, 512):
        t.conv(t.conv((bands, frames), width), width)
        t.conv((bands, frames), width, 5)
        t.conv((bands, frames), width, 1)
        t.conv((width, frames), width, 5)


def points(t: Tracer, count: int) -> None:
    """PointNets and graphs of neighbours: products along points, and points by neighbours."""
    for c, k in ((3, 64), (6, 64), (9, 64), (64, 64), (64, 128), (128, 128), (128, 256), (128, 512), (128, 1024), (256, 512),
                 (512, 1024), (256, 1024), (1088, 512), (1024, 512), (512, 256), (256, 128), (128, 50), (128, 13), (128, 3), (512, 2048),
                 (320, 256), (192, 256), (512, 1024), (1280, 512)):  # fmt: skip
        t.conv((c, count), k, 1)
    for near in (16, 20, 32, 40):
        for c, k in ((6, 64), (64, 64), (128, 64), (128, 128), (128, 256), (256, 256), (3, 32), (3, 64), (6, 32), (32, 32), (32, 64)):
            t.conv((c, count, near), k, 1)


def series_networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name; the first word of the name is its kind."""
    for length in (100, 128, 256, 500, 512, 1000, 1024, 2048, 4096, 8000, 16000):
        for width in (16, 32, 64, 128):
            if width > 16 or length < 4096:
                yield traced(dilations, length, width)
    for length in (100, 128, 187, 500, 1000, 5000):
        for channels in (1, 3, 12):
            yield traced(sensors, length, channels)
    for length in (32, 50, 64, 100, 128, 200, 256, 512):
        for size in (50, 100, 128, 300):
            yield traced(words, length, size)
    for length in (256, 1014, 1024):
        for width in (256, 1024):
            yield traced(characters, length, width)
    for length in (8000, 16000, 22050, 48000):
        for width in (16, 32, 64):
            yield traced(waves, length, width)
    for bands in (40, 64, 80, 128):
        for frames in (100, 128, 200, 256, 500, 1000) if bands > 40 else (98, 101):
            yield traced(spectrogram, bands, frames)
    for count in (512, 1024, 2048, 2500, 4096):
        yield traced(points, count)


def unet3d(t: Tracer, pixels: Sequence[int], channels: int, width: int, depth: int) -> None:
    """Two 3x3x3 a level, the second of twice the channels in some; pools or strides down."""
    x: tuple[int, ...] = (channels, *pixels)
    for level in range(depth + 1):
        k = width << level
        t.conv(t.conv(x, max(k // 2, width // 2)), k)
        x = t.conv(t.conv(x, k), k)
        if level < depth:
            t.conv(x, 2 * k, 3, 2, 1)
            t.conv(x, 2 * k, 2, 2, 0)
            x = t.shrink(x)
    for level in reversed(range(depth)):
        k = width << level
        t.up(x, x[0])
        t.conv((3 * k, *(2 * n for n in x[1:])), k)
        y = t.up(x, k)
        t.conv((2 * k, *y[1:]), k)
        x = t.conv(y, k)
    for classes in (1, 2, 3, 4, 14):
        t.conv(x, classes, 1)


def clips(t: Tracer, frames: int, size: int) -> None:
    """C3D, 3-D and (2+1)-D residual networks on clips; classifiers of small volumes have the same first layers."""
    x: tuple[int, ...] = (3, frames, size, size)
    for k, count in ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)):
        for _ in range(count):
            x = t.conv(x, k)
        x = t.shrink(x, (1, 2, 2) if k == 64 else 2)
    x = t.conv((3, frames, size, size), 64, (3, 7, 7), (1, 2, 2), (1, 3, 3))
    y = t.conv((3, frames, size, size), 45, (1, 7, 7), (1, 2, 2), (0, 3, 3))
    t.conv(y, 64, (3, 1, 1), 1, (1, 0, 0))
    for i, k in enumerate((64, 128, 256, 512)):
        for stride, c in ((2 if i else 1, x[0]), (1, k)):
            mid = (c * k * 27) // (c * 9 + 3 * k)
            z = t.conv((c, *x[1:]), mid, (1, 3, 3), (1, stride, stride), (0, 1, 1))
            t.conv(z, k, (3, 1, 1), (stride, 1, 1), (1, 0, 0))
            t.conv((c, *x[1:]), k, (1, 3, 3), (1, stride, stride), (0, 1, 1))
            if c != k:
                t.conv((c, *x[1:]), k, 1, (1, stride, stride), 0)
                t.conv((c, *x[1:]), k, 1, stride, 0)
                x = t.conv((c, *x[1:]), k, 3, stride, 1)
        t.conv(x, k)


def volumes(t: Tracer, size: int, first: int) -> None:
    """Classifiers of small volumes, without and with padding, with pools; voxels' autoencoders and generators."""
    for channels in (1, 3):
        for kernel in (3, 5):
            for padding in (0, kernel // 2):
                x: tuple[int, ...] = (channels, size, size, size)
                for level in range(4):
                    if x[1] + 2 * padding >= kernel:
                        x = t.shrink(t.conv(x, first << level, kernel, 1, padding))
    x = (1, size, size, size)
    for level in range(4):
        if x[1] > 3:
            y = t.conv(x, first << level, 4, 2, 1)
            t.up(y, x[0], 4, 2, 1)
            x = y
    t.conv(x, 200, x[1], 1, 0)


def volume_networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name; the first word of the name is its kind."""
    for pixels in (*((n, n, n) for n in (32, 64, 96, 128)), (16, 128, 128), (32, 64, 64)):
        for channels in (1, 4):
            for width in (16, 32):
                yield traced(unet3d, pixels, channels, width, 3)
    for frames, size in ((8, 112), (16, 112), (32, 112), (16, 64), (16, 128)):
        yield traced(clips, frames, size)
    for size in (16, 28, 32, 64, 96, 128):
        for first in (8, 16, 32, 64):
            yield traced(volumes, size, first)
