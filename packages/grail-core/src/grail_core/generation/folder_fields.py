"""What a model folder says about drawing tokens beside what a network follows: named, or refused; never dropped in silence.

A network draws by its policy (temperature, top-k, top-p, repetition penalty, a limit) until an end token. Whatever else
`generation_config.json` or `config.json` says falls under one of three rules:

* **refused**: what may or must be drawn, and where a completion ends (`suppress_tokens`, `stop_strings`, …). The model was not
  meant to be used without it, and the network cannot do it.
* **named**: another way to draw from the same model (`min_p`, `do_sample: false`, beams, …), and names nobody knows. It is a
  preference; a person should know that the network has another.
* **passed over**: what changes no token (caches, what is returned, speculation without loss), and values that say "off".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grail_core.errors import CheckpointError

FOLLOWED = {"eos_token_id": None, "max_new_tokens": None, "temperature": 1, "top_p": 1, "top_k": 0, "repetition_penalty": 1}
"""Fields that become the network's policy, and the value that changes nothing."""

# What may or must be drawn, and where a completion ends: field → the value that is off.
_REFUSED: dict[str, Any] = {
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "force_words_ids": None,
    "constraints": None,
    "stop_strings": None,
    "min_length": 0,
    "min_new_tokens": 0,
    "token_healing": None,
}
# Another way to draw from the same model.
_NAMED: dict[str, Any] = {
    "do_sample": True,
    "num_beams": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0,
    "length_penalty": 1,
    "min_p": 0,
    "top_h": 1,
    "typical_p": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "encoder_repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": 0,
    "dola_layers": None,
    "guidance_scale": 1,
    "watermarking_config": None,
    "assistant_ensemble_weight": None,
    "max_length": 20,
    "max_time": None,
}
# Changes no token: names of tokens that are not drawn, caches, what is returned, speculation without loss. What asks for
# code is refused where files are checked.
_PASSED_OVER = frozenset(
    [
        "pad_token_id",
        "bos_token_id",
        "decoder_start_token_id",
        "transformers_version",
        "_from_model_config",
        "_commit_hash",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "prefill_chunk_size",
        "low_memory",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "num_return_sequences",
        "renormalize_logits",
        "remove_invalid_values",
        "early_stopping",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "use_mtp",
        "speculation_type",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "auto_map",
        "custom_generate",
        "trust_remote_code",
    ]
)


def fields_left_out(generation: Mapping[str, Any], config: Mapping[str, Any], *, where: str) -> tuple[str, ...]:
    """What of a folder's two files a network does not follow, one sentence each.

    Args:
        generation: generation_config.json; empty where there is none. config: config.json.

    Raises:
        CheckpointError: a field says what may or must be drawn, or where a completion ends.
    """
    notes = []
    for file, values in (("generation_config.json", generation), ("config.json", config)):
        for name, value in sorted(values.items()):
            if file == "config.json" and (name in generation or name == "eos_token_id"):
                continue  # the other file outranks it; end tokens are read from this one too
            if name in _REFUSED and _is_on(value, _REFUSED[name]):
                raise CheckpointError(
                    f"{file} has {name}: {_short(value)}, which says what may be drawn or where a completion ends; "
                    "a network draws by its policy alone",
                    where=where,
                    hint=f"take {name} out of {file} if the model is to be used without it",
                )
            if name in _NAMED and _is_on(value, _NAMED[name]):
                notes.append(f"{file} has {name}: {_short(value)}, which a network does not follow")
            elif file == "config.json" and name in FOLLOWED and _is_on(value, FOLLOWED[name]):
                notes.append(f"{file} has {name}: {_short(value)}, which is followed from generation_config.json only")
            elif file != "config.json" and name not in {*FOLLOWED, *_NAMED, *_REFUSED, *_PASSED_OVER} and _is_on(value, None):
                notes.append(f"{file} has {name}: {_short(value)}, which is not known here, so it is not followed")
    return tuple(notes)


def _is_on(value: Any, off: Any) -> bool:
    if value is None or value == off:
        return False
    if isinstance(off, bool):  # of a switch that is on by default, false says something
        return True
    return not (value is False or (isinstance(value, str | list | dict) and not value))


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
