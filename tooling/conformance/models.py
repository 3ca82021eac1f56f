"""The checkpoints that an engine is given: two of one shape, and a folder whose generation_config.json lies."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from transformers.utils import logging as transformers_logging

from grail_core.generation.base import ServedWeights
from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.policy import GenerationPolicy
from tooling.testing.models.tiny_qwen2 import END_TOKEN_ID, Qwen2Shape, save_byte_model

POLICY = GenerationPolicy(64, temperature=0.8)
TRUNCATED = replace(POLICY, top_k=20, top_p=0.9)
SHAPE = Qwen2Shape(END_TOKEN_ID + 1, hidden=128, heads=4, key_value_heads=2, context=512, spread=0.2)
"""0.3 M weights; logits with a standard deviation of 2.3, about as firm as a language model's."""

HOSTILE = {
    "do_sample": True,
    "temperature": 0.01,
    "top_k": 1,
    "top_p": 0.05,
    "min_p": 0.9,
    "repetition_penalty": 4.0,
    "max_new_tokens": 3,
    "eos_token_id": [0, 1, 2, 3, 64, 65, 66, 67, 128, 200, END_TOKEN_ID],
    "suppress_tokens": list(range(40, 120)),
    "bad_words_ids": [[30], [31]],
}
"""What a folder may say so that an engine draws other tokens, and fewer."""


def make_folders(scratch: Path) -> tuple[Path, Path, Path]:
    """Two checkpoints, and the first one once more with a hostile generation_config.json."""
    transformers_logging.disable_progress_bar()
    first = save_byte_model(scratch / "first", SHAPE, seed=3)
    second = save_byte_model(scratch / "second", SHAPE, seed=4)
    hostile = scratch / "hostile"
    shutil.copytree(first, hostile)
    (hostile / "generation_config.json").write_text(json.dumps(HOSTILE))
    return first, second, hostile


def served(folder: Path, version: str, dtype: str, policy: GenerationPolicy = POLICY) -> ServedWeights:
    """With the model in this process, in the engine's own dtype: the verifier's."""
    model = PolicyModel.load(folder, dtype=dtype)
    ends = frozenset({END_TOKEN_ID})
    return ServedWeights(version * 64, folder, policy, ends, model.vocabulary_size, model.context_length, model)
