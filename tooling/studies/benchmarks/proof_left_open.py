"""What honest rollouts leave open: how often, and in what, the first of them ask for the others of their file.

A language model trained on this machine, its own rollouts, and as earlier checkpoints the weights that one to three steps of
Adam lie before its own, rounded to bf16 as a trainer publishes them. On weights that were never trained, or beside steps that
no optimiser took, drift and differences are other sizes, and the share with them. Nothing is timed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.comparison import NamedComparison
    from grail_core.proof.work import AskedAlternatives, ProofRow

PROMPT: Final = 64
GROUPS: Final = 4
LEARNING_RATE: Final = 1e-5  # of one step, between two checkpoints
DRAWS: Final = 400


def honestly_left_open(length: int) -> list[AskedAlternatives]:
    """Of random draws of honest rollouts, as many as are compared first, with so many completion tokens."""
    from grail_core.proof.calibration import shipped_table
    from grail_core.proof.numerics import DEFAULT_CLASS
    from grail_core.proof.statistics import left_open
    from grail_core.verification.challenged import MOST_COMPARED_FIRST

    pair = shipped_table().lookup(DEFAULT_CLASS, DEFAULT_CLASS)
    if pair is None or not pair.covers(None):
        raise RuntimeError("the shipped table enforces nothing for this machine's numerics")
    named = _honest(length)
    rng = np.random.default_rng(4)
    draws = [rng.choice(len(named), MOST_COMPARED_FIRST, replace=False) for _ in range(DRAWS)]
    return [left_open([named[int(at)] for at in draw], pair) for draw in draws]


def _honest(length: int) -> list[NamedComparison]:
    """Rollouts under every alternative, as the tests take them."""
    from grail_core.model.policy_model import PolicyModel
    from grail_core.proof.alternatives import Alternatives, rounded_copies
    from grail_core.proof.comparison import compare_named
    from grail_core.proof.in_process import InThisProcess
    from grail_core.proof.sketches import parse_sketches, projections
    from grail_core.protocol.policy import GenerationPolicy
    from grail_core.protocol.randomness import Randomness
    from tooling.testing.models.artefacts import Artefacts, default_folder
    from tooling.testing.models.corpus import load_corpus
    from tooling.testing.models.language_model import STUDY, language_model

    folder = language_model(Artefacts(default_folder()), load_corpus(), STUDY).folder
    model, policy = PolicyModel.load(folder), GenerationPolicy(length)
    signs = projections(Randomness(bytes(32)), bytes(32), model.hidden_size)
    groups = _groups(model, policy)
    earlier = {name: partial(_given, weights) for name, weights in _earlier(folder, groups).items()}
    work = InThisProcess(model, Alternatives(model, {**earlier, **rounded_copies(model)}))
    named = []
    for rows in groups:
        compared = work.compare(rows, signs, policy)
        for row, one, sketches in zip(rows, compared, _claims(model, rows, signs), strict=True):
            places = np.asarray(row.positions)
            found = compare_named(
                claimed_sketches=parse_sketches(sketches, len(row.tokens) - PROMPT + 1)[1:][places],
                tokens=np.asarray(row.tokens[PROMPT:], np.int32)[places],
                compared=one,
            )
            if found is None:
                raise RuntimeError("the reference has no number")
            named.append(found)
    return named


def _given(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return weights


def _groups(model: PolicyModel, policy: object) -> list[list[ProofRow]]:
    """The model's own answers to random prompts, 16 to a prompt, looked at at up to ALTERNATIVE_POSITIONS."""
    from grail_core.generation.base import GenerationRequest
    from grail_core.generation.hf import HfGenerator
    from grail_core.proof.work import ProofRow
    from grail_core.protocol import challenged_positions
    from grail_core.protocol.constants import ALTERNATIVE_POSITIONS
    from grail_core.protocol.policy import GenerationPolicy

    assert isinstance(policy, GenerationPolicy)
    rng, generator, groups = np.random.default_rng(3), HfGenerator(model, policy, frozenset()), []
    for _ in range(GROUPS):
        prompt = tuple(rng.integers(4, model.vocabulary_size, PROMPT).tolist())
        requests = [GenerationRequest(prompt, int(rng.integers(2**63))) for _ in range(16)]
        rows = []
        for request, one in zip(requests, generator.generate(requests), strict=True):
            at = challenged_positions(bytes(32), rng.bytes(32), len(one.tokens), ALTERNATIVE_POSITIONS)
            rows.append(ProofRow(request.prompt + one.tokens, PROMPT, at, request.sampling_seed))
        groups.append(rows)
    return groups


def _claims(model: PolicyModel, rows: Sequence[ProofRow], signs: object) -> list[bytes]:
    from grail_core.proof.batch import prove_rollouts

    assert isinstance(signs, np.ndarray)
    return [one.sketches for one in prove_rollouts(model, [row.tokens for row in rows], [PROMPT] * len(rows), signs)]


def _earlier(folder: Path, groups: Sequence[Sequence[ProofRow]]) -> dict[str, dict[str, Tensor]]:
    """The checkpoints before, by name: the direction of Adam's step is that of policy gradients of these rollouts."""
    from tooling.adversaries.deviations.observation import Rollout
    from tooling.adversaries.deviations.updates import adam_direction
    from tooling.testing.models.language_model import load_master

    batches = [[Rollout(g, r, tuple(row.tokens), PROMPT) for r, row in enumerate(rows)] for g, rows in enumerate(groups)]
    master, direction = load_master(folder), adam_direction(folder, batches, frozenset(range(0, 1024, 3)))
    return {
        f"previous-{age}": {name: (master[name] - age * LEARNING_RATE * step).bfloat16() for name, step in direction.items()}
        for age in (1, 2, 3)
    }
