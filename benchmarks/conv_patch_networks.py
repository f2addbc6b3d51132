"""Layers of networks that cut pictures into patches, and of heads for segmentation. Needs no torch.

Written down from the papers (ViT and MLP-Mixer, Swin and ConvNeXt, SegFormer, DeepLab and FCN) over the widths and image
sizes that people take; `benchmarks.conv_networks` has the other kinds.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.conv_tracer import Found, Tracer

SIZES = (224, 256, 384, 512)
WIDTHS = (192, 256, 384, 512, 768, 1024, 1280)
"""Of ViT tiny to huge and of MLP-Mixer."""


def patches(t: Tracer, size: int) -> None:
    """The first layer of a network on patches, and the strided 2x2 and 3x3 ones between the stages of those that merge."""
    for width in WIDTHS:
        for patch in (8, 14, 16, 32):
            t.conv((3, size - size % patch, size - size % patch), width, patch, patch, 0)
    for width in (64, 80, 96, 128, 192):
        x = t.conv((3, size, size), width, 4, 4, 0)
        for _ in range(3):
            x = t.conv(x, 2 * x[0], 2, 2, 0)


def mix_transformer(t: Tracer, size: int, first: int) -> None:
    """SegFormer's encoder (b0: 32 channels first, b1 to b5: 64) and its head of products."""
    x: tuple[int, ...] = (3, size, size)
    sides = []
    for level, times in enumerate((1, 2, 5, 8)):
        kernel, stride = (7, 4) if level == 0 else (3, 2)
        x = t.conv(x, first * times, kernel, stride, kernel // 2)
        if level < 3:
            t.conv(x, x[0], 8 >> level, 8 >> level, 0)  # keys and values of fewer positions
        t.conv((4 * x[0], *x[1:]), 4 * x[0], groups=4 * x[0])
        sides.append(x[1:])
    for width in (256, 768):
        for classes in (2, 19, 21, 150):
            t.conv((width, *sides[0]), classes, 1)
        t.conv((4 * width, *sides[0]), width, 1)


def dilated_heads(t: Tracer, size: int) -> None:
    """DeepLab's pyramid of dilations on the last features of a ResNet at an eighth and a sixteenth; FCN's heads."""
    for stride, rates in ((8, (12, 24, 36)), (16, (6, 12, 18))):
        side = -(-size // stride)
        x = (2048, side, side)
        for rate in rates:
            t.conv(x, 256, 3, 1, None, rate)
        t.conv(x, 256, 1)
        t.conv(t.conv((1280, side, side), 256, 1), 256)
        for c in (2048, 1024):
            y = t.conv((c, side, side), c // 4)
            for classes in (2, 19, 21):
                t.conv(y, classes, 1)
                t.conv((256, side, side), classes, 1)


def patch_networks() -> Iterator[tuple[str, Found]]:
    """Each network with its name."""
    for size in SIZES:
        for make in (patches, dilated_heads):
            tracer = Tracer()
            make(tracer, size)
            yield f"{make.__name__} {size}", tracer.found


def channels_last_networks() -> Iterator[tuple[str, Found]]:
    """Those whose layers get float32 with the channels innermost as they stand: their pictures come from sequences."""
    for size in SIZES:
        for first in (32, 64):
            tracer = Tracer()
            mix_transformer(tracer, size, first)
            yield f"mix_transformer {size} {first}", tracer.found
