"""What an engine is asked: groups of two rollouts, half of them over rendered text, half over tokens that no text encodes to.

The second half is what an engine that decodes and encodes its prompts again gives away. Lengths differ, so that batches hold
unlike rows, and the two rollouts of a group differ in their seed alone. Some requests are asked again later, in another batch:
the same seed must draw the same tokens there. All of it follows from one seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from grail_core.environment import Message
from grail_core.generation.base import GenerationRequest
from grail_core.model.prompts import PromptRenderer

GROUPS = 64
ROLLOUTS = 2  # of a group: the least at which an engine that ignores seeds makes clones
REPEATED = 8  # requests that are made once more
_LONGEST = 48  # tokens of a prompt that no text encodes to
_SUBJECTS = ("apples", "trains", "integers", "triangles", "letters", "coins", "bridges", "clocks")
_QUESTIONS = (
    "How many {0} are left if {1} of {2} are taken away? Think step by step.",
    "Write a function that sorts {0} by size and returns the first {1} of {2}.",
    "If {1} {0} cost {2} each, what do they cost together?",
    "Explain in {1} sentences why {0} are counted modulo {2}.",
)


@dataclass(frozen=True)
class Probes:
    """`group_of`: of each request, which group it belongs to. `repeated`: indices into `requests`, asked once more."""

    requests: tuple[GenerationRequest, ...]
    group_of: tuple[int, ...]
    repeated: tuple[int, ...]


def make_probes(
    renderer: PromptRenderer | None, vocabulary_size: int, longest: int, *, groups: int = GROUPS, seed: int = 0
) -> Probes:
    """The requests of one run, the same for the same arguments.

    Args:
        renderer: of the checkpoint; without one every prompt is of tokens drawn by chance.
        vocabulary_size: ids that a prompt may hold; longest: tokens that a prompt may have (the rest is the completion's).
    """
    words = np.random.default_rng([seed, 0x6772])
    requests, group_of = [], []
    for group in range(groups):
        prompt = _rendered(renderer, group, words) if renderer is not None and group % 2 == 0 else None
        if prompt is None or len(prompt) > longest or max(prompt) >= vocabulary_size:
            prompt = _by_chance(words, vocabulary_size, longest)
        for rollout in range(ROLLOUTS):
            requests.append(GenerationRequest(prompt, _sampling_seed(seed, group, rollout)))
            group_of.append(group)
    step = max(1, len(requests) // REPEATED)
    return Probes(tuple(requests), tuple(group_of), tuple(range(0, len(requests), step))[:REPEATED])


def _rendered(renderer: PromptRenderer, group: int, words: np.random.Generator) -> tuple[int, ...]:
    question = _QUESTIONS[group // 2 % len(_QUESTIONS)]
    subject = _SUBJECTS[int(words.integers(len(_SUBJECTS)))]
    return renderer.render([Message("user", question.format(subject, *map(int, words.integers(2, 99, 2))))])


def _by_chance(words: np.random.Generator, vocabulary_size: int, longest: int) -> tuple[int, ...]:
    length = int(words.integers(1, min(_LONGEST, longest) + 1))
    return tuple(map(int, words.integers(0, vocabulary_size, length)))


def _sampling_seed(seed: int, group: int, rollout: int) -> int:
    """63 random bits: an engine that keeps the lower 32, or reads a float, draws otherwise."""
    return int.from_bytes(hashlib.sha256(f"conformance/{seed}/{group}/{rollout}".encode()).digest()[:8], "big") >> 1
