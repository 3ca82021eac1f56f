"""What vLLM makes of a request's sampling fields: the folder's defaults, its own, its limits, its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tooling.testing.engine_double.arguments import Setting
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.requests import Keys, Sampling
from tooling.testing.engine_double.web import Refused

_DEFAULTS = {
    "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
}  # fmt: skip
SAMPLING_FIELDS = frozenset(
    {
        *_DEFAULTS, "n", "seed", "stop", "stop_token_ids", "bad_words", "ignore_eos", "max_tokens", "min_tokens", "logprobs",
        "prompt_logprobs", "detokenize", "skip_special_tokens", "spaces_between_special_tokens", "include_stop_str_in_output",
        "extra_args", "output_kind", "truncate_prompt_tokens", "logit_bias", "allowed_token_ids", "skip_reading_prefix_cache",
        "structured_outputs", "thinking_token_budget", "repetition_detection", "watermarking",
    }
)  # fmt: skip
"""Of `sampling_params` of tokens in, tokens out; any other is refused."""


def bad(message: str, parameter: str | None) -> Refused:
    """A request that is answered with 400."""
    return Refused(400, {"error": {"message": message, "type": "BadRequestError", "param": parameter, "code": 400}})


def sampling_of(
    engine: Engine, setting: Setting, given: Mapping[str, Any], prompt: list[int], limit: Any, arguments: Any, logprobs: bool
) -> Sampling:
    """One row\'s, with the defaults of folder and engine. Raises Refused."""
    folder = setting.folder_defaults
    values: dict[str, Any] = {
        name: given[name] if given.get(name) is not None else folder.get(name, default) for name, default in _DEFAULTS.items()
    }
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad(f"{name} is no number", name)
    context, size = engine.context, engine.model.vocabulary_size
    if not 0 <= min(prompt) <= max(prompt) < size:
        raise bad(f"Token id {min(prompt) if min(prompt) < 0 else max(prompt)} is out of vocabulary", "prompt")
    if limit is None:
        limit = folder.get("max_new_tokens", context - len(prompt))
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise bad(f"max_tokens must be at least 1, got {limit}", "max_tokens")
    if len(prompt) >= context:
        message = (
            f"This model's maximum context length is {context} tokens. However, your prompt contains {len(prompt)} input "
            "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt."
        )
        raise bad(message, "input_tokens")
    bounds = (
        ("temperature", 0 <= values["temperature"] < float("inf")),
        ("top_p", 0 < values["top_p"] <= 1),
        ("top_k", values["top_k"] >= -1),
        ("min_p", 0 <= values["min_p"] <= 1),
        ("repetition_penalty", values["repetition_penalty"] > 0),
    )
    for name, holds in bounds:
        if not holds:
            raise bad(f"{name} is out of range: {values[name]}", name)
    seed = given.get("seed")
    if seed is not None and not (isinstance(seed, int) and -(2**63) <= seed < 2**63):
        raise bad("seed: a 64-bit integer", "seed")
    if arguments is not None and not isinstance(arguments, dict):
        raise bad("vllm_xargs: an object", "vllm_xargs")
    try:
        keys = Keys.of(arguments) if setting.engine.plugin else None
    except ValueError as error:
        raise bad(str(error), "vllm_xargs") from error
    stop = frozenset(given.get("stop_token_ids") or ())
    greedy = values["temperature"] < 1e-5
    return Sampling(
        limit=min(limit, context - len(prompt)),
        temperature=values["temperature"],
        top_k=-1 if greedy else values["top_k"],
        top_p=1.0 if greedy else values["top_p"],
        min_p=0.0 if greedy else values["min_p"],
        repetition_penalty=values["repetition_penalty"],
        presence_penalty=values["presence_penalty"],
        frequency_penalty=values["frequency_penalty"],
        min_tokens=given.get("min_tokens") or 0,
        stop=stop if given.get("ignore_eos") else stop | setting.end_tokens,
        seed=seed,
        keys=keys,
        logprobs=logprobs,
    )
