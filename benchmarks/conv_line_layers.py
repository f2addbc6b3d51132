"""Which layers have a line of measured workspaces, and in which types and layouts they are asked.

The layers of torchvision's models at 224 and 256 pixels, of timm's at 224, plain layers and whole networks written down
(`conv_networks`, `conv_patch_networks`), at every one of `conv_sample.BATCHES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from benchmarks.conv_networks import grid, networks
from benchmarks.conv_patch_networks import channels_last_networks, patch_networks
from benchmarks.conv_sample import BATCHES, KINDS, Layer, goes_to_cudnn, layers_of_models
from estimator.scratch import conv_lines
from estimator.scratch.conv_call import CudnnConv

Form = tuple[str, bool]


def line_layers(half: str, *, with_timm: bool) -> dict[Layer, list[Form]]:
    """Every layer with the types and layouts (channels innermost?) it is asked in."""
    usual: list[Form] = [("float32", False), (half, False), (half, True)]
    layers = [*layers_of_models((224,), others=with_timm), *layers_of_models((256,), others=False), *grid()]
    layers += [layer for _, found in (*networks(), *patch_networks()) for layer in found]
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
