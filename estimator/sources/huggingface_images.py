"""Images among text: what a vision-language model of transformers is fed for an image, and how many tokens that is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from estimator.errors import SourceError
from estimator.sources.masks import EveryElement


@dataclass
class ImageInputs:
    """`tokens` placeholders of id `token` stand in the text for each image; `makers` make the tensors of n images."""

    tokens: int = 0
    token: int | None = None
    makers: dict[str, Callable[[int], Any]] = field(default_factory=dict)


def image_inputs(kind: Any, config: Any, image: tuple[int, int, int], where: str) -> ImageInputs:
    """Work out the image inputs of a model whose text has placeholders for them; nothing for any other model.

    Args:
        kind: the model class.
        config: its config; a placeholder's id is written into it where it names none but needs one.
        image: channels, height and width of one image.
        where: for errors.

    Raises:
        SourceError: how many tokens an image becomes cannot be known.
    """
    token = next(
        (t for n in ("image_token_id", "image_token_index") if (t := getattr(config, n, None)) is not None), None
    )
    queries = getattr(config, "num_query_tokens", None)
    if queries is not None:
        # BLIP-2 and its kin: a fixed number of queries stands for an image, whatever its size.
        token = token if token is not None else config.get_text_config().vocab_size - 1
        config.image_token_index = config.image_token_id = token
        return ImageInputs(queries, token)
    parameters = inspect.signature(kind.forward).parameters
    if "aspect_ratio_ids" in parameters:
        return _seen_across(config.vision_config, image)
    if token is None:
        return _fixed_queries(config) if "image_embeds_position_mask" in parameters else ImageInputs()
    if "image_grid_thw" in parameters:
        return _patches_of_any_size(config.vision_config, image, token)
    try:
        if "image_sizes" in parameters and hasattr(config, "image_grid_pinpoints"):
            return _tiles(kind, config, image, token)
        if "pixel_attention_mask" in parameters:  # Idefics 3 and its kin: several images, or cuts of one, to a sample
            vision = config.vision_config
            tokens = (vision.image_size // vision.patch_size) ** 2 // config.scale_factor**2
            return ImageInputs(tokens, token, {"pixel_values": lambda n: torch.randn(n, 1, *image)})
        return ImageInputs(_asked(kind, config, pixel_values=torch.empty(1, *image, device="meta")), token)
    except Exception as error:
        raise SourceError(
            f"how many tokens an image becomes is not known for {kind.__name__}",
            got=f"{type(error).__name__}: {str(error)[:120]}",
            where=where,
            hint="give a TrainingJob of your own whose batch has the processor's outputs",
        ) from error


def _seen_across(vision: Any, image: tuple[int, int, int]) -> ImageInputs:
    """Llama 3.2 Vision: the text attends to the tiles of an image, which has no placeholders of its own.

    Source: `MllamaImageProcessor` and `MllamaVisionModel.forward`, transformers 4.57; here every tile is filled.
    """
    tiles = vision.max_num_tiles
    return ImageInputs(
        makers={
            "pixel_values": lambda n: torch.randn(n, 1, tiles, *image),
            "aspect_ratio_ids": lambda n: torch.ones(n, 1, dtype=torch.int64),
            "aspect_ratio_mask": lambda n: torch.ones(n, 1, tiles, dtype=torch.int64),
        }
    )


def _fixed_queries(config: Any) -> ImageInputs:
    """Kosmos-2: a mask says which places of the text are the image's; any id may stand there."""
    count = config.latent_query_num
    return ImageInputs(
        count, makers={"image_embeds_position_mask": lambda n: torch.arange(count).expand(n, count) >= 0}
    )


def _patches_of_any_size(vision: Any, image: tuple[int, int, int], token: int) -> ImageInputs:
    """Qwen2-VL and its kin: all patches of all images in one list, and each image's grid of patches.

    Source: `Qwen2VLImageProcessor._preprocess` and `Qwen2VLForConditionalGeneration`, transformers 4.57: a patch holds
    `temporal_patch_size` frames; `spatial_merge_size` squared patches become one token.
    """
    unit = vision.patch_size * vision.spatial_merge_size
    rows, columns = (max(side // unit, 1) * vision.spatial_merge_size for side in image[1:])
    channels = getattr(vision, "in_channels", None) or getattr(vision, "in_chans", None) or image[0]
    width = channels * vision.temporal_patch_size * vision.patch_size**2
    return ImageInputs(
        rows * columns // vision.spatial_merge_size**2,
        token,
        {
            "pixel_values": lambda n: torch.randn(n * rows * columns, width),
            "image_grid_thw": lambda n: torch.tensor([[1, rows, columns]]).repeat(n, 1),
        },
    )


def _tiles(kind: Any, config: Any, image: tuple[int, int, int], token: int) -> ImageInputs:
    """LLaVA-NeXT and its kin: an image is cut into tiles, with a small copy of the whole before them."""
    from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

    channels, height, width = image
    side = config.vision_config.image_size
    tiles = image_size_to_num_patches([height, width], config.image_grid_pinpoints, side)
    shape, sizes = (tiles, channels, side, side), torch.tensor([[height, width]])
    tokens = _asked(kind, config, pixel_values=torch.empty(1, *shape, device="meta"), image_sizes=sizes)
    return ImageInputs(
        tokens,
        token,
        {"pixel_values": lambda n: torch.randn(n, *shape), "image_sizes": lambda n: sizes.repeat(n, 1)},
    )


def _asked(kind: Any, config: Any, **inputs: Any) -> int:
    """How many feature vectors the vision tower makes of one image: it is run on tensors without data."""
    with torch.no_grad():
        with torch.device("meta"):
            model = kind._from_config(config)
        features = model.get_image_features(**inputs)
    parts = features if isinstance(features, (tuple, list)) else [features]
    return sum(part.numel() // part.shape[-1] for part in parts if isinstance(part, torch.Tensor))


def know_places(model: nn.Module, tokens: int) -> nn.Module:
    """Let a model's check of its placeholders find the `tokens` of each sample that its batch has, without data."""
    for module in model.modules():
        if callable(check := getattr(module, "get_placeholder_mask", None)):
            module.get_placeholder_mask = _answered(check, tokens)  # type: ignore[assignment]
        features = getattr(module, "get_image_features", None)
        if callable(features) and "pixel_attention_mask" in inspect.signature(features).parameters:
            module.get_image_features = _of_every_image(features)  # type: ignore[assignment]
    return model


def _of_every_image(features: Callable[..., Any]) -> Callable[..., Any]:
    """Let Idefics 3 and its kin, which leave out images that are all zeros, find none such."""

    @functools.wraps(features)
    def call(*args: Any, **kwargs: Any) -> Any:
        with EveryElement():
            return features(*args, **kwargs)

    return call


def _answered(check: Callable[..., Any], tokens: int) -> Callable[..., Any]:
    @functools.wraps(check)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _KnownPlaces(tokens):
            return check(*args, **kwargs)

    return call


class _KnownPlaces(TorchFunctionMode):
    """Picks as many elements by a mask over (batch, token, width) as there are placeholders in the batch."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype is torch.bool:
            picked, mask = args
            if mask.shape == picked.shape and mask.dim() == 3:
                # As torch does it: the table of places that `nonzero` makes, then the elements at them.
                count = mask.shape[0] * self._tokens * mask.shape[2]
                return func(picked, picked.new_zeros(count, 3, dtype=torch.int64).unbind(1))
        return func(*args, **(kwargs or {}))
