"""How an engine is run: what a miner's settings say of it, before any of it is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from grail_core.errors import ProtocolViolationError
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP, MAX_PROMPT_TOKENS
from grail_core.protocol.policy import GenerationPolicy

Backend = Literal["sglang", "vllm", "hf"]


@dataclass(frozen=True)
class EngineOptions:
    """One engine. Either `url` (somebody else runs the server) or `python` (we do), for `sglang` and `vllm`.

    `numerics_class`: what the header will say that drew the tokens, where the engine cannot be asked.
    """

    backend: Backend | str  # another name: an engine that another wheel adds (`backends`)
    url: str | None = None  # http://127.0.0.1:PORT
    python: Path | None = None  # interpreter of the engine's own environment
    gpus: tuple[int, ...] = ()  # indices into the visible devices, one per tensor-parallel rank; empty: the CPU
    max_model_len: int = 12_288  # tokens of prompt and completion
    memory_share: float = 0.90  # of a GPU's memory
    max_num_seqs: int = 64  # sequences decoded together
    max_concurrent: int = 48  # requests in flight
    cuda_graph: bool = True
    native_sampling: bool = False  # SGLang's deterministic mode where the policy allows, in place of our processor
    dtype: Literal["bfloat16", "float32"] = "bfloat16"  # float32 for conformance alone
    state_dir: Path | None = None  # logs of the server, and links to weights


def least_model_len(policy: GenerationPolicy, context_length: int) -> int:
    """Tokens of prompt and completion that an engine must have room for, so that no completion ends before L of section 4.

    The longest prompt that the protocol takes with the longest completion of this policy, or the model's whole context.
    """
    return min(context_length, MAX_PROMPT_TOKENS + min(policy.max_tokens, MAX_NEW_TOKENS_PROTOCOL_CAP))


def require_model_len(max_model_len: int, policy: GenerationPolicy, context_length: int) -> None:
    """To be asked whenever other weights are served: the policy is their manifest's.

    Raises:
        ProtocolViolationError: the engine's limit is below what the policy needs; the least value is in the hint.
    """
    least = least_model_len(policy, context_length)
    if max_model_len < least:
        raise ProtocolViolationError(
            f"the engine has room for {max_model_len} tokens, and completions of this checkpoint may need {least}"
            f" (prompt of up to {MAX_PROMPT_TOKENS}, {policy.max_tokens} more, context of {context_length})",
            where="GRAIL_PIPELINE_MAX_MODEL_LEN",
            hint=f"set it to {least} or more: a completion that an engine ends earlier is refused",
        )
