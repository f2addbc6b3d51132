"""Small configs of transformers' model types: the default config of a type with fewer layers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def _words(text: str) -> list[str]:
    return text.split()


TEXT = _words("""albert bart bert big_bird bloom blenderbot camembert codegen cohere convbert ctrl deberta deberta-v2 distilbert
electra ernie falcon fnet funnel gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite helium
led llama longformer longt5 luke m2m_100 marian mbart megatron-bert mistral mobilebert modernbert mpnet mpt mt5 mvp
nemotron nystromformer olmo olmo2 opt pegasus persimmon phi phi3 plbart prophetnet qwen2 qwen3 rembert roberta roformer
roc_bert smollm3 squeezebert stablelm starcoder2 t5 umt5 xglm xlm xlm-roberta xlnet xmod yoso""")
EXPERTS = _words("deepseek_v3 gpt_oss granitemoe jetmoe mixtral olmoe phimoe qwen2_moe qwen3_moe switch_transformers")
STATE_SPACE = _words("bamba falcon_mamba jamba lfm2 mamba mamba2 recurrent_gemma rwkv zamba2")
VISION = _words("""beit bit conditional_detr convnext convnextv2 cvt data2vec-vision deformable_detr deit depth_anything detr
dinov2 dinov2_with_registers dpt efficientnet focalnet glpn hiera imagegpt levit mask2former maskformer mobilenet_v1
mobilenet_v2 mobilevit poolformer pvt regnet resnet rt_detr segformer swiftformer swin swinv2 timesformer upernet
videomae vit vit_mae vit_msn vivit yolos""")
AUDIO = _words("""audio-spectrogram-transformer data2vec-audio hubert moonshine sew speech_to_text speecht5 unispeech wav2vec2
wav2vec2-bert wav2vec2-conformer wavlm whisper""")
MULTIMODAL = _words("""align altclip blip blip-2 chinese_clip clip gemma3 git idefics3 internvl kosmos-2 llava llava_next mllama
paligemma pix2struct qwen2_5_vl qwen2_vl siglip smolvlm vilt""")
TYPES = (*TEXT, *EXPERTS, *STATE_SPACE, *VISION, *AUDIO, *MULTIMODAL)

_LAYERS = _words("""num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers
num_encoder_layers""")
_MOST_LAYERS = 2
# Types whose layers another field counts too, or whose heads want several layers: they keep their own number.
_WHOLE = (
    "dpt", "beit", "data2vec-vision", "levit", "hiera", "depth_anything", "zamba2", "bamba", "jamba", "recurrent_gemma",
    "funnel", "yolos",
)  # fmt: skip

_IDEFICS = {
    "text_config": {"model_type": "llama", "vocab_size": 128259},
    "vision_config": {"image_size": 364, "patch_size": 14},
    "pad_token_id": 128002,
}
_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
_MROPE = {"rope_type": "default", "type": "mrope", "mrope_section": [16, 24, 24]}
# What the default config of a type leaves empty and a user's file always holds, and hybrids' least whole numbers of
# layers.
_OWN: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 8},
    "xmod": {"default_language": "en_XX"},
    "jamba": {"num_hidden_layers": 8},
    "bamba": {"num_hidden_layers": 4},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "gemma3": {"vision_config": {"image_size": 896, "patch_size": 14}},
    "idefics3": _IDEFICS,
    "smolvlm": _IDEFICS,
    # States of the vision part's middle layers are joined to its last: with two layers, of both.
    "mllama": {
        "text_config": {"rope_scaling": _ROPE},
        "vision_config": {"intermediate_layers_indices": [0, 1], "vision_output_dim": 3 * 1280},
    },
    # The vision part gives vectors as wide as the text's: 8192 in the text part's default.
    "qwen2_vl": {"vision_config": {"hidden_size": 8192}, "text_config": {"rope_scaling": _MROPE}},
    "qwen2_5_vl": {"vision_config": {"out_hidden_size": 8192}, "text_config": {"rope_scaling": _MROPE}},
    # The image's token is number 32000: a vocabulary of 32000 has no row for it.
    "llava": {"text_config": {"vocab_size": 32064}},
    "llava_next": {"text_config": {"vocab_size": 32064}},
}
OPTIONS: dict[str, dict[str, Any]] = {
    # Paths without their own kernels, which loop over tokens.
    **{name: {"sequence_length": 32} for name in STATE_SPACE},
    "prophetnet": {"sequence_length": 256},  # its positions begin after the padding's
    "depth_anything": {"mode": "inference"},  # transformers: "Training is not implemented yet"
}
"""Options of a job where its own choice does not go with the default config of a type."""

LLAMA_70B = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False,
}  # fmt: skip
"""Source: sizes of Llama 3 70B, table 3 of arXiv:2407.21783."""


def write_configs(folder: Path) -> Iterator[tuple[str, Path]]:
    """Write the config of each type that the installed transformers knows; name and folder of each."""
    from benchmarks.vision import settle

    settle()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    known = set(CONFIG_MAPPING.keys())
    for name in TYPES:
        if name in known:
            yield name, _written(folder / name, small(name, CONFIG_MAPPING[name]().to_dict()))


def small(kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config with at most two layers in each part, lists of one entry a layer cut to fit."""
    out = _over(fields, {"model_type": kind, **_OWN.get(kind, {})})
    return out if kind in _WHOLE else _fewer_layers(out)


def _over(fields: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both = {k: _over(fields[k], v) for k, v in more.items() if isinstance(v, dict) and isinstance(fields.get(k), dict)}
    return {**fields, **more, **both}


def _fewer_layers(fields: dict[str, Any]) -> dict[str, Any]:
    out = {name: _fewer_layers(value) if isinstance(value, dict) else value for name, value in fields.items()}
    if any(name in out for name in ("out_indices", "depths", "backbone_config")):
        return out  # a backbone: its stages are named after its layers
    for name in _LAYERS:
        if isinstance(out.get(name), int) and not isinstance(out[name], bool) and out[name] > _MOST_LAYERS:
            count, out[name] = out[name], _MOST_LAYERS
            for other, value in out.items():
                if isinstance(value, list) and len(value) == count:
                    out[other] = value[:_MOST_LAYERS]
    if "attention_types" in out:  # GPT-Neo: kinds of attention, and how often they are repeated
        out["attention_types"] = [[["global", "local"], 1]]
    return out


def write_llama_70b(folder: Path) -> Path:
    """Write the config of Llama 3 70B, with all its layers."""
    return _written(folder / "llama-70b", LLAMA_70B)


def _written(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields, default=str))
    return folder
