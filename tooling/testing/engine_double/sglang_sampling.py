"""What SGLang makes of a request's `sampling_params` and `custom_logit_processor`: its defaults, its limits, its refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tooling.testing.engine_double.arguments import Setting
from tooling.testing.engine_double.engine import Engine
from tooling.testing.engine_double.requests import Keys, Sampling
from tooling.testing.engine_double.web import Refused

PROCESSOR = b"GrailCustomLogitProcessor"

_PARAMETERS: dict[str, Any] = {
    "max_new_tokens": 128, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_new_tokens": 0, "ignore_eos": False, "stop_token_ids": None,
    "sampling_seed": None, "custom_params": None, "n": 1, "stop": None, "skip_special_tokens": True, "no_stop_trim": False,
    "spaces_between_special_tokens": True, "stream_interval": None, "logit_bias": None, "beam_width": None, "stop_regex": None,
    "json_schema": None, "regex": None, "ebnf": None, "structural_tag": None, "watermark": None,
}  # fmt: skip
_NOT_DOUBLED = ("stop", "stop_regex", "beam_width", "logit_bias", "json_schema", "regex", "ebnf", "structural_tag", "watermark")


def bad(message: str) -> Refused:
    """A request that is answered with 400."""
    return Refused(400, {"error": {"message": message}})


def sampling_of(engine: Engine, setting: Setting, given: Any, processor: Any, prompt_length: int, logprobs: bool) -> Sampling:
    """One row's, with SGLang's defaults. Raises Refused, and TypeError where the engine itself does."""
    if not isinstance(given, dict):
        raise bad("sampling_params is an object, or a list of them")
    if unknown := sorted(given.keys() - _PARAMETERS.keys()):
        raise TypeError(f"Unexpected keyword argument '{unknown[0]}'")  # the engine's own answer is a 500
    values = {name: default if given.get(name) is None else given[name] for name, default in _PARAMETERS.items()}
    if values["n"] != 1 or any(values[name] for name in _NOT_DOUBLED):
        raise bad(f"n and {', '.join(_NOT_DOUBLED)} are not doubled")
    _verify(values)
    context = engine.context
    if prompt_length >= context:
        raise bad(f"The input ({prompt_length} tokens) is longer than the model's context length ({context} tokens).")
    limit = given.get("max_new_tokens", _PARAMETERS["max_new_tokens"])
    if limit is not None and limit + prompt_length > context:
        raise bad(
            f"Requested token count exceeds the model's maximum context length of {context} tokens. You requested a total "
            f"of {limit + prompt_length} tokens: {prompt_length} tokens from the input messages and {limit} tokens for "
            "the completion. Please reduce the number of tokens in the input messages or the completion to fit within "
            "the limit."
        )
    stop = frozenset(values["stop_token_ids"] or ()) | setting.end_tokens
    room = context - prompt_length - 2  # the scheduler takes one token less than the context, and keeps one for itself
    return Sampling(
        limit=max(1, room if limit is None else min(limit, room)),
        temperature=values["temperature"],
        top_k=values["top_k"],
        top_p=values["top_p"],
        min_p=values["min_p"],
        repetition_penalty=values["repetition_penalty"],
        presence_penalty=values["presence_penalty"],
        frequency_penalty=values["frequency_penalty"],
        min_tokens=values["min_new_tokens"],
        stop=frozenset() if values["ignore_eos"] else stop,  # both are one switch there
        seed=values["sampling_seed"] if setting.engine.deterministic else None,
        keys=_keys(setting, processor, values["custom_params"]),
        logprobs=logprobs,
    )


def _keys(setting: Setting, processor: Any, parameters: Any) -> Keys | None:
    """The plug-in's, if the request brings the plug-in itself: parameters alone are nobody's."""
    if processor is None:
        return None
    if not setting.engine.plugin:
        raise bad(
            "The server is not configured to enable custom logit processor. "
            "Please set `--enable-custom-logit-processor` to enable this feature."
        )
    try:
        code = bytes.fromhex(json.loads(processor)["callable"])
    except (ValueError, TypeError, KeyError) as error:
        raise bad(f"custom_logit_processor cannot be read: {error}") from error
    if PROCESSOR not in code or b"grail_seeded_sampling" not in code:
        raise bad("custom_logit_processor: the double knows grail_seeded_sampling.GrailCustomLogitProcessor alone")
    try:
        return Keys.of(parameters)
    except ValueError as error:
        raise bad(str(error)) from error


def _verify(values: Mapping[str, Any]) -> None:
    numbers = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
    wrong = [name for name in numbers if isinstance(values[name], bool) or not isinstance(values[name], int | float)]
    counts = [name for name in ("max_new_tokens", "min_new_tokens") if not isinstance(values[name], int)]
    if wrong or counts:
        raise bad(f"{(wrong + counts)[0]} is no number")
    bounds = (
        (0 <= values["temperature"] < float("inf"), "temperature must be a non-negative finite number"),
        (0 < values["top_p"] <= 1, "top_p must be in (0, 1]"),
        (0 <= values["min_p"] <= 1, "min_p must be in [0, 1]"),
        (values["top_k"] == -1 or values["top_k"] >= 1, "top_k must be -1 (disable) or at least 1"),
        (0 < values["repetition_penalty"] <= 2, "repetition_penalty must be in (0, 2] (1.0 = no penalty)"),
        (0 <= values["min_new_tokens"] <= values["max_new_tokens"], "min_new_tokens must be in [0, max_new_tokens]"),
    )
    for holds, message in bounds:
        if not holds:
            raise bad(message)
    seed = values["sampling_seed"]
    if seed is not None and not (isinstance(seed, int) and -(2**63) <= seed < 2**63):
        raise bad(f"sampling_seed must be in [-2**63, 2**63 - 1], got {seed}.")
