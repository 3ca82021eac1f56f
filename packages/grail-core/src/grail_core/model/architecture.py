"""Which models are what the protocol describes, and which of them are decoded here: asked of their structure, before any token.

Section 5 knows a causal model whose hidden state at a position follows from the tokens up to it, and whose logits are the
plain product of that state with one head (and its bias). `require_describable` refuses what is not, `require_decodable` what
the generators of this project would decode to other tokens than the forward pass gives. Each names the feature. What no name
here covers, `generation.agreement` finds by computing both. All of it works on a model whose tensors have no
memory (`skeleton`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from grail_core.errors import CheckpointError

# A logit that is not the plain product with the head's weights needs code of its own on both sides; until it is written, such
# a model is refused rather than sampled wrongly.
_LOGIT_TRANSFORMS = {
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "logits_scale": 1.0,
    "output_logits_scale": 1.0,
    "output_multiplier_scale": 1.0,
    "lm_head_multiplier": 1.0,
}
_DECODED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention"})
_CROSS_ATTENTION = ("crossattention", "cross_attn", "encoder_attn")
# They name Transformers' attention interface, and work on keys and values between the cache and it.
_OWN_ATTENTION = frozenset({"diffllama", "doge", "hrm_text", "jetmoe"})
_PLAIN_MODEL = (
    "use a model with plain rotary or learned positions and full or sliding-window attention (Qwen2, Qwen3, Llama, …)"
)


def context_length(module: Any) -> int:
    """Tokens a row may have.

    Raises:
        CheckpointError: the configuration does not say.
    """
    length = getattr(module.config, "max_position_embeddings", None)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        require_decodable(module)  # models without one mostly lack it for a reason that has a name
        raise CheckpointError(
            f"the configuration names no context length (max_position_embeddings is {length!r:.40})",
            where=type(module).__name__,
            hint=_PLAIN_MODEL,
        )
    return length


def require_describable(module: Any) -> None:
    """Refuse a model whose logits are not its head's product with causal hidden states.

    Raises:
        CheckpointError: names the feature.
    """
    config, where = module.config, type(module).__name__
    for name, neutral in _LOGIT_TRANSFORMS.items():
        value = getattr(config, name, None)
        if value is not None and value != neutral:
            raise CheckpointError(
                f"the model transforms its logits ({name} = {value}), which protocol version 1 does not describe",
                where=where,
                hint="use a model whose logits are the plain product with its head (Qwen2, Qwen3, Llama, …)",
            )
    head, base = module.get_output_embeddings(), module.base_model
    if head is None or base is module:
        raise CheckpointError("the model has no language-model head", where=where)
    # In another module, or beside another one with weights: what stands between the last hidden state and the head.
    beside = [part for part in module.children() if part is not base and part is not head and [*part.parameters()]]
    if beside or not any(child is head for child in module.children()):
        holder = type(beside[0]).__name__ if beside else "its own module"
        raise CheckpointError(
            f"the hidden states go through more than one linear layer on their way to the logits ({holder})",
            where=where,
            hint="use a model whose logits are the plain product of the last hidden state with its head",
        )
    _require_causal(config, where)
    _require_positions_of_their_own(config, where)


def require_decodable(module: Any) -> None:
    """Refuse a model that the in-process generator would not decode to the forward pass's tokens.

    Raises:
        CheckpointError: names the feature.
    """
    config, where = module.config, type(module).__name__
    kinds = set(getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or ())
    if others := sorted(map(str, kinds - _DECODED_LAYERS)):
        raise CheckpointError(
            f"the model has layers that are no attention over all keys or a window of them: {', '.join(others)}",
            where=where,
            hint=_PLAIN_MODEL,
        )
    if getattr(module, "_is_stateful", False):
        raise CheckpointError(
            f"the model carries a recurrent state ({type(module.base_model).__name__}), which is not decoded here",
            where=where,
            hint=_PLAIN_MODEL,
        )
    if _has_alibi(module):
        raise CheckpointError(
            "the model's positions are ALiBi biases of its attention, which is not decoded here", where=where, hint=_PLAIN_MODEL
        )
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap is not None:
        raise CheckpointError(
            f"the model caps its attention's scores (attn_logit_softcapping = {cap}), which is not decoded here",
            where=where,
            hint=_PLAIN_MODEL,
        )
    if any(name.endswith("sinks") for name, _ in module.named_parameters()):
        raise CheckpointError("the model's attention has sinks, which are not decoded here", where=where, hint=_PLAIN_MODEL)
    rank = getattr(config, "kv_lora_rank", None)
    if rank is not None:
        raise CheckpointError(
            f"the model keeps keys and values as latents (kv_lora_rank = {rank}), which is not decoded here",
            where=where,
            hint=_PLAIN_MODEL,
        )
    if crossed := next((name for name, _ in module.named_modules() if name.endswith(_CROSS_ATTENTION)), None):
        raise CheckpointError(
            f"the model has attention to an encoder ({crossed}), which is not decoded here", where=where, hint=_PLAIN_MODEL
        )
    if not module._can_set_attn_implementation() or config.model_type in _OWN_ATTENTION:
        raise CheckpointError(
            f"the model's attention is its own code ({_attention_of(module)}), not Transformers' attention interface, and is "
            "not decoded here",
            where=where,
            hint=_PLAIN_MODEL,
        )


def _require_causal(config: Any, where: str) -> None:
    sees_ahead = [
        name
        for name, found in (
            ("is_causal = false", getattr(config, "is_causal", True) is False),
            ("use_bidirectional_attention", bool(getattr(config, "use_bidirectional_attention", False))),
            ("an encoder: is_decoder = false", _is_encoder(config)),
            ("is_encoder_decoder", bool(getattr(config, "is_encoder_decoder", False))),
        )
        if found
    ]
    if sees_ahead:
        raise CheckpointError(
            f"the model's positions see what comes after them ({', '.join(sees_ahead)})",
            where=where,
            hint="use a causal language model",
        )


def _is_encoder(config: Any) -> bool:
    """BERT and its kin are encoders unless their configuration says otherwise; decoders leave the question open or say yes."""
    return getattr(config, "is_decoder", None) is False and hasattr(config, "type_vocab_size")


def _require_positions_of_their_own(config: Any, where: str) -> None:
    """A position's rotation follows from the position alone: not from how long the longest row of a batch is."""
    context = getattr(config, "max_position_embeddings", None) or 0
    for rope in _ropes(getattr(config, "rope_parameters", None)):
        kind = rope.get("rope_type")
        first = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        if kind == "longrope" and isinstance(first, int) and context > first:
            raise CheckpointError(
                f"rotary positions change with a batch's longest row (rope_type longrope beyond {first} tokens), so one "
                "rollout's proof would depend on its neighbours",
                where=where,
                hint=f"set max_position_embeddings to {first}, or use another model",
            )


def _ropes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Parameters of all layers, or one set for each kind of layer."""
    if isinstance(value, Mapping):
        if "rope_type" in value:
            yield value
        else:
            for part in value.values():
                yield from _ropes(part)


def _has_alibi(module: Any) -> bool:
    config = module.config
    own = getattr(config, "alibi", None)
    if own is None:
        nested = getattr(config, "attn_config", None)
        own = nested.get("alibi") if isinstance(nested, Mapping) else getattr(nested, "alibi", None)
    if own is not None:
        return bool(own)
    return any("alibi" in name.lower() for name in vars(sys.modules[type(module).__module__]))


def _attention_of(module: Any) -> str:
    names = [type(part).__name__ for part in module.modules()]
    return next((name for name in names if "attention" in name.lower()), type(module.base_model).__name__)
