"""A model folder as an inference node serves it, and as anybody who holds a receipt finds it again.

Both sides read the folder with this, so what is refused there is refused here: code, features that the protocol does not
describe, a tokenizer that is not pure. Weights are hashed, not loaded.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from grail_core.checkpoints.cache import MANIFEST_FILE
from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.safety import CONFIG_FILE, read_model_files
from grail_core.errors import CheckpointError
from grail_core.generation.defaults import sampling_defaults
from grail_core.inference.answers import ServedModel
from grail_core.model.described import ModelDescription
from grail_core.model.prompts import PromptRenderer
from grail_core.model.skeleton import check_configuration
from grail_core.model.tokenizer_files import PROMPT_FILES
from grail_core.protocol.manifest import MAX_MANIFEST_BYTES
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest


@dataclass(frozen=True)
class ServedFolder:
    folder: Path
    model: ServedModel
    description: ModelDescription
    renderer: PromptRenderer
    policy: GenerationPolicy  # what the folder says of drawing; an order says its own
    notes: tuple[str, ...]  # what the folder says and nobody here follows


def read_served_folder(folder: Path, *, thinking_mode: str = "none") -> ServedFolder:
    """Read and check a folder, and hash its weights (a second for two gigabytes).

    Raises:
        CheckpointError: it is not one that can be served; names the file and what to do.
    """
    files = read_model_files(folder)
    config = files.files[CONFIG_FILE]
    check_configuration(json.loads(config), where=str(folder))
    description = ModelDescription.of(files.files)
    defaults = sampling_defaults(folder)
    renderer = PromptRenderer.of(
        {name: data for name, data in files.files.items() if name in PROMPT_FILES}, thinking_mode, where=str(folder)
    )
    model = ServedModel(
        architecture=files.architecture,
        config_digest=Digest(hashlib.sha256(config).digest()),
        weights_root=digest_state(map_weights(folder)).root,
        tokenizer_digest=files.tokenizer_digest,
        chat_template_digest=files.chat_template_digest,
        thinking_mode=thinking_mode,
        end_token_ids=defaults.end_tokens,
        context_length=description.context_length,
        vocabulary_size=description.vocabulary_size,
    )
    return ServedFolder(folder, model, description, renderer, defaults.policy, defaults.notes)


def read_manifest_file(folder: Path) -> bytes | None:
    """What lies in the folder as the manifest of a checkpoint, as nobody has looked at it yet; at most a byte more than a
    manifest may have. None: there is none.

    Raises:
        CheckpointError: it is no regular file, or cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            return file.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(
            f"the manifest cannot be read: {error.strerror}",
            where=str(path),
            hint="export the checkpoint again with `grail checkpoint export`, or remove the file",
        ) from error
