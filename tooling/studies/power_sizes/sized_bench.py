"""The workbench of the study of sizes: `Bench` over a model of any size, with every text and every model made once.

Prompts are 24 tokens, so that most of what is computed is completion. A trained model's earlier checkpoints are a real step
back (Adam's direction from its own rollouts); a random model has learned nothing, so its step has random signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from grail_core.model.policy_model import PolicyModel
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations import weights
from tooling.adversaries.deviations.decoding import Chooser
from tooling.adversaries.deviations.observation import Rollout, Setting
from tooling.adversaries.deviations.provers import HonestModels
from tooling.adversaries.deviations.updates import adam_direction
from tooling.adversaries.deviations.workbench import Bench, Folders
from tooling.testing.models.artefacts import Artefacts, Recipe
from tooling.testing.models.corpus import Corpus
from tooling.testing.models.language_model import load_master

PROMPT: Final = 24
_STEP_BATCHES, _STEP_LIMIT = 8, 48
_STEP_FILE = "direction.safetensors"
_DERIVED = (
    *("int8", "int8_grouped", "int8_unnamed", "int8_single", "int4", "int4_grouped", "eight_bit_floats"),
    *("low_rank", "skipped", "patched", "smaller", "stranger"),
)


@dataclass(frozen=True)
class Models:
    """Folders of the bench, whether the policy has learned anything, and where what is made of it is kept."""

    folders: Folders
    trained: bool
    store: Artefacts
    digest: str  # of the policy


class SizedBench(Bench):
    """A bench whose samples are kept: deviations that share a text share its measurement.

    Args:
        from_end: of the held-out documents, in place of their beginning: texts that no other bench has.
        prompts: in place of any. loaded: as `Bench`.
    """

    def __init__(
        self,
        models: Models,
        corpus: Corpus,
        setting: Setting,
        groups: int,
        limit: int,
        *,
        from_end: bool = False,
        prompts: Sequence[tuple[int, ...]] | None = None,
        loaded: HonestModels | None = None,
    ) -> None:
        super().__init__(models.folders, corpus, setting, groups, limit, prompts=prompts or (), loaded=loaded)
        self._models = models
        self.older = self._steps = _Steps(self)
        if prompts is None:
            self.prompts = self._short_prompts(groups, from_end)
        self._kept: dict[tuple[PolicyModel, str], list[Rollout]] = {}

    def sample(
        self,
        model: PolicyModel | None = None,
        chooser: Chooser | None = None,
        *,
        prompts: Sequence[tuple[int, ...]] | None = None,
        hotkey: str = "miner",
        ends: bool = True,
    ) -> list[Rollout]:
        if chooser is not None or prompts is not None or not ends:
            return super().sample(model, chooser, prompts=prompts, hotkey=hotkey, ends=ends)
        key = (model or self.model, hotkey)
        if key not in self._kept:
            self._kept[key] = super().sample(model, hotkey=hotkey)
        return list(self._kept[key])

    def forget(self) -> None:
        """Drop models that one deviation needed, and what they wrote."""
        for name in _DERIVED:
            self.__dict__.pop(name, None)
        self._steps.clear()
        self._kept = {key: rollouts for key, rollouts in self._kept.items() if key[0] is self.model}

    @cached_property
    def master(self) -> dict[str, Tensor]:
        return load_master(self.folders.policy)

    @cached_property
    def direction(self) -> dict[str, Tensor]:
        if not self._models.trained:
            draw = torch.Generator().manual_seed(19)
            return {name: torch.randint(0, 2, value.shape, generator=draw) * 2.0 - 1.0 for name, value in self.master.items()}
        recipe: Recipe = {"model": self._models.digest, "version": 1}
        made = self._models.store.make("sizes-step", recipe, self._learn_direction)
        kept: dict[str, Tensor] = load_file(made.folder / _STEP_FILE)
        return kept

    def _learn_direction(self, folder: Path) -> None:
        """The same whatever the window: a checkpoint has one predecessor."""
        setting = Setting("the step before", GenerationPolicy(_STEP_LIMIT))
        before = SizedBench(self._models, self.corpus, setting, _STEP_BATCHES, _STEP_LIMIT, from_end=True)
        rollouts = before.sample()
        digits = frozenset(i for i in range(self.tokens.get_vocab_size()) if self.tokens.decode([i]).strip().isdigit())
        batches = [rollouts[i : i + ROLLOUTS_PER_PROBLEM] for i in range(0, len(rollouts), ROLLOUTS_PER_PROBLEM)]
        direction = adam_direction(self.folders.policy, batches, digits)
        save_file({name: value.contiguous() for name, value in direction.items()}, folder / _STEP_FILE)

    def stepped_back(self, rate: float) -> PolicyModel:
        """The checkpoint one step of this learning rate older."""
        return weights.stepped_back(self.model, self.master, self.direction, rate)

    def _short_prompts(self, count: int, from_end: bool) -> list[tuple[int, ...]]:
        """Openings of held-out documents, `PROMPT` tokens each."""
        user, assistant = self.tokens.token_to_id("<|user|>"), self.tokens.token_to_id("<|assistant|>")
        documents = self.corpus.held_out[::-1] if from_end else self.corpus.held_out
        prompts = []
        for document in (*documents, *self.corpus.training):
            ids = self.tokens.encode(document.prompt).ids
            if len(ids) >= PROMPT - 2:
                prompts.append((user, *ids[: PROMPT - 2], assistant))
            if len(prompts) == count:
                return prompts
        raise ValueError(f"the corpus has only {len(prompts)} prompts of {PROMPT} tokens, {count} are needed")


class _Steps(dict[str, PolicyModel]):
    """Earlier checkpoints by the text of the learning rate, each made when it is asked for."""

    def __init__(self, bench: SizedBench) -> None:
        super().__init__()
        self._bench = bench

    def __missing__(self, rate: str) -> PolicyModel:
        self[rate] = self._bench.stepped_back(float(rate))
        return self[rate]
