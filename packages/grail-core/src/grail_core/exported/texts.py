"""The tokenizers of the checkpoints that drew what is exported, by the digest in a file's header."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from grail_core.checkpoints.fetch import model_files
from grail_core.checkpoints.source import CheckpointSource
from grail_core.errors import CheckpointError
from grail_core.model.prompts import PromptRenderer
from grail_core.model.tokenizer_files import PROMPT_FILES
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest

_RENDERERS: Final = 2


class Texts:
    """Manifests by digest, and what decodes their tokens. Of a checkpoint its tokenizer alone is fetched, and no weights."""

    def __init__(self, checkpoints: CheckpointSource) -> None:
        self._checkpoints = checkpoints
        self._known: OrderedDict[Digest, tuple[CheckpointManifest, PromptRenderer]] = OrderedDict()

    def of(self, digest: Digest) -> tuple[CheckpointManifest, PromptRenderer]:
        """Raises CheckpointError: it is not in the trainer's bucket any more, or its tokenizer cannot be had."""
        if digest not in self._known:
            bucket = self._checkpoints.bucket()
            known = bucket.known().by_digest
            manifest = known.get(digest) or bucket.refresh().by_digest.get(digest)
            if manifest is None:
                raise CheckpointError(
                    "the manifest of the checkpoint that drew it is not in the trainer's bucket any more",
                    where=digest.hex(),
                )
            files = {name: data for name, data in model_files(manifest, bucket).items() if name in PROMPT_FILES}
            self._known[digest] = manifest, PromptRenderer.of(files, manifest.thinking_mode, where=digest.hex())
        self._known.move_to_end(digest)
        while len(self._known) > _RENDERERS:
            self._known.popitem(last=False)
        return self._known[digest]
