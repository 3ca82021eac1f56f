"""What may stand beside the weights: plain configuration and tokenizer files, and templates that are pure.

Nothing that is code is published or accepted: no pickles, no Python, no `auto_map` that would make a loader import some. A
chat template is a program too; one that reads a clock or draws at random would give two participants two prompts, so it is
refused. File names are single path components from a closed list of forms. The calibration table that a checkpoint pins
(`pinned_table`) is data and stands among them; a model's own folder has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grail_core.checkpoints.pinned_table import CALIBRATION_FILE, MAX_TABLE_BYTES, parse_table
from grail_core.checkpoints.sizes import bound_sizes
from grail_core.errors import CheckpointError, ConfigurationError
from grail_core.lfs_pointers import refuse_pointer
from grail_core.model.prompt_trial import check_prompts, check_template
from grail_core.model.tokenizer_files import (
    PROMPT_FILES,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    chat_templates,
    refuse_hidden_default,
)
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.reading import distinct_members
from grail_core.protocol.types import Digest

MAX_FILE_BYTES = 64 << 20
"""Of a tokenizer's own files; what the others may have says `_SMALL_FILES`."""
CONFIG_FILE = "config.json"
_SMALLER = "no model that is known here has such a file; save the folder anew with save_pretrained"

_TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
}
_OTHER_FILES = {CONFIG_FILE, "generation_config.json", TEMPLATE_FILE}
MODEL_FILES = frozenset(_TOKENIZER_FILES | _OTHER_FILES)
ALLOWED_FILES = MODEL_FILES | {CALIBRATION_FILE}
_SMALL_FILES = {
    CONFIG_FILE: 1 << 20,
    "generation_config.json": 1 << 20,
    TEMPLATE_FILE: 1 << 20,
    "tokenizer_config.json": 8 << 20,
    CALIBRATION_FILE: MAX_TABLE_BYTES,
}

_CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "trust_remote_code")
_KERNEL_KEYS = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class ModelFiles:
    """The checked files of a model folder, weights aside; of a checkpoint's, its calibration table is among them."""

    files: Mapping[str, bytes]
    architecture: str
    tokenizer_digest: Digest
    chat_template_digest: Digest


def read_model_files(folder: Path) -> ModelFiles:
    """Read and check the files of a Transformers folder that belong in a checkpoint; others are left out.

    Raises:
        CheckpointError: no config, a file too large, or one that is refused (see `check_model_files`).
    """
    refuse_hidden_default(folder)
    files = {}
    for name in sorted(MODEL_FILES):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"the file is larger than {MAX_FILE_BYTES} bytes", where=str(path), hint=_SMALLER)
        files[name] = path.read_bytes()
        refuse_pointer(files[name], where=str(path))
    return check_model_files(files, where=str(folder))


def check_model_files(files: Mapping[str, bytes], *, where: str = "model files") -> ModelFiles:
    """Check files by name and bytes.

    Raises:
        CheckpointError: a name outside the closed list, a JSON file that is none, a key that asks for code, an unknown
            architecture field, or a template that is not pure.
    """
    parsed: dict[str, Any] = {}
    for name, data in files.items():
        if name not in ALLOWED_FILES:
            raise CheckpointError(
                "this file is not one a checkpoint may hold",
                where=f"{where}: {name!r}",
                hint="only configuration and tokenizer files are allowed; code and pickles never are",
            )
        most = _SMALL_FILES.get(name, MAX_FILE_BYTES)
        if len(data) > most:
            raise CheckpointError(
                f"the file has {len(data)} bytes, the limit is {most}", where=f"{where}: {name}", hint=_SMALLER
            )
        if name == CALIBRATION_FILE:
            _require_table(data, f"{where}: {name}")
        elif name.endswith(".json"):
            parsed[name] = _json(data, f"{where}: {name}")
    config = parsed.get(CONFIG_FILE)
    if not isinstance(config, dict):
        raise CheckpointError(
            f"there is no {CONFIG_FILE} that is an object" if CONFIG_FILE in parsed else f"there is no {CONFIG_FILE}",
            where=where,
            hint="a folder that save_pretrained(folder) or `hf download` wrote has one",
        )
    bound_sizes(config, f"{where}: {CONFIG_FILE}")
    for name in (CONFIG_FILE, "tokenizer_config.json", "generation_config.json"):
        _refuse_code(parsed.get(name), f"{where}: {name}")
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or len(architectures) != 1 or not re.fullmatch(r"\w{1,128}", str(architectures[0])):
        raise CheckpointError(
            "config.json does not name one architecture",
            where=where,
            hint='write the class of the model into it, such as "architectures": ["Qwen2ForCausalLM"]; save_pretrained does',
        )
    template = chat_templates(parsed.get("tokenizer_config.json"), files.get(TEMPLATE_FILE), where=where)
    for name, text in template.items():
        check_template(text, where=f"{where}: chat template {name}", used=name == "default")
    if template and TOKENIZER_FILE in files:
        prompt_files = {name: files[name] for name in PROMPT_FILES if name in files}
        check_prompts(prompt_files, vocabulary=_vocabulary(config), where=where)
    return ModelFiles(
        files=dict(files),
        architecture=str(architectures[0]),
        tokenizer_digest=tokenizer_digest(files),
        chat_template_digest=Digest(hashlib.sha256(canonical_json(template)).digest()),
    )


def tokenizer_digest(files: Mapping[str, bytes]) -> Digest:
    """Of a folder's tokenizer files by name and bytes; other files do not count."""
    tokenizer = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name in _TOKENIZER_FILES}
    return Digest(hashlib.sha256(canonical_json(tokenizer)).digest())


def _require_table(data: bytes, where: str) -> None:
    try:
        parse_table(data)
    except ConfigurationError as error:
        raise CheckpointError(error.what, where=where, hint=error.hint) from error


def _vocabulary(config: Mapping[str, Any]) -> int | None:
    """How many tokens the model has by its configuration; None where it does not say."""
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=distinct_members)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the file is no JSON: {error}", where=where, hint="mend it there, or fetch or save the folder again"
        ) from error


def _refuse_code(value: Any, where: str) -> None:
    """Nested configurations too, which load through the same classes."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left.extend(one)
        elif isinstance(one, dict):
            left.extend(one.values())
            asked = [key for key in _CODE_KEYS if one.get(key)]
            # "owner/name" there is a kernel of a hub, which is code.
            asked += [key for key in one if key.endswith(_KERNEL_KEYS) and "/" in str(one[key])]
            if asked:
                raise CheckpointError(
                    f"the file asks for code to be loaded ({asked[0]})",
                    where=where,
                    hint="convert the model to an architecture that Transformers knows; remote code is never trusted",
                )
