"""What every request says of drawing, in the words that our plug-in in the engine reads (`plugin/grail_seeded_sampling.py`)."""

from __future__ import annotations

from grail_core.protocol.policy import GenerationPolicy


def plugin_fields(policy: GenerationPolicy, seed: int) -> dict[str, str | float | int]:
    """For vLLM's `vllm_xargs` and SGLang's `custom_params`; the engine's own temperature is 0 beside them."""
    return {
        "grail_seed": str(seed & (2**64 - 1)),  # as text: JSON numbers of this size do not survive every reader
        "grail_temperature": policy.temperature,
        "grail_top_k": policy.top_k,
        "grail_top_p": policy.top_p,
    }


def signed_seed(seed: int) -> int:
    """The same 64 bits as the int64 that engines take; the noise is of the bits."""
    return (seed + 2**63) % 2**64 - 2**63
