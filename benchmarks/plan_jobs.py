"""Twenty models of ten kinds for `benchmarks.plan_cells`: those of the zoo, two and four layers deep.

Their inputs are of real sizes, so that batches are too; depth is what tracing and replaying them takes time for.
"""

from __future__ import annotations

from benchmarks.zoo import contrastive, distill, gan, gpt, lstm, mlp, moe, resnet, unet, vit
from estimator import TrainingJob


def clip_small() -> TrainingJob:
    return contrastive._job("clip-small", 224, 32, 49408, 77, 256, 2, 4, "fp32")


def clip_medium() -> TrainingJob:
    return contrastive._job("clip-medium", 224, 32, 49408, 77, 512, 4, 8, "fp32")


def distill_small() -> TrainingJob:
    return distill._job("distill-small", 64, (16, 2), (32, 2), "fp32")


def distill_medium() -> TrainingJob:
    return distill._job("distill-medium", 128, (32, 4), (64, 4), "fp32")


def gan_small() -> TrainingJob:
    return gan._job("dcgan-small", 100, 32, 32)


def gan_medium() -> TrainingJob:
    return gan._job("dcgan-medium", 100, 64, 64)


def _gpt(name: str, tokens: int, width: int, layers: int, heads: int) -> TrainingJob:
    return gpt._job(name, 32000, tokens, lambda: gpt.GPT(32000, tokens, width, layers, heads), "fp32")


def gpt_small() -> TrainingJob:
    return _gpt("gpt-small", 256, 256, 2, 4)


def gpt_medium() -> TrainingJob:
    return _gpt("gpt-medium", 512, 512, 4, 8)


def lstm_small() -> TrainingJob:
    return lstm._job("lstm-small", 20000, 256, 1, 10, 128)


def lstm_medium() -> TrainingJob:
    return lstm._job("lstm-medium", 20000, 512, 2, 10, 256)


def mlp_small() -> TrainingJob:
    return mlp._job("mlp-small", 4096, 4096, 2, 10)


def mlp_medium() -> TrainingJob:
    return mlp._job("mlp-medium", 8192, 8192, 4, 10)


def moe_small() -> TrainingJob:
    return moe._job("moe-small", 32000, 256, 256, 1, 4, 4, "fp32")


def moe_medium() -> TrainingJob:
    return moe._job("moe-medium", 32000, 512, 512, 2, 8, 4, "fp32")


def resnet_small() -> TrainingJob:
    return resnet._job("resnet-small", (1, 1), 64, 1000, 224, "fp32")


def resnet_medium() -> TrainingJob:
    return resnet._job("resnet-medium", (1, 1, 1, 1), 64, 1000, 224, "fp32")


def unet_small() -> TrainingJob:
    return unet._job("unet-small", 32, 2, 2, 128, "fp32")


def unet_medium() -> TrainingJob:
    return unet._job("unet-medium", 64, 3, 2, 256, "fp32")


def vit_small() -> TrainingJob:
    return vit._job("vit-small", 224, 16, 256, 2, 4, 1000, "fp32")


def vit_medium() -> TrainingJob:
    return vit._job("vit-medium", 224, 16, 384, 4, 6, 1000, "fp32")
