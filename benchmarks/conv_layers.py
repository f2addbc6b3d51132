"""A convolution without its batch, and those of the models in libraries.

`layers_of_models` needs torch and torchvision; timm's models take part where it is installed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from estimator.scratch.conv_call import CudnnConv, Ints, Kind


class Layer(NamedTuple):
    """A convolution without its batch: channels and pixels of input and output, weight, geometry."""

    x: Ints
    w: Ints
    y: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int

    def at(self, batch: int, kind: Kind, dtype: str, nhwc: bool) -> CudnnConv:
        return CudnnConv(kind, dtype, nhwc, (batch, *self.x), self.w, (batch, *self.y), *self[3:])


def output(x: Ints, layer: Layer) -> Ints:
    """Pixels that come out of `x` pixels."""
    sizes = zip(x, layer.w[2:], layer.stride, layer.padding, layer.dilation, strict=True)
    return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)


def layers_of_models(
    sizes: Sequence[int] = (224, 160), others: bool = True, only: Sequence[str] = ()
) -> list[Layer]:
    """The distinct convolutions of torchvision's models, or `only` some, at these sizes, and of two timm models a family."""
    import torch

    from benchmarks.vision import models

    library = models()
    names = only or [n for n in library.list_models() if "quantized" not in n]

    def torchvisions(name: str) -> Any:
        try:
            return library.get_model(name, weights=None, weights_backbone=None)  # the backbone's would be downloaded
        except TypeError:
            return library.get_model(name, weights=None)

    makers: list[Callable[[], Any]] = [functools.partial(torchvisions, name) for name in names]
    try:
        import timm
    except ModuleNotFoundError:
        print("timm is not installed: torchvision's models only", file=sys.stderr)
        others = False
    if others:
        families: dict[str, list[str]] = {}
        for name in timm.list_models():
            families.setdefault(name.split("_")[0].rstrip("0123456789"), []).append(name)
        makers += [functools.partial(timm.create_model, n) for names in families.values() for n in names[:2]]
    found: dict[Layer, None] = {}
    for make in makers:
        for size in sizes:
            try:
                model = _built(make).eval()
                with torch.device("meta"), torch.no_grad():
                    _record(model, torch.randn(1, 3, size, size), found)
            except Exception as error:  # a model of other inputs, or one that reads values: any error may come
                print(f"left out: {type(error).__name__}: {error}"[:120], file=sys.stderr)
                break
    return list(found)


def _built(make: Callable[[], Any]) -> Any:
    """The model without data; one that computes its sizes with tensors (RegNet) is built with data first."""
    import torch

    try:
        with torch.device("meta"):
            return make()
    except RuntimeError:  # NotImplementedError, a kind of it, from `tolist`
        return make().to("meta")


def _record(model: Any, image: Any, found: dict[Layer, None]) -> None:
    """Run the model on shapes alone and add its convolutions to `found`."""
    from torch import nn

    def hook(module: Any, inputs: Any, out: Any) -> None:
        x, y, spatial = tuple(inputs[0].shape), tuple(out.shape), inputs[0].dim() - 2
        near, far = (y, x) if module.transposed else (x, y)
        if isinstance(module.padding, str) or spatial < 2:
            return
        layer = Layer(near[1:], tuple(module.weight.shape), far[1:], module.stride, module.padding, module.dilation,
                      module.groups)  # fmt: skip
        if module.transposed or output(layer.x[1:], layer) == layer.y[1:]:
            found[layer] = None

    convolutions = [m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    for module in convolutions:
        module.register_forward_hook(hook)
    model(image)
