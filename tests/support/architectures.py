"""Tiny models with random weights of the architectures that people train, built from transformers'
own configurations."""

from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SLIDING_AND_FULL = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
# Name → transformers' class of configurations, and what of it is not SHAPE.
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 3": ("LlamaConfig", {"rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True}),
    "Qwen3": ("Qwen3Config", {"head_dim": 8}),
    "Gemma 3": (
        "Gemma3TextConfig",
        {"head_dim": 8, "final_logit_softcapping": 20.0, **SLIDING_AND_FULL},
    ),
    "Mistral": ("MistralConfig", {"sliding_window": 12}),
    "Phi-3": ("Phi3Config", {}),
    "SmolLM3": ("SmolLM3Config", {"no_rope_layers": [1, 0]}),
    "OLMo 2": ("Olmo2Config", {}),
    "GPT-NeoX": ("GPTNeoXConfig", {"rotary_pct": 0.25}),
    "GPT-2": ("GPT2Config", {}),
    "Qwen3-MoE": ("Qwen3MoeConfig", {"head_dim": 8, "num_experts": 4, **EXPERTS}),
    "Mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}
PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "Gemma 2": ("Gemma2Config", {"head_dim": 8, "attn_logit_softcapping": 5.0, **SLIDING_AND_FULL}),
    "GPT-OSS": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4}),
    "Bloom": ("BloomConfig", {"n_head": 4, "n_layer": 2}),
    "RoBERTa as a decoder": ("RobertaConfig", {"is_decoder": True}),
    "Mamba": ("MambaConfig", {"state_size": 8, "time_step_rank": 4}),
    "Mamba 2": (
        "Mamba2Config",
        {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 8},
    ),
    "Qwen3-Next": (
        "Qwen3NextConfig",
        {
            "head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "num_experts": 4,
            "shared_expert_intermediate_size": 32,
            **EXPERTS,
        },
    ),
    "Falcon H1": (
        "FalconH1Config",
        {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_chunk_size": 8,
        },
    ),
    "LFM2": ("Lfm2Config", {"layer_types": ["conv", "full_attention"]}),
    # Which makes its mask of the token ids and sees padding: rows of one length only are batched.
    "CPM-Ant": ("CpmAntConfig", {"dim_head": 8, "dim_ff": 64}),
}
ALL = {**PACKED, **PADDED}


def random_model(name: str) -> Any:
    """A model of that architecture in float32, with weights large enough to tell right from
    wrong, ready for inference."""
    torch.manual_seed(0)
    class_name, settings = ALL[name]
    config = getattr(transformers, class_name)(**{**SHAPE, **settings})
    model = AutoModelForCausalLM.from_config(config).float().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.2)
    return model
