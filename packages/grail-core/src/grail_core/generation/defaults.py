"""What a Transformers folder says about how its model is to be sampled: end tokens and generation policy.

Both are read from `generation_config.json` (end tokens from `config.json` where it names none). A network's first checkpoint
takes them over into its signed manifest; from then on the manifest decides.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.policy import GenerationPolicy

_DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True)
class SamplingDefaults:
    policy: GenerationPolicy
    end_tokens: tuple[int, ...]  # ascending, at least one


def sampling_defaults(folder: Path, end_tokens: Sequence[int] = ()) -> SamplingDefaults:
    """Read a model folder. `end_tokens`, where given, stand in for the folder's.

    Raises:
        CheckpointError: a file does not parse, a value is out of range, or no end token is named.
    """
    generation, config = _json(folder / "generation_config.json"), _json(folder / "config.json")
    ends: Any = list(end_tokens) or generation.get("eos_token_id", config.get("eos_token_id"))
    listed: list[Any] = ends if isinstance(ends, list) else [ends]
    if not listed or not all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in listed):
        raise CheckpointError(
            "the model folder names no end token", where=str(folder), hint="set eos_token_id in generation_config.json"
        )
    policy = GenerationPolicy(
        max_tokens=_number(generation, "max_new_tokens", _DEFAULT_MAX_TOKENS, 1, MAX_NEW_TOKENS_PROTOCOL_CAP, folder),
        temperature=float(_number(generation, "temperature", 1.0, 1e-3, 100.0, folder)),
        top_p=float(_number(generation, "top_p", 1.0, 1e-3, 1.0, folder)),
        top_k=_number(generation, "top_k", -1, -1, 2**31 - 1, folder) or -1,  # Transformers writes 0 for all
        repetition_penalty=float(_number(generation, "repetition_penalty", 1.0, 0.01, 100.0, folder)),
    )
    return SamplingDefaults(policy, tuple(sorted(set(listed))))


def _number(value: dict[str, Any], name: str, default: float, least: float, most: float, folder: Path) -> Any:
    found = value.get(name)
    if found is None:
        return default
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
        raise CheckpointError(f"{name} is {found!r}, not a number from {least} to {most}", where=str(folder))
    return type(default)(found)


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the file cannot be read: {error}", where=str(path)) from error
    if not isinstance(value, dict):
        raise CheckpointError("the file holds no object", where=str(path))
    return value
