"""What is loaded into engines: this folder, by its path. An engine's environment holds nothing else of ours.

`grail_seeded_sampling` has the engines' classes, `grail_seeded_draws` the rule they follow. Engines import both by these names;
here are what a client sends and what a server is started with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from grail_core.protocol.policy import GenerationPolicy

FOLDER: Final = Path(__file__).resolve().parent
"""For the engine's PYTHONPATH."""

VLLM_PROCESSOR: Final = "grail_seeded_sampling:GrailLogitsProcessor"
"""For vLLM's `--logits-processors`; it fits both generations of the model runner."""

SGLANG_PROCESSOR: Final = json.dumps({"callable": b"cgrail_seeded_sampling\nGrailCustomLogitProcessor\n.".hex()})
"""For `custom_logit_processor` of each of SGLang's requests: a pickle of the class by its name, no code in it."""

ROUNDED_HEAD_ALLOWED: Final = "GRAIL_ROUNDED_HEAD_ALLOWED"
"""Environment variable of the server: "1" where the numerics class says that its head rounds to bf16."""


def drawing_keys(policy: GenerationPolicy, sampling_seed: int) -> dict[str, Any]:
    """What a request says of its drawing: vLLM's `vllm_xargs`, SGLang's `custom_params`.

    Raises:
        ValueError: the policy has a repetition penalty, which the processors do not follow.
    """
    if policy.repetition_penalty != 1:
        raise ValueError(f"engines draw without a repetition penalty, and the policy has {policy.repetition_penalty}")
    return {
        "grail_seed": str(sampling_seed & (2**64 - 1)),  # as text: JSON numbers of this size do not survive every reader
        "grail_temperature": policy.temperature,
        "grail_top_k": policy.top_k,
        "grail_top_p": policy.top_p,
    }


def signed_seed(seed: int) -> int:
    """The same 64 bits as the int64 that engines take beside it; the noise is of the bits."""
    return (seed + 2**63) % 2**64 - 2**63
