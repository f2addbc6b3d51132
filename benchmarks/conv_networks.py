"""Layers of usual networks that no model library holds: UNets, generators, diffusion, detectors, sound. Needs no torch.

Written down from the papers and the usual defaults of each kind: `networks()` gives (name, layers) for
`benchmarks.conv_lines`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.conv_tracer import Found, Tracer, traced


def unet(t: Tracer, size: int, width: int, depth: int, dims: int = 2, channels: int = 3, transposed: bool = True) -> None:
    x: tuple[int, ...] = (channels, *(size,) * dims)
    for level in range(depth + 1):
        k = width << level
        x = t.conv(t.conv(x, k), k)
        if level < depth:
            x = (k, *(n // 2 for n in x[1:]))
    for level in reversed(range(depth)):
        k = width << level
        x = t.up(x, k) if transposed else t.conv(t.grow(x, 2), k)
        t.conv((x[0] + k, *x[1:]), k)
        x = t.conv(x, k)
    for classes in (1, 2, 3, 21):
        t.conv(x, classes, 1)


def dcgan(t: Tracer, size: int, width: int, channels: int = 3, noise: int = 100) -> None:
    levels = size.bit_length() - 3
    t.conv((width << (levels - 1), 4, 4), noise, 4, 1, 0)
    x: tuple[int, ...] = (width << (levels - 1), 4, 4)
    for level in reversed(range(levels - 1)):
        x = t.up(x, width << level, 4, 2, 1)
    t.up(x, channels, 4, 2, 1)
    y: tuple[int, ...] = (channels, size, size)
    for level in range(levels):
        y = t.conv(y, width << level, 4, 2, 1)
    t.conv(y, 1, 4, 1, 0)


def translation(t: Tracer, size: int, width: int) -> None:
    """CycleGAN's generator of residual blocks, and pix2pix's UNet and patch discriminator."""
    x = t.conv((3, size + 6, size + 6), width, 7, 1, 0)
    x = t.conv(t.conv(x, 2 * width, 3, 2, 1), 4 * width, 3, 2, 1)
    t.conv((x[0], x[1] + 2, x[2] + 2), x[0], 3, 1, 0)
    x = t.up(t.up(x, 2 * width, 3, 2, 1), width, 3, 2, 1)
    t.conv((width, size + 6, size + 6), 3, 7, 1, 0)
    for channels in (3, 6):
        y: tuple[int, ...] = (channels, size, size)
        for k in (width, 2 * width, 4 * width):
            y = t.conv(y, k, 4, 2, 1)
        t.conv(t.conv(y, 8 * width, 4, 1, 1), 1, 4, 1, 1)
    y = (3, size, size)
    while y[1] > 1:
        inner = min(8 * width, 2 * y[0] if y[0] > 3 else width)
        for c in (y[0], 2 * y[0]) if y[0] > 3 else (3,):
            t.up((2 * inner, *(n // 2 for n in y[1:])), c, 4, 2, 1)
        t.up((inner, *(n // 2 for n in y[1:])), y[0], 4, 2, 1)
        y = t.conv(y, inner, 4, 2, 1)


def super_resolution(t: Tracer, size: int, width: int, kernel: int = 3) -> None:
    x = t.conv((3, size, size), width, kernel)
    t.conv(x, width)
    for growth in (32,) if width == 64 else ():  # dense blocks
        for i in range(1, 5):
            t.conv((width + i * growth, size, size), growth if i < 4 else width)
    for times in (2, 2) if size < 64 else (2,):
        t.conv(x, 4 * width)
        t.conv(t.grow(x, 2), width)
        x = t.grow(x, times)
    t.conv(x, 3, kernel)


def diffusion(t: Tracer, size: int, width: int, multipliers: Sequence[int], channels: int = 3, blocks: int = 2) -> None:
    x = t.conv((channels, size, size), width)
    skips = [x]
    for level, times in enumerate(multipliers):
        for _ in range(blocks):
            k = width * times
            if x[0] != k:
                t.conv(x, k, 1)
            x = t.conv(t.conv(x, k), k)
            t.conv(x, 3 * k, 1)
            t.conv(x, k, 1)
            skips.append(x)
        if level + 1 < len(multipliers):
            x = t.conv(x, x[0], 3, 2, 1)
            skips.append(x)
    for level, times in reversed(list(enumerate(multipliers))):
        for _ in range(blocks + 1):
            k, joined = width * times, (x[0] + skips.pop()[0], *x[1:])
            t.conv(joined, k, 1)
            x = t.conv(t.conv(joined, k), k)
        if level:
            x = t.conv(t.grow(x, 2), x[0])
    t.conv(x, channels)


def autoencoder_kl(t: Tracer, size: int, width: int) -> None:
    x = t.conv((3, size, size), width)
    for level, times in enumerate((1, 2, 4, 4)):
        k = width * times
        if x[0] != k:
            t.conv(x, k, 1)
            t.conv((k, *x[1:]), x[0], 1)
            t.conv((k, *x[1:]), x[0])
        x = t.conv(t.conv(x, k), k)
        if level < 3:
            t.conv(x, k)
            x = t.conv((k, *(n + 1 for n in x[1:])), k, 3, 2, 0)
    for k in (4, 8, 16):
        t.conv(x, k)
        t.conv((k, *x[1:]), x[0])
    t.conv((width, size, size), 3)


def detector(t: Tracer, size: int, width: int, depth: int) -> None:
    """Backbone of cross-stage blocks, path aggregation and heads, as the YOLO family has them."""
    for first in (3, 6):
        t.conv((3, size, size), width, first, 2, 1 if first == 3 else 2)
    x: tuple[int, ...] = (width, size // 2, size // 2)
    kept = []
    for level in range(4):
        k = width << (level + 1)
        x = t.conv(x, k, 3, 2, 1)
        for c in (k // 2, k // 4):
            t.conv(t.conv((c, *x[1:]), c, 1), c)
        for i in range(2, 3 + depth):
            t.conv(((i * k) // 2, *x[1:]), k, 1)
        t.conv(x, k // 2, 1)
        t.conv(x, k, 1)
        kept.append(x)
    for y in kept[1:]:
        c = y[0]
        for wide in (c + c // 2, 2 * c, c, 3 * c):
            t.conv((wide, *y[1:]), c // 2, 1)
            t.conv((wide, *y[1:]), c, 1)
        t.conv(y, c, 3, 2, 1)
        for head in (64, 80, max(c // 4, 64)):
            t.conv(t.conv(t.conv(y, head), head), head, 1)
        t.conv(y, 255, 1)


def pyramid(t: Tracer, size: int) -> None:
    """A feature pyramid of 256 channels on a ResNet, with the heads of region proposals, RetinaNet and FCOS."""
    for stride, c in ((4, 256), (8, 512), (16, 1024), (32, 2048), (64, 256), (128, 256)):
        side = -(-size // stride)
        t.conv((c, side, side), 256, 1)
        x = t.conv((256, side, side), 256)
        for k in (3, 12, 15, 36, 80, 91, 4, 1, 720, 819):
            t.conv(x, k, 1 if k in (3, 12, 15) else 3)
    t.conv(t.conv((256, 14, 14), 256), 91, 1)
    t.conv((256, 7, 7), 256)


def small_images(t: Tracer, size: int) -> None:
    """Networks for CIFAR and MNIST: ResNets without a strided stem, wide ResNets, VGG, LeNet."""
    for widths in ((16, 16, 32, 64), (64, 64, 128, 256, 512), (16, 160, 320, 640), (32, 64, 128), (64, 128, 256, 512)):
        for channels in (1, 3):
            x = t.conv((channels, size, size), widths[0])
        for i, k in enumerate(widths[1:]):
            stride = 2 if i else 1
            t.conv(x, k, 1, stride, 0)
            t.conv(x, k, 3, 1, 1)
            t.conv(x, k, 3, 2, 1)
            x = t.conv(x, k, 3, stride, 1)
            t.conv(x, k)
    for channels in (1, 3):
        for k, then, kernel in ((6, 16, 5), (32, 64, 3), (32, 64, 5), (10, 20, 5), (20, 50, 5)):
            x = t.conv((channels, size, size), k, kernel, 1, 0)
            t.conv(x, then, kernel, 1, 0)
            t.conv((k, x[1] // 2, x[2] // 2), then, kernel, 1, 0)


def waves(t: Tracer, length: int) -> None:
    """Sound as a wave: wav2vec's encoder, WaveNet's stack, a network for commands, a codec's encoder."""
    x: tuple[int, ...] = (1, length)
    for kernel, stride in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)):
        x = t.conv(x, 512, kernel, stride, 0)
    t.conv((768, x[1]), 768, 128, 1, 64, groups=16)
    for width in (32, 64, 128):
        for level in range(10):
            y = t.conv((width, length), 2 * width, 2, 1, 1 << level, 1 << level)
            t.conv((width, length), 2 * width, 3, 1, 1 << level, 1 << level)
        t.conv((width, length), width, 1)
        t.conv((width, length), 256, 1)
        y = (1, length)
        y = t.conv(y, width, 80, 16, 0)
        for k in (width, 2 * width, 2 * width):
            y = t.conv((y[0], y[1] // 4), k, 3, 1, 0)
    y = t.conv((1, length), 32, 7)
    for stride in (2, 4, 5, 8):
        for dilation in (1, 3, 9):
            t.conv(y, y[0], 7, 1, None, dilation)
            t.conv(y, y[0] // 2, 3, 1, None, 1)
        y = t.conv(y, 2 * y[0], 2 * stride, stride, stride // 2)


def spectrograms(t: Tracer, frames: int) -> None:
    """Sound as frames: Whisper's stem, a Conformer, HiFi-GAN's generator on mel bands, a CNN on log-mel images."""
    for width in (384, 512, 768, 1024):
        t.conv(t.conv((80, frames), width), width, 3, 2, 1)
    for width in (144, 256, 512):
        t.conv((width, frames), 2 * width, 1)
        t.conv((width, frames), width, 31, groups=width)
        t.conv((width, frames), width, 1)
    x = t.conv((80, frames), 512, 7)
    for rate, kernel in ((8, 16), (8, 16), (2, 4), (2, 4)):
        x = t.up(x, x[0] // 2, kernel, rate, (kernel - rate) // 2)
        for size in (3, 7, 11):
            for dilation in (1, 3, 5):
                t.conv(x, x[0], size, 1, None, dilation)
    t.conv(x, 1, 7)
    y: tuple[int, ...] = (1, frames, 64)
    for k in (64, 128, 256, 512, 1024, 2048):
        y = t.conv(t.conv(y, k), k)
        y = (k, max(y[1] // 2, 1), max(y[2] // 2, 1))


def videos(t: Tracer, frames: int, size: int) -> None:
    """3-D ResNets and (2+1)-D ones."""
    x: tuple[int, ...] = (64, frames, size // 2, size // 2)
    for i, k in enumerate((64, 128, 256, 512)):
        t.conv(x, k)
        if i:
            t.conv(x, k, 1, 2, 0)
            x = t.conv(x, k, 3, 2, 1)
        t.conv(x, k)


def auxiliary_heads(t: Tracer, size: int) -> None:
    """The second heads that GoogLeNet, Inception-v3 and segmentation on a dilated ResNet have in training alone."""
    if size == 224:
        for c in (512, 528):
            t.conv((c, 4, 4), 128, 1)
    if size == 299:
        t.conv(t.conv((768, 5, 5), 128, 1), 768, 5, 1, 0)
    t.conv(t.conv((1024, -(-size // 8), -(-size // 8)), 256), 21, 1)


def networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name; the first word of the name is its kind."""

    for size in (96, 128, 192, 224, 256, 320, 384, 512, 640):
        for width in (16, 32, 64):
            for transposed in (True, False):
                yield traced(unet, size, width, 4, 2, 3, transposed)
        yield traced(unet, size, 64, 4, 2, 1, True)
    for size in (32, 48, 64, 96, 128):
        for width in (16, 32):
            yield traced(unet, size, width, 3, 3, 1, True)
    for size in (32, 64, 128):
        for width in (32, 64, 128):
            for channels in (1, 3):
                yield traced(dcgan, size, width, channels)
        yield traced(dcgan, size, 64, 3, 128)
    for size in (128, 256, 512):
        for width in (32, 64):
            yield traced(translation, size, width)
    for size, width, kernel in ((24, 64, 9), (32, 64, 3), (48, 256, 3), (96, 64, 3), (128, 64, 3), (64, 48, 3), (96, 32, 3)):
        yield traced(super_resolution, size, width, kernel)
    for size, width, times, channels in (
        (32, 128, (1, 2, 2, 2), 3), (32, 64, (1, 2, 4), 3), (28, 32, (1, 2, 4), 1), (64, 128, (1, 1, 2, 2, 4, 4), 3),
        (64, 192, (1, 2, 3, 4), 3), (128, 64, (1, 2, 4, 8), 3), (256, 128, (1, 1, 2, 2, 4, 4), 3), (64, 320, (1, 2, 4, 4), 4),
        (32, 320, (1, 2, 4, 4), 4), (64, 64, (1, 2, 4, 8), 3), (32, 192, (1, 2, 3, 5), 4), (128, 320, (1, 2, 4), 4),
    ):  # fmt: skip
        yield traced(diffusion, size, width, times, channels)
    for size in (128, 256, 512):
        for width in (64, 128):
            yield traced(autoencoder_kl, size, width)
    for size in (320, 416, 512, 640):
        for width in (16, 32, 48, 64):
            yield traced(detector, size, width, 3)
    for size in (256, 320, 512, 640, 800, 1024):
        yield traced(pyramid, size)
    for size in (224, 256, 299, 320, 384, 480, 512, 520):
        yield traced(auxiliary_heads, size)
    for size in (28, 32, 64):
        yield traced(small_images, size)
    for length in (8000, 16000, 32000, 48000, 80000, 160000):
        yield traced(waves, length)
    for frames in (64, 100, 200, 400, 500, 1000, 3000):
        yield traced(spectrograms, frames)
    for frames, size in ((8, 112), (16, 112), (16, 224), (32, 224)):
        yield traced(videos, frames, size)
