"""Set-ups of peft on a small Llama: adapters, and prompts that are learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from estimator.job import TrainingJob

_TARGETS = ["q_proj", "v_proj"]
_LENGTH = 128

# Name of the set-up: class of the configuration, and what it is given.
SETUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {"r": 8, "target_modules": _TARGETS}),
    "lora-all-linear": ("LoraConfig", {"r": 16, "target_modules": "all-linear", "lora_dropout": 0.1}),
    "lora-rank-stabilized": ("LoraConfig", {"r": 16, "target_modules": _TARGETS, "use_rslora": True}),
    "dora": ("LoraConfig", {"r": 8, "target_modules": _TARGETS, "use_dora": True}),
    "lora-embedding-saved": (
        "LoraConfig",
        {"r": 8, "target_modules": _TARGETS, "modules_to_save": ["lm_head", "embed_tokens"]},
    ),
    "adalora": ("AdaLoraConfig", {"target_modules": _TARGETS, "total_step": 100}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "loha": ("LoHaConfig", {"r": 8, "target_modules": _TARGETS}),
    "lokr": ("LoKrConfig", {"r": 8, "target_modules": _TARGETS}),
    "oft": ("OFTConfig", {"r": 0, "oft_block_size": 16, "target_modules": _TARGETS}),
    "boft": ("BOFTConfig", {"boft_block_size": 4, "target_modules": _TARGETS}),
    "vera": ("VeraConfig", {"r": 64, "target_modules": ["q_proj", "o_proj"]}),
    "ln-tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm", "post_attention_layernorm"]}),
    "prompt-tuning": ("PromptTuningConfig", {"num_virtual_tokens": 16}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 16, "encoder_hidden_size": 64}),
    "prefix-tuning": ("PrefixTuningConfig", {"num_virtual_tokens": 16}),
}


def job(name: str) -> TrainingJob:
    """The job that trains a small Llama through the named set-up."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from estimator.job import TrainingJob

    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512,
    )  # fmt: skip
    kind, given = SETUPS[name]

    def build() -> Any:
        adapter = getattr(peft, kind)(task_type="CAUSAL_LM", **given)
        return peft.get_peft_model(AutoModelForCausalLM.from_config(config), adapter)

    def batch(n: int) -> dict[str, Any]:
        ids = torch.randint(1000, (n, _LENGTH))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    return TrainingJob(model=build, batch=batch, optimizer="adamw", name=f"peft/{name}")
