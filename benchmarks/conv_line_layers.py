"""Which layers have a line of measured workspaces, and in which types and layouts they are asked.

The layers of torchvision's models at 224 and 256 pixels, of some at other usual sizes, of timm's at 224, plain layers and
whole networks written down (`conv_networks`, `conv_patch_networks`), at every one of `conv_sample.BATCHES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks.conv_networks import networks
from benchmarks.conv_patch_networks import channels_last_networks, patch_networks
from benchmarks.conv_sample import BATCHES, KINDS, Layer, goes_to_cudnn, layers_of_models, output
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv

Form = tuple[str, bool]
OTHER_SIZES: dict[tuple[int, ...], tuple[str, ...]] = {
    (128, 160, 192, 288, 320, 384): (
        "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg16", "convnext_tiny", "convnext_base",
        "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s",
    ),
    (160, 192, 288, 384): ("densenet121", "densenet169", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_16gf"),
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
    forms = {layer: list(usual) for layer in layers}
    for _, found in channels_last_networks():
        for layer in found:
            forms[layer] = [*usual, ("float32", True)]
    return forms


def line_calls(half: str, known: conv_lines.Lines | None, *, with_timm: bool) -> Iterator[tuple[int, CudnnConv]]:
    """All convolutions to ask, with the number of their layer; those that have a line in `known` are left out."""
    for number, (layer, forms) in enumerate(line_layers(half, with_timm=with_timm).items()):
        for (dtype, nhwc), kind in itertools.product(forms, KINDS):
            if known is not None and conv_lines.find(
                known.text, conv_lines.fingerprint(layer.at(1, kind, dtype, nhwc))
            ):
                continue
            for batch in BATCHES:
                call = layer.at(batch, kind, dtype, nhwc)
                if goes_to_cudnn(call):
                    yield number, call
