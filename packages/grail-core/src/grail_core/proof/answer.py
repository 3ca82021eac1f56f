"""One answer of an inference node, measured: all its sketches, and its draws at the positions that are looked at.

A window's rollouts are judged by many together; an answer stands alone, so every sketch of it is compared, the prompt's last
positions among them. The pass is that of `batch`: all choices in one batch, as the node proved them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grail_core.model.memory import on_this_machine
from grail_core.model.policy_model import PolicyModel
from grail_core.model.sampling import SeededSampler
from grail_core.proof.batch import Chunk, check_batch, judge, logits_in_chunks, states_before
from grail_core.proof.errors import UnprovableError
from grail_core.proof.sketches import Projections, sketch
from grail_core.proof.work import ChoiceMeasurement
from grail_core.protocol.policy import GenerationPolicy


@on_this_machine
def measure_answer(
    model: PolicyModel,
    prompt: Sequence[int],
    completions: Sequence[Sequence[int]],
    positions: Sequence[Sequence[int]],
    projections: Projections,
    policy: GenerationPolicy,
    sampling_seeds: Sequence[int],
    *,
    prompt_positions: int,
) -> list[ChoiceMeasurement]:
    """One forward pass over all choices.

    Args:
        positions: of each choice, ascending completion indices whose draws are looked at. sampling_seeds: as derived.
        prompt_positions: as `prove_rollouts`.

    Raises:
        OutOfVocabularyError, OverlongSequenceError: refused before the model runs.
        MachineFaultError: as `on_this_machine`.
    """
    rows = [[*prompt, *completion] for completion in completions]
    lengths = [len(prompt)] * len(rows)
    check_batch(rows, lengths)
    hidden = model.hidden_states(rows)
    first = max(0, len(prompt) - prompt_positions)
    found = []
    for states, at in zip(hidden, positions, strict=True):
        try:
            z = sketch(states[first:], projections)
        except UnprovableError:
            z = np.full((len(states) - first, projections.shape[0]), np.nan, dtype=np.float32)
        logprobs, margins = np.empty(len(at), dtype=np.float32), np.empty(len(at), dtype=np.float64)
        found.append(ChoiceMeasurement(z, tuple(at), logprobs, margins))
    places = [(r, k) for r, at in enumerate(positions) for k in range(len(at))]
    before = states_before(hidden, lengths, positions)
    del hidden
    sampler = SeededSampler(policy)
    for start, logits in logits_in_chunks(model, before):
        part = places[start : start + len(logits)]
        judge(sampler, logits, Chunk(rows, lengths, positions, part, sampling_seeds, sampler.needs_history), found)
    return found
