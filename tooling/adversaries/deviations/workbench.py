"""One study's models and work: what honest and dishonest miners share.

Prompts are held-out documents cut to one length, 16 rollouts each, so that every batch is a rectangle. Models that only one
deviation needs are made when it asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from grail_core.generation.base import GenerationRequest
from grail_core.generation.hf import HfGenerator
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.batch import RolloutProof
from grail_core.protocol.constants import ROLLOUTS_PER_PROBLEM
from grail_core.protocol.policy import GenerationPolicy
from tooling.adversaries.deviations import weights
from tooling.adversaries.deviations.decoding import Chooser, decode
from tooling.adversaries.deviations.observation import Rollout, Setting, claim_of
from tooling.adversaries.deviations.provers import HonestModels, Prover, together
from tooling.testing.models.corpus import Corpus
from tooling.testing.models.language_model import ASSISTANT, END, USER, encoder

PROMPT_TOKENS = 40
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Folders:
    """Trained models: the network's, a smaller one of the same vocabulary, and a stranger of the same shape."""

    policy: Path
    smaller: Path
    stranger: Path


class Bench:
    """Models, prompts and the ways to sample and prove with them.

    Args:
        limit: most completion tokens. groups: how many prompts; group g of any study has the same prompt.
        prompts: to be used in place of the corpus's. loaded: the policy's models, where somebody holds them already.

    Attributes:
        older: the checkpoint before this one, by the learning rate of the step between. Which step, a subclass knows.
    """

    older: dict[str, PolicyModel]

    def __init__(
        self,
        folders: Folders,
        corpus: Corpus,
        setting: Setting,
        groups: int,
        limit: int,
        prompts: Sequence[tuple[int, ...]] | None = None,
        loaded: HonestModels | None = None,
    ) -> None:
        self.folders, self.setting, self.limit = folders, setting, limit
        self.corpus = corpus
        self.tokens = encoder(folders.policy)
        self.end: int = self.tokens.token_to_id(END)
        self.models = loaded or HonestModels(folders.policy)
        self.model = self.models.sdpa
        self.prompts = self._prompts(groups) if prompts is None else list(prompts)

    # What sampling needs

    @property
    def honest(self) -> SeededSampler:
        return SeededSampler(self.setting.policy)

    def sample(
        self,
        model: PolicyModel | None = None,
        chooser: Chooser | None = None,
        *,
        prompts: Sequence[tuple[int, ...]] | None = None,
        hotkey: str = "miner",
        ends: bool = True,
    ) -> list[Rollout]:
        """Sixteen completions of every prompt with the cached decoder; group g is the g-th prompt."""
        asked = self.prompts if prompts is None else prompts
        rows = [(g, r, prompt) for g, prompt in enumerate(asked) for r in range(ROLLOUTS_PER_PROBLEM)]
        rollouts = []
        for part in _rectangles(rows):
            seeds = [self.setting.sampling_seed(g, r, hotkey) for g, r, _ in part]
            end = self.end if ends else None
            done = decode(model or self.model, [p for *_, p in part], seeds, chooser or self.honest, end, self.limit)
            rollouts += [
                Rollout(g, r, (*prompt, *completion), len(prompt))
                for (g, r, prompt), completion in zip(part, done.completions, strict=True)
            ]
        return rollouts

    def sample_in_process(self, prompts: Sequence[tuple[int, ...]] | None = None) -> list[Rollout]:
        """The same with the network's own generator."""
        rows = [(g, r, p) for g, p in enumerate(prompts or self.prompts) for r in range(ROLLOUTS_PER_PROBLEM)]
        requests = [GenerationRequest(p, self.setting.sampling_seed(g, r)) for g, r, p in rows]
        generator = HfGenerator(self.model, self.policy, frozenset({self.end}))
        done = generator.generate(requests)
        return [Rollout(g, r, (*p, *c.tokens), len(p)) for (g, r, p), c in zip(rows, done, strict=True)]

    @property
    def policy(self) -> GenerationPolicy:
        return self.setting.policy

    # What proving needs

    def prove(
        self,
        rollouts: Sequence[Rollout],
        prover: Prover | None = None,
        head: PolicyModel | None = None,
        setting: Setting | None = None,
    ) -> list[RolloutProof]:
        """Claims of every group from the hidden states of `prover`, with the head of `head`, in the randomness of `setting`."""
        compute = prover or together(self.model)
        claims = []
        for batch in in_groups(rollouts):
            states = compute([list(r.tokens) for r in batch], batch[0].prompt_length)
            claims += [claim_of(head or self.model, setting or self.setting, r, s) for r, s in zip(batch, states, strict=True)]
        return claims

    # Models that are not the right one

    @cached_property
    def int8(self) -> PolicyModel:
        return weights.quantised(self.model, 8, None)

    @cached_property
    def int8_grouped(self) -> PolicyModel:
        return weights.quantised(self.model, 8, 32)

    @cached_property
    def int4(self) -> PolicyModel:
        return weights.quantised(self.model, 4, None)

    @cached_property
    def int4_grouped(self) -> PolicyModel:
        return weights.quantised(self.model, 4, 32)

    @cached_property
    def int8_unnamed(self) -> PolicyModel:
        """By a scheme that no alternative names."""
        return weights.with_zero_point(self.model, 8, 64)

    @cached_property
    def int8_single(self) -> PolicyModel:
        """Computed with in float32: less noise than any honest miner of a bf16 class has."""
        return weights.in_float32(self.int8)

    @cached_property
    def eight_bit_floats(self) -> PolicyModel:
        return weights.in_eight_bit_floats(self.model)

    @cached_property
    def low_rank(self) -> PolicyModel:
        """As different as an adapter makes it."""
        return weights.with_low_rank(self.model, rank=16, share=2e-3, seed=17)

    @cached_property
    def middle(self) -> int:
        return self.model.layers // 2

    @cached_property
    def skipped(self) -> PolicyModel:
        return weights.without_layer(self.model, self.middle)

    @cached_property
    def patched(self) -> PolicyModel:
        rows = [list(r.tokens) for r in self.sample(prompts=self._prompts(4, from_end=True))]
        return weights.with_patched_layer(self.model, self.middle, rows)

    @cached_property
    def smaller(self) -> PolicyModel:
        return PolicyModel.load(self.folders.smaller)

    @cached_property
    def stranger(self) -> PolicyModel:
        return PolicyModel.load(self.folders.stranger)

    def _prompts(self, count: int, *, from_end: bool = False) -> list[tuple[int, ...]]:
        user, assistant = self.tokens.token_to_id(USER), self.tokens.token_to_id(ASSISTANT)
        documents = self.corpus.held_out[::-1] if from_end else self.corpus.held_out
        prompts = []
        room = PROMPT_TOKENS - 2
        for document in (*documents, *self.corpus.training):
            ids = self.tokens.encode(document.prompt).ids
            if len(ids) >= room:
                prompts.append((user, *ids[:room], assistant))
            if len(prompts) == count:
                return prompts
        raise ValueError(f"the corpus has only {len(prompts)} prompts of {room} tokens, {count} are needed")


def _rectangles(rows: list[tuple[int, int, tuple[int, ...]]]) -> list[list[tuple[int, int, tuple[int, ...]]]]:
    """Consecutive rows with prompts of one length, at most so many at once."""
    parts: list[list[tuple[int, int, tuple[int, ...]]]] = []
    for row in rows:
        if parts and len(parts[-1]) < _ROWS_AT_ONCE and len(parts[-1][0][2]) == len(row[2]):
            parts[-1].append(row)
        else:
            parts.append([row])
    return parts


def in_groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """Consecutive rollouts of one group together."""
    groups: list[list[Rollout]] = []
    for rollout in rollouts:
        if groups and groups[-1][0].group == rollout.group:
            groups[-1].append(rollout)
        else:
            groups.append([rollout])
    return groups


def edited(rollout: Rollout, completion: Sequence[int]) -> Rollout:
    """The same rollout with another completion."""
    return Rollout(
        rollout.group, rollout.rollout, (*rollout.tokens[: rollout.prompt_length], *completion), rollout.prompt_length
    )
