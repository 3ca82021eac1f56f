"""Tiny models of the architectures that people bring: decoded as the forward pass of a proof sees them, or refused by name.

Each case: name, model type in Transformers, its configuration (over `ROTARY` where it begins with it), what a refusal says
(None: decoded), and why. Contexts have 48 tokens and windows 8, so that a row of 48 goes past both; weights are drawn wide, so
that a key more or less is another token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTEXT = 48


@dataclass(frozen=True)
class ArchitectureCase:
    name: str
    model_type: str
    configuration: dict[str, Any]
    refusal: str | None
    reason: str


_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
ROTARY: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    **_ENDS,
}
_GPT: dict[str, Any] = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, **_ENDS}
_OPT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "ffn_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "word_embed_proj_dim": 32,
    "init_std": 0.3,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
_FALCON: dict[str, Any] = {name: value for name, value in ROTARY.items() if name != "num_key_value_heads"}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 12}
_DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
_NO_CAPS: dict[str, Any] = {"final_logit_softcapping": None, "attn_logit_softcapping": None}
_LATENT: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}


def _decoded(name: str, model_type: str, reason: str, base: dict[str, Any] = ROTARY, **more: Any) -> ArchitectureCase:
    return ArchitectureCase(name, model_type, {**base, **more}, None, reason)


def _refused(
    name: str, model_type: str, refusal: str, reason: str, base: dict[str, Any] = ROTARY, **more: Any
) -> ArchitectureCase:
    return ArchitectureCase(name, model_type, {**base, **more}, refusal, reason)


CASES = (
    _decoded("llama", "llama", "rotary positions, shared keys"),
    _decoded(
        "llama, biases, tied", "llama", "biases in every product", attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    _decoded("llama, linear rope", "llama", "positions divided by a factor", rope_parameters=_LINEAR),
    _decoded("llama, yarn", "llama", "frequencies scaled once, whatever the row's length", rope_parameters=_YARN),
    _decoded("llama, dynamic rope", "llama", "changes beyond the context only, where no row goes", rope_parameters=_DYNAMIC),
    _refused(
        "phi3, longrope",
        "phi3",
        "longrope",
        "frequencies follow a batch's longest row",
        rope_parameters=_LONG,
        original_max_position_embeddings=12,
    ),
    _decoded("mistral", "mistral", "no window", sliding_window=None),
    _decoded("mistral, window", "mistral", "a window that layer_types do not name", sliding_window=8),
    _decoded("mistral, window beyond the context", "mistral", "a window nobody reaches", sliding_window=4096),
    _decoded("mixtral, window", "mixtral", "experts chosen token by token", sliding_window=8, num_local_experts=4),
    _decoded("qwen2", "qwen2", "biases of queries, keys and values"),
    _decoded(
        "qwen2, window in one layer",
        "qwen2",
        "both kinds of layers",
        use_sliding_window=True,
        sliding_window=8,
        max_window_layers=1,
    ),
    _decoded("qwen2, experts", "qwen2_moe", "experts beside a shared one", **_EXPERTS, shared_expert_intermediate_size=32),
    _decoded("qwen3", "qwen3", "norms of queries and keys", head_dim=8),
    _decoded("qwen3, experts", "qwen3_moe", "experts in every layer", head_dim=8, **_EXPERTS),
    _decoded("gemma", "gemma", "embeddings scaled by the width", head_dim=8),
    _refused("gemma2", "gemma2", "final_logit_softcapping", "logits are capped by default", head_dim=8, sliding_window=8),
    _refused(
        "gemma2, scores capped",
        "gemma2",
        "attn_logit_softcapping",
        "the kernel of the proof cannot",
        head_dim=8,
        final_logit_softcapping=None,
    ),
    _decoded("gemma2, no caps", "gemma2", "a window in every second layer", head_dim=8, sliding_window=8, **_NO_CAPS),
    _decoded("gemma3", "gemma3_text", "a window, and another rotation in its layers", head_dim=8, sliding_window=8),
    _refused(
        "gemma3, both ways",
        "gemma3_text",
        "use_bidirectional_attention",
        "sees what comes after",
        head_dim=8,
        use_bidirectional_attention=True,
    ),
    _decoded("phi", "phi", "a part of a head is rotated, and the language-model head has a bias"),
    _decoded("phi3, window", "phi3", "a window", sliding_window=8),
    _decoded("gpt2", "gpt2", "learned positions", _GPT),
    _decoded(
        "gpt2, scaled by layer", "gpt2", "scores scaled by the layer's number", _GPT, scale_attn_by_inverse_layer_idx=True
    ),
    _decoded("gpt_bigcode", "gpt_bigcode", "learned positions, one key for all heads", _GPT),
    _decoded("gpt_neox", "gpt_neox", "a quarter of a head is rotated, both halves of a layer at once"),
    _refused(
        "gpt_neo",
        "gpt_neo",
        "its own code",
        "every second layer has a window of its own",
        {
            "vocab_size": 64,
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": CONTEXT,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
            **_ENDS,
        },
    ),
    _refused("gptj", "gptj", "its own code", "attention that is not exchangeable", _GPT, rotary_dim=4),
    _decoded("opt", "opt", "learned positions with an offset", _OPT),
    _decoded(
        "opt, projected", "opt", "embeddings narrower than the layers", _OPT, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    _refused(
        "bloom",
        "bloom",
        "ALiBi",
        "positions are biases",
        {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_ENDS},
    ),
    _refused("falcon", "falcon", "its own code", "attention that is not exchangeable", _FALCON),
    _refused("falcon, alibi", "falcon", "ALiBi", "positions are biases", _FALCON, alibi=True),
    _refused(
        "mpt",
        "mpt",
        "ALiBi",
        "positions are biases",
        {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT},
    ),
    _decoded("olmo2", "olmo2", "norms after, not before"),
    _decoded("olmo3", "olmo3", "a window in three layers of four", sliding_window=8),
    _refused("cohere", "cohere", "logit_scale", "logits are scaled by default"),
    _decoded("cohere, unscaled", "cohere", "rotation of neighbouring pairs", logit_scale=1.0),
    _decoded("cohere2", "cohere2", "a window with positions, full layers without", sliding_window=8, logit_scale=1.0),
    _decoded("stablelm", "stablelm", "a quarter of a head is rotated"),
    _decoded("starcoder2, window", "starcoder2", "a window", sliding_window=8),
    _decoded(
        "granite",
        "granite",
        "embeddings, residuals and scores are scaled",
        embedding_multiplier=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
    ),
    _refused("granite, logits scaled", "granite", "logits_scaling", "logits are divided", logits_scaling=8.0),
    _decoded(
        "exaone4", "exaone4", "window and full layers", sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
    _decoded("biogpt", "biogpt", "learned positions with an offset", _FALCON),
    _refused(
        "gpt_oss", "gpt_oss", "sinks", "a score that belongs to no key", head_dim=8, num_local_experts=4, sliding_window=8
    ),
    _refused(
        "deepseek_v3", "deepseek_v3", "latents", "keys and values are kept folded", **{**_LATENT, "moe_intermediate_size": 32}
    ),
    _refused(
        "mamba",
        "mamba",
        "linear_attention",
        "no attention at all",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    ),
    _refused(
        "rwkv",
        "rwkv",
        "recurrent state",
        "no attention at all",
        {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "context_length": CONTEXT},
    ),
    _refused("lfm2", "lfm2", "conv", "convolutions between the attention layers", full_attn_idxs=[1]),
    _refused(
        "bart",
        "bart",
        "attention to an encoder",
        "a decoder without its encoder",
        {
            "vocab_size": 64,
            "d_model": 32,
            "decoder_layers": 2,
            "encoder_layers": 2,
            "max_position_embeddings": CONTEXT,
            **_ENDS,
        },
    ),
    _refused("diffllama", "diffllama", "its own code", "attention of its own beside the interface"),
    _refused("doge", "doge", "its own code", "a mask made of the values"),
    _refused("jetmoe", "jetmoe", "its own code", "experts of attention", num_local_experts=4, kv_channels=8),
    _refused("gpt2, cross-attention", "gpt2", "attention to an encoder", "a second attention", _GPT, add_cross_attention=True),
    _refused(
        "modernbert-decoder",
        "modernbert-decoder",
        "more than one linear layer",
        "a layer stands beside its head",
        sliding_window=8,
    ),
    _refused("bert", "bert", "more than one linear layer", "an encoder with a layer before its head", _FALCON),
    _refused("bert, causal", "bert", "more than one linear layer", "a layer before its head", _FALCON, is_decoder=True),
)
