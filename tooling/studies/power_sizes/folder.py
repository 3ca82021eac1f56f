"""Any local Transformers folder as a size: what of the proof holds for *these* weights, real ones where somebody has them.

The same honest numerics and a choice of deviations, without anything that needs a second model of its kind or a training step:
whether 8-bit copies lie further from the model than its own rounding is a matter of the weights, not of the size, and decides
what a validator sees of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations.observation import Setting
from tooling.adversaries.deviations.workbench import Folders
from tooling.studies.power_sizes.collect import Collector
from tooling.studies.power_sizes.models import ModelRecipe
from tooling.studies.power_sizes.sized_bench import PROMPT, Models, SizedBench
from tooling.studies.power_sizes.sizes import StudiedSize
from tooling.studies.power_sizes.study import COPIES, SizeStudy
from tooling.testing.models.artefacts import Artefacts
from tooling.testing.models.corpus import Corpus

FOLDER_FILES: Final = ("config.json", "tokenizer.json", "*.safetensors")
"""What a folder has to hold."""

_NEEDS_ANOTHER_MODEL: Final = ("A3", "A5", "smaller", "patch")
_RECORD: Final = ("A2", "A6", "A7", "A9", "B2", "B4", "B5", "B7", "B8", "greedy", "penalty", "eager", "low-rank")


class FolderStudy(SizeStudy):
    """A size whose one model is a folder. There is no step back from weights whose making is unknown."""

    compared_with = COPIES

    def __init__(
        self, folder: Path, groups: int, limit: int, store: Artefacts, corpus: Corpus, say: Callable[[str], None]
    ) -> None:
        config = json.loads((folder / "config.json").read_text())
        heads, keys = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
        shape = config["num_hidden_layers"], config["hidden_size"], heads, keys, config["intermediate_size"]
        recipe = ModelRecipe(*shape, seed=0, vocabulary=config["vocab_size"])
        without = (*_NEEDS_ANOTHER_MODEL, *_RECORD)
        name = folder.resolve().name
        super().__init__(StudiedSize(name, (recipe,), 0, groups, groups, groups, limit, without=without), store, corpus, say)
        self._policy, self._digest = folder, _digest(folder)

    def _collector(
        self, window: str, recipe: ModelRecipe, name: str, groups: int, *, limit: int | None = None, from_end: bool = False
    ) -> Collector:
        folders = Folders(self._policy, self._policy, self._policy)
        limit = limit or self.size.honest_limit
        models = Models(folders, False, self._store, self._digest)
        setting = Setting(window, GenerationPolicy(limit))
        bench = _FolderBench(models, self._corpus, setting, groups, limit, from_end=from_end)
        return Collector(self._store, bench, self._digest, self._say)


class _FolderBench(SizedBench):
    """Prompts are the corpus's words in the folder's own tokens, without a chat template."""

    def _short_prompts(self, count: int, from_end: bool) -> list[tuple[int, ...]]:
        documents = self.corpus.held_out[::-1] if from_end else self.corpus.held_out
        encoded = (self.tokens.encode(document.prompt).ids for document in documents)
        prompts = [tuple(ids[:PROMPT]) for ids in encoded if len(ids) >= PROMPT]
        if len(prompts) < count:
            raise ValueError(f"the corpus has only {len(prompts)} prompts of {PROMPT} tokens, {count} are needed")
        return prompts[:count]


def _digest(folder: Path) -> str:
    state = hashlib.sha256()
    for path in sorted([folder / "config.json", folder / "tokenizer.json", *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            state.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()[:32]
