"""Which layers have a line of measured workspaces, and in which types and layouts they are asked.

The layers of torchvision's models at 224 and 256 pixels, of some at other usual sizes, of timm's at 224, plain layers and
whole networks written down (`conv_networks`, `conv_patch_networks`), at every one of `conv_sample.BATCHES`; those of small
networks (`conv_small_networks`, `conv_field_networks`, `conv_series_networks`) at `LARGE_BATCHES` too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks.conv_field_networks import field_networks
from benchmarks.conv_layers import Layer, layers_of_models, output
from benchmarks.conv_networks import networks
from benchmarks.conv_patch_networks import channels_last_networks, patch_networks
from benchmarks.conv_sample import BATCHES, KINDS, LARGE_BATCHES, goes_to_cudnn
from benchmarks.conv_series_networks import series_networks, volume_networks
from benchmarks.conv_small_networks import small_networks
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv

Form = tuple[str, bool]
OTHER_SIZES: dict[tuple[int, ...], tuple[str, ...]] = {
    (128, 160, 192, 288, 320, 384): (
        "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16", "convnext_tiny", "convnext_base",
        "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s",
    ),
    (160, 192, 288, 384): ("densenet121", "densenet169", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_16gf"),
    (32, 64, 96): (
        "resnet18", "resnet50", "vgg16", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0",
        "convnext_tiny", "densenet121", "shufflenet_v2_x1_0", "squeezenet1_1", "googlenet",
    ),
    (512, 640, 800): ("resnet50",),
    (240,): ("efficientnet_b1",), (260, 288): ("efficientnet_b2",), (299,): ("inception_v3",),
    (300,): ("efficientnet_b3", "efficientnet_v2_s"), (380,): ("efficientnet_b4",), (456,): ("efficientnet_b5",),
    (384, 480): ("efficientnet_v2_m",),
    (320, 384, 480, 512, 520): ("deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"),
}  # fmt: skip
"""Image sizes besides 224 and 256, and torchvision's models at them; a deeper or plainer model of a family has the same
layers.

Source: the sizes at which torchvision's weights were trained and are scored (its references and `Weights.transforms`),
those of detectors and segmentation, and the multiples of 32 in use for smaller and larger images.
"""


AS_THEY_ARE = ("cells", "style", "enlarger", "players")
"""Kinds of small networks on images that are asked with the channels outermost alone, as series and volumes are."""


def grid() -> Iterator[Layer]:
    """Layers of networks that people write themselves: usual channels, square images, usual kernels."""
    widths = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    for c in widths:
        for side in (7, 8, 14, 16, 28, 32, 48, 56, 64, 96, 112, 128, 160, 192, 224, 256):
            if c * side * side > 64 * 256 * 256:
                continue
            ks = [k for k in (c // 2, c, 2 * c) if k in widths]
            for kernel, stride, padding in ((3, 1, 1), (1, 1, 0), (3, 2, 1), (4, 2, 1), (5, 2, 2), (5, 1, 2), (2, 2, 0)):
                pairs = [(c, k) for k in (ks if kernel < 5 else ks[-2:])]
                if kernel == 3 or (kernel, stride) in ((5, 2), (4, 2)):
                    pairs += [(1, c), (3, c), *([(c, 1), (c, 3)] if c <= 128 else [])]
                for near, far in pairs:
                    layer = Layer((near, side, side), (far, near, kernel, kernel), (), (stride,) * 2, (padding,) * 2,
                                  (1, 1), 1)  # fmt: skip
                    yield layer._replace(y=(far, *output((side, side), layer)))


def line_layers(half: str, *, with_timm: bool) -> dict[Layer, list[Form]]:
    """Every layer with the types and layouts (channels innermost?) it is asked in."""
    usual: list[Form] = [("float32", False), (half, False), (half, True)]
    layers = [*layers_of_models((224,), others=with_timm), *layers_of_models((256,), others=False), *grid()]
    layers += [layer for _, found in (*networks(), *patch_networks()) for layer in found]
    for sizes, names in OTHER_SIZES.items():
        layers += layers_of_models(sizes, others=False, only=names)
    forms = small_layers(half) | {layer: list(usual) for layer in layers}
    for _, found in channels_last_networks():
        for layer in found:
            forms[layer] = [*usual, ("float32", True)]
    return forms


def written_layers(half: str) -> list[Layer]:
    """The distinct layers of networks that are written down, large and small."""
    large = (layer for _, found in (*networks(), *patch_networks()) for layer in found)
    return list(dict.fromkeys((*small_layers(half), *large)))


def small_layers(half: str) -> dict[Layer, list[Form]]:
    """Layers of small networks; with the channels innermost where people lay such networks out so."""
    plain: list[Form] = [("float32", False), (half, False)]
    found: dict[Layer, list[Form]] = {}
    for name, layers in (*small_networks(), *field_networks()):
        for layer in layers:
            if name.split()[0] in AS_THEY_ARE:
                found.setdefault(layer, plain)
            else:
                found[layer] = [*plain, (half, True)]
    for _, layers in (*series_networks(), *volume_networks()):
        for layer in layers:
            found.setdefault(layer, plain)
    return found


def line_calls(half: str, known: conv_lines.Lines | None, *, with_timm: bool) -> Iterator[tuple[int, CudnnConv]]:
    """All convolutions to ask, with the number of their layer; those that have a line in `known` are left out.

    A small network's layer is asked again where its line ends before the larger batch sizes, and is not one of all sizes.
    """
    small = small_layers(half)
    every = line_layers(half, with_timm=with_timm)
    for number, (layer, forms) in enumerate(every.items()):
        batches = (*BATCHES, *LARGE_BATCHES) if layer in small else BATCHES
        for (dtype, nhwc), kind in itertools.product(forms, KINDS):
            calls = [call for batch in batches if goes_to_cudnn(call := layer.at(batch, kind, dtype, nhwc))]
            words = conv_lines.find(known.text, conv_lines.fingerprint(calls[0])) if known is not None and calls else None
            if calls and (words is None or ("*" not in words[0] and int(words[0]) < calls[-1].x[0])):
                yield from ((number, call) for call in calls)
