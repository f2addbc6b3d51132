"""What people train day by day: whole networks at the sizes that papers and repositories give them.

No rule was made for any of them before they were measured. Beside `varied_cases.py`, whose models are small.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

try:
    from benchmarks import everyday_generators as generators
    from benchmarks import everyday_images as images
    from benchmarks import everyday_language as language
    from benchmarks import everyday_models as models
    from benchmarks.cases import ADAMW, SGD, Batch, Case
    from benchmarks.varied_cases import classify, floats, ids, labelled, optimizer, own
except ImportError:  # beside cases.py, outside the package
    import everyday_generators as generators  # type: ignore[import-not-found, no-redef]
    import everyday_images as images  # type: ignore[import-not-found, no-redef]
    import everyday_language as language  # type: ignore[import-not-found, no-redef]
    import everyday_models as models  # type: ignore[import-not-found, no-redef]
    from cases import ADAMW, SGD, Batch, Case
    from varied_cases import (  # type: ignore[import-not-found, no-redef]
        classify,
        floats,
        ids,
        labelled,
        optimizer,
        own,
    )


def segment(m: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(m(batch[0])["out"], batch[1], ignore_index=255)


def library(m: nn.Module, batch: Batch) -> Tensor:
    """A transformers model that gets its labels."""
    loss: Tensor = m(input_ids=batch[0], labels=batch[0]).loss
    return loss


def noisy(*shape: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, *shape), torch.randint(0, 1000, (n,)))


def maps(classes: int, channels: int, *pixels: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, channels, *pixels), torch.randint(0, classes, (n, *pixels)))


def graphs(n: int) -> Batch:
    """Twenty nodes a graph, four edges a node."""
    return torch.randn(20 * n, 64), torch.randint(0, 20 * n, (80 * n, 2)), torch.arange(n).repeat_interleave(20), torch.randint(0, 10, (n,))


def clicks(n: int) -> Batch:
    return torch.rand(n, 13), torch.randint(0, 50000, (n, 16, 3)), torch.rand(n)


def played(n: int) -> Batch:
    return torch.randn(n, 64), torch.randint(0, 18, (n,)), torch.randn(n), torch.randn(n), torch.randn(n)


def sound(n: int) -> Batch:
    return torch.randn(n, 400, 80), torch.randint(1, 32, (n, 30))


def torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        try:
            from benchmarks.vision import models as find
        except ImportError:  # beside cases.py, outside the package
            from torchvision.models import get_model
        else:
            get_model = find().get_model
        made: nn.Module = get_model(name, weights=None, **options)
        return made

    return make


def body(name: str) -> nn.Module:
    made = torchvision(name)()
    made.fc = nn.Identity()
    return made


def transformer(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with suppress(ImportError):  # beside cases.py, outside the package
            from benchmarks.vision import settle

            settle()
        import transformers

        config = getattr(transformers, f"{kind}Config")(**options)
        name = {"Bert": "BertForMaskedLM", "T5": "T5ForConditionalGeneration", "Electra": "ElectraForMaskedLM"}
        made: nn.Module = getattr(transformers, name.get(kind, f"{kind}LMHeadModel"))(config)
        return made

    return make


_FUSED = optimizer("AdamW", fused=True)
_NESTEROV = optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
_ALL = [
    Case("decoder-bf16", language.Decoder, ids(32000, 513), own, _FUSED, "bf16", (2, 12), 1.0),
    Case("decoder-amp", language.Decoder, ids(32000, 513), own, ADAMW, "amp-bf16", (2, 12), 1.0),
    Case("decoder-checkpointed-amp", functools.partial(language.Decoder, is_checkpointed=True, pieces=8), ids(32000, 1025), own, _FUSED, "amp-bf16", (2, 8), 1.0, 2),
    Case("experts-fp32", language.Experts, ids(8000, 129), own, ADAMW, "fp32", (4, 32)),
    Case("experts-bf16", language.Experts, ids(8000, 129), own, _FUSED, "bf16", (4, 32), 1.0),
    Case("state_space-fp32", language.StateSpace, ids(2000, 65), own, ADAMW, "fp32", (4, 32)),
    Case("graph_attention-fp32", models.GraphAttention, graphs, own, ADAMW, "fp32", (32, 512)),
    Case("graph_attention-amp", models.GraphAttention, graphs, own, ADAMW, "amp-bf16", (32, 512)),
    Case("recommender-fp32", models.Recommender, clicks, own, optimizer("Adagrad", lr=0.01), "fp32", (512, 8192)),
    Case("recommender-amp16", models.Recommender, clicks, own, optimizer("Adam"), "amp-fp16", (512, 8192), None, 1, True),
    Case("flow-fp32", models.Flow, floats((256,)), own, optimizer("Adam"), "fp32", (128, 4096), 5.0),
    Case("equation-fp32", models.Equation, floats((2,)), own, optimizer("Adam"), "fp32", (1000, 50000)),
    Case("dynamics-fp32", models.Dynamics, floats((64,), (64,)), own, ADAMW, "fp32", (128, 4096)),
    Case("perceiver-amp", models.Perceiver, labelled(100, 1024, 64), own, ADAMW, "amp-bf16", (4, 64)),
    Case("perceiver-fp32", models.Perceiver, labelled(100, 1024, 64), own, ADAMW, "fp32", (4, 64)),
    Case("translator-fp32", language.Translator, ids(10000, 48, 49), own, optimizer("Adam", betas=(0.9, 0.98)), "fp32", (8, 96)),
    Case("translator-amp16", language.Translator, ids(10000, 48, 49), own, ADAMW, "amp-fp16", (8, 96), 1.0, 1, True),
    Case("preferences-bf16", language.Preferences, ids(8000, 128, 128), own, optimizer("RMSprop"), "bf16", (4, 32), 1.0),
    Case("player-fp32", models.Player, played, own, optimizer("Adam", eps=1e-5), "fp32", (256, 16384), 0.5),
    Case("tabular-fp32", models.Tabular, floats((40,), ()), own, ADAMW, "fp32", (64, 1024)),
    Case("tabular-amp", models.Tabular, floats((40,), ()), own, ADAMW, "amp-bf16", (64, 1024)),
    Case("diffusion32-amp", generators.Diffusion, noisy(3, 32, 32), own, ADAMW, "amp-bf16", (4, 96), 1.0),
    Case("diffusion64-fp32", generators.Diffusion, noisy(3, 64, 64), own, ADAMW, "fp32", (2, 16)),
    Case("diffusion32-fp16-channels_last", generators.Diffusion, noisy(3, 32, 32), own, ADAMW, "amp-fp16", (4, 64), 1.0, 1, True, True),
    Case("vae-fp32", generators.Autoencoder, floats((3, 64, 64)), own, optimizer("Adam"), "fp32", (16, 256)),
    Case("vae-amp", generators.Autoencoder, floats((3, 64, 64)), own, optimizer("Adam"), "amp-bf16", (16, 256)),
    Case("translated-fp32", generators.Translated, floats((3, 128, 128), (3, 128, 128)), own, optimizer("Adam"), "fp32", (1, 8)),
    Case("contrast-amp", lambda: generators.Contrast(body("resnet18"), 512), floats((3, 96, 96), (3, 96, 96)), own, SGD, "amp-bf16", (16, 128)),
    Case("followed-fp32", lambda: generators.Followed(body("resnet18"), 512), floats((3, 64, 64), (3, 64, 64)), own, SGD, "fp32", (16, 128)),
    Case("masked-amp", images.Masked, floats((3, 96, 96)), own, ADAMW, "amp-bf16", (16, 256)),
    Case("masked-fp32", images.Masked, floats((3, 96, 96)), own, ADAMW, "fp32", (16, 128)),
    Case("windows-amp", images.Windows, labelled(100, 3, 224, 224), own, ADAMW, "amp-bf16", (2, 32)),
    Case("windows-fp32", images.Windows, labelled(100, 3, 224, 224), own, ADAMW, "fp32", (2, 16)),
    Case("volumes-amp", images.Volumes, maps(4, 4, 64, 64, 64), own, ADAMW, "amp-fp16", (1, 4), None, 1, True),
    Case("volumes-fp32", images.Volumes, maps(4, 4, 64, 64, 64), own, ADAMW, "fp32", (1, 4)),
    Case("speech-fp32", images.Speech, sound, own, ADAMW, "fp32", (2, 24)),
    Case("speech-amp", images.Speech, sound, own, ADAMW, "amp-bf16", (2, 24)),
    Case("conv_mixer-amp", images.Mixer, labelled(100, 3, 224, 224), own, ADAMW, "amp-bf16", (4, 64), 1.0),
    Case("conv_mixer-fp32", images.Mixer, labelled(100, 3, 224, 224), own, ADAMW, "fp32", (4, 48)),
    Case("pyramid-fp32", lambda: images.Pyramid(body("resnet18"), (128, 256, 512)), floats((3, 320, 320), (4,)), own, SGD, "fp32", (2, 16)),
    Case("pyramid-amp", lambda: images.Pyramid(body("resnet50"), (512, 1024, 2048), 256, 80), floats((3, 512, 512), (4,)), own, SGD, "amp-fp16", (2, 8), None, 1, True),
    Case("resnet18_32-amp", torchvision("resnet18", num_classes=10), labelled(10, 3, 32, 32), classify, _NESTEROV, "amp-bf16", (128, 1024)),
    Case("wide_resnet50_288-amp", torchvision("wide_resnet50_2"), labelled(1000, 3, 288, 288), classify, _NESTEROV, "amp-fp16", (4, 48), None, 1, True),
    Case("mobilenet_v2_192-fp32", torchvision("mobilenet_v2"), labelled(1000, 3, 192, 192), classify, optimizer("RMSprop", momentum=0.9), "fp32", (8, 64)),
    Case("efficientnet_b3-amp-channels_last", torchvision("efficientnet_b3"), labelled(1000, 3, 300, 300), classify, ADAMW, "amp-bf16", (4, 32), None, 1, False, True),
    Case("vit_l_16-amp16", torchvision("vit_l_16"), labelled(1000, 3, 224, 224), classify, _FUSED, "amp-fp16", (2, 32), 1.0, 1, True),
    Case("swin_v2_t-amp", torchvision("swin_v2_t"), labelled(1000, 3, 256, 256), classify, ADAMW, "amp-bf16", (2, 32), 5.0),
    Case("deeplab_mobile-amp", torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None, num_classes=21), maps(21, 3, 320, 320), segment, SGD, "amp-bf16", (2, 16)),
    Case("gpt2_medium-amp", transformer("GPT2", n_embd=1024, n_layer=24, n_head=16), ids(50257, 512), library, _FUSED, "amp-bf16", (1, 8), 1.0, 4),
    Case("electra-fp32", transformer("Electra", hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024), ids(30522, 128), library, ADAMW, "fp32", (8, 64), 1.0),
    Case("bert-large-amp16", transformer("Bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096), ids(30522, 256), library, ADAMW, "amp-fp16", (2, 16), 1.0, 1, True),
    Case("t5_small-bf16", transformer("T5", decoder_start_token_id=0), ids(32128, 192), library, optimizer("Adafactor"), "bf16", (4, 48)),
]  # fmt: skip
CASES: dict[str, Case] = {c.name: c for c in _ALL}
