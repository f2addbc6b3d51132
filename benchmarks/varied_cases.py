"""What people write themselves: small whole models of many fields, each with its own loss, and optimizers seldom used.

No rule was made for any of them before they were measured. Held apart from `semantic_cases.py`, which goes op by op.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from benchmarks import varied_images as images
    from benchmarks import varied_models as models
    from benchmarks.cases import ADAMW, SGD, Batch, Case
except ImportError:  # beside cases.py, outside the package
    import varied_images as images  # type: ignore[import-not-found, no-redef]
    import varied_models as models  # type: ignore[import-not-found, no-redef]
    from cases import ADAMW, SGD, Batch, Case


def own(m: nn.Module, batch: Batch) -> Tensor:
    """The model gives its loss itself."""
    out: Tensor = m(*batch)
    return out


def classify(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0]), batch[1], label_smoothing=0.1)


def soft(m: nn.Module, batch: Batch) -> Tensor:
    """Targets that are probabilities, as mixing two samples makes them."""
    return F.cross_entropy(m(batch[0]), batch[1])


def to(target: Callable[[Tensor, Tensor], Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
    return lambda m, batch: target(m(batch[0]), batch[1])


def ids(vocabulary: int, *lengths: int) -> Callable[[int], Batch]:
    return lambda n: tuple(torch.randint(1, vocabulary, (n, t)) for t in lengths)


def floats(*shapes: tuple[int, ...]) -> Callable[[int], Batch]:
    return lambda n: tuple(torch.randn(n, *shape) for shape in shapes)


def labelled(classes: int, *shape: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, *shape), torch.randint(0, classes, (n,)))


def mixed(n: int) -> Batch:
    return torch.randn(n, 784), torch.rand(n, 1000).softmax(-1)


def graph(n: int) -> Batch:
    """Nodes, edges (five a node), and a class for each node."""
    return torch.randn(n, 128), torch.randint(0, n, (2, 5 * n)), torch.randint(0, 40, (n,))


def clicks(n: int) -> Batch:
    return torch.randn(n, 13), torch.randint(0, 20000, (n, 4, 10)), torch.rand(n)


def tagged(n: int) -> Batch:
    return torch.randn(n, 40, 64), torch.randint(0, 24, (n, 40))


def deep_net() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(784, 1024)]
    for _ in range(3):
        layers += [nn.BatchNorm1d(1024), nn.ELU(), nn.Dropout(0.3), nn.Linear(1024, 1024)]
    return nn.Sequential(*layers, nn.PReLU(), nn.Linear(1024, 1000))


def optimizer(name: str, **options: Any) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return functools.partial(getattr(torch.optim, name), **options)


_NET = (deep_net, labelled(1000, 784), classify)
_ALL = [
    Case("seq2seq-amp", models.Seq2Seq, ids(8000, 40, 30), own, ADAMW, "amp-bf16", (4, 64)),
    Case("seq2seq-fp32", models.Seq2Seq, ids(8000, 40, 30), own, ADAMW, "fp32", (4, 64)),
    Case("attention_weights-fp32", models.Weighed, floats((96, 128)), own, ADAMW, "fp32", (8, 128)),
    Case("attention_weights-fp16", models.Weighed, floats((96, 128)), own, ADAMW, "amp-fp16", (8, 128), grad_scaler=True),
    Case("relative_bias-amp", models.RelativeBias, floats((196, 192)), own, ADAMW, "amp-bf16", (4, 48)),
    Case("linear_attention-bf16", models.LinearAttention, floats((128, 128)), own, ADAMW, "bf16", (4, 32)),
    Case("wave-fp32", images.Wave, floats((1, 4000)), own, ADAMW, "fp32", (2, 16)),
    Case("wave-amp", images.Wave, floats((1, 4000)), own, ADAMW, "amp-bf16", (2, 16)),
    Case("ranking-fp32", models.Ranking, clicks, own, optimizer("Adagrad"), "fp32", (256, 8192)),
    Case("graph-fp32", models.Graph, graph, own, ADAMW, "fp32", (1000, 30000)),
    Case("autoencoder-amp", models.VariationalAutoencoder, floats((784,)), own, ADAMW, "amp-bf16", (64, 4096)),
    Case("fno-fp32", images.FNO, floats((32, 64, 64)), own, ADAMW, "fp32", (2, 16)),
    Case("nerf-fp32", images.NeRF, floats((64, 3), (3,)), own, ADAMW, "fp32", (64, 2048)),
    Case("pointnet-amp", images.PointNet, labelled(40, 3, 1024), classify, ADAMW, "amp-bf16", (4, 32)),
    Case("metric-fp32", models.Metric, labelled(50, 784), own, ADAMW, "fp32", (64, 1024)),
    Case("vq-fp32", models.VQ, floats((64, 64)), own, ADAMW, "fp32", (4, 128)),
    Case("crf-fp32", models.CRF, tagged, own, ADAMW, "fp32", (16, 512)),
    Case("conv_lstm-fp32", images.ConvLSTM, floats((6, 8, 32, 32)), own, ADAMW, "fp32", (2, 16)),
    Case("unrolled_gru-amp", models.Unrolled, ids(5000, 24), own, ADAMW, "amp-bf16", (16, 512)),
    Case("distilled-amp", models.Distilled, floats((784,)), own, ADAMW, "amp-bf16", (64, 2048)),
    Case("adapted-bf16", models.Adapted, ids(4000, 64), own, SGD, "bf16", (4, 64)),
    Case("two_towers-amp16", models.TwoTowers, ids(30000, 32, 20), own, ADAMW, "amp-fp16", (16, 512), 1.0, 1, True),
    Case("super_resolution-amp", images.SuperResolution, floats((3, 48, 48)), own, ADAMW, "amp-bf16", (2, 16)),
    Case("style-fp16-channels_last", images.Style, floats((3, 96, 96)), own, ADAMW, "amp-fp16", (2, 12), None, 1, True, True),
    Case("style-fp32", images.Style, floats((3, 96, 96)), own, ADAMW, "fp32", (2, 12)),
    Case("spatial-fp32", images.Spatial, labelled(10, 1, 64, 64), classify, SGD, "fp32", (8, 128)),
    Case("unfolded-fp32", images.Unfolded, labelled(10, 3, 32, 32), classify, SGD, "fp32", (8, 256)),
    Case("mixed-fp32", deep_net, mixed, soft, SGD, "fp32", (64, 4096)),
    Case("deep-fp32-adamax", *_NET, optimizer("Adamax"), "fp32", (64, 2048)),
    Case("deep-fp32-adadelta", *_NET, optimizer("Adadelta"), "fp32", (64, 2048)),
    Case("deep-amp-radam", *_NET, optimizer("RAdam", weight_decay=0.1), "amp-bf16", (64, 2048)),
    Case("deep-fp32-asgd", *_NET, optimizer("ASGD"), "fp32", (64, 2048)),
    Case("deep-fp32-rprop", *_NET, optimizer("Rprop"), "fp32", (64, 2048)),
    Case("deep-fp32-amsgrad", *_NET, optimizer("AdamW", amsgrad=True, foreach=False), "fp32", (64, 2048), 1.0),
    Case("deep-fp32-nesterov", *_NET, optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4), "fp32", (64, 2048)),
    Case("deep-amp-adam_fused", *_NET, optimizer("Adam", fused=True, weight_decay=0.1, amsgrad=True), "amp-bf16", (64, 2048), 1.0, 2),
    Case("deep-fp32-huber", deep_net, floats((784,), (1000,)), to(F.huber_loss), SGD, "fp32", (64, 2048)),
    Case("deep-bf16-cosine", deep_net, floats((784,), (1000,)), to(lambda x, y: 1 - F.cosine_similarity(x, y).mean()), SGD, "bf16", (64, 2048)),
]  # fmt: skip
CASES: dict[str, Case] = {c.name: c for c in _ALL}
