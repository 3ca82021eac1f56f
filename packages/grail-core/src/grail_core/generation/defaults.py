"""What a Transformers folder says about how its model is to be sampled: end tokens and generation policy.

Both are read from `generation_config.json` (end tokens from `config.json` where it names none). A network's first checkpoint
takes them over into its signed manifest; from then on the manifest decides. What else the folder says of drawing is named or
refused (`folder_fields`), and so are end tokens that its chat template never writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.errors import CheckpointError
from grail_core.generation.folder_fields import fields_left_out
from grail_core.model.prompts import PromptRenderer
from grail_core.model.tokenizer_files import has_template
from grail_core.protocol.constants import MAX_NEW_TOKENS_PROTOCOL_CAP
from grail_core.protocol.policy import GenerationPolicy

_DEFAULT_MAX_TOKENS = 1024


@dataclass(frozen=True)
class SamplingDefaults:
    policy: GenerationPolicy
    end_tokens: tuple[int, ...]  # ascending, at least one
    notes: tuple[str, ...] = ()  # what the folder says and the network does not follow, one sentence each


def sampling_defaults(folder: Path, end_tokens: Sequence[int] = ()) -> SamplingDefaults:
    """Read a model folder. `end_tokens`, where given, stand in for the folder's.

    Raises:
        CheckpointError: a file does not parse, a value is out of range, no end token is named, or the folder says what may be
            drawn or where completions end in a way that a network does not follow.
    """
    generation, config = _json(folder / "generation_config.json"), _json(folder / "config.json")
    notes = fields_left_out(generation, config, where=str(folder))
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
    return SamplingDefaults(policy, tuple(sorted(set(listed))), notes)


def folder_notes(folder: Path) -> tuple[str, ...]:
    """What a person should know who takes this folder over: fields left out, and end tokens against the chat template.

    Raises:
        CheckpointError: see `sampling_defaults`, `end_token_notes` and `PromptRenderer`. A folder that names no end token, or
            has no tokenizer.json, is not refused here.
    """
    generation, config = _json(folder / "generation_config.json"), _json(folder / "config.json")
    notes = fields_left_out(generation, config, where=str(folder))
    if generation.get("eos_token_id", config.get("eos_token_id")) is None or not has_template(folder):
        return notes
    return notes + end_token_notes(PromptRenderer(folder), sampling_defaults(folder).end_tokens)


def end_token_notes(renderer: PromptRenderer, end_tokens: Sequence[int]) -> tuple[str, ...]:
    """Where end tokens and chat template disagree, one sentence each: a model ends its turn as its template does.

    Raises:
        CheckpointError: an end token is none of the tokenizer's.
    """
    closing, written = renderer.assistant_turn()
    notes = []
    for token in sorted(set(end_tokens)):
        if token >= renderer.vocabulary_size:
            raise CheckpointError(
                f"eos_token_id has {token}, but the tokenizer has {renderer.vocabulary_size} tokens",
                hint="set eos_token_id in generation_config.json to a token that ends an answer",
            )
        if token not in written:
            notes.append(f"eos_token_id has {token} ({renderer.token_text(token)!r}), which the chat template never writes")
    if closing is not None and closing not in end_tokens:
        notes.append(
            f"the chat template ends an assistant's turn with {closing} ({renderer.token_text(closing)!r}), which is not in "
            "eos_token_id: completions will go on after it"
        )
    return tuple(notes)


def _number(value: dict[str, Any], name: str, default: float, least: float, most: float, folder: Path) -> Any:
    found = value.get(name)
    if found is None:
        return default
    if not isinstance(found, int | float) or isinstance(found, bool) or not least <= found <= most:
        raise CheckpointError(
            f"{name} is {found!r}, not a number from {least} to {most}",
            where=str(folder),
            hint=f"set {name} in generation_config.json to such a number, or leave it out",
        )
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
