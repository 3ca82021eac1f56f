"""Proofs that are made of what drew an answer are those that a pass over it makes, within what any honest pass differs by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from grail_core.generation.base import GenerationRequest
from grail_core.model.policy_model import PolicyModel
from grail_core.proof.batch import RolloutProof
from grail_core.proof.sketches import parse_sketches
from grail_core.protocol.policy import GenerationPolicy
from grail_core.protocol.types import Digest
from grail_miner.serving.models import HfModels, NewRow, RowId, ToProve
from tooling.testing.closed_answers import ClosedAnswers
from tooling.testing.serving_node import answering_of, save_served_model

POLICY = GenerationPolicy(24)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> ClosedAnswers:
    return answering_of(save_served_model(tmp_path_factory.mktemp("model")))


def drawn(models: HfModels, answering: ClosedAnswers, rows: int) -> ToProve:
    """Some choices of one prompt, drawn to their ends, as they are to be proved."""
    prompt = tuple(range(40, 90))
    ids = [RowId(number) for number in range(rows)]
    waiting = [NewRow(one, answering.container_id, GenerationRequest(prompt, int(one), POLICY)) for one in ids]
    tokens: dict[RowId, tuple[int, ...]] = dict.fromkeys(ids, ())
    left = set(ids)
    while left:
        for moved in models.advance(waiting, []):
            tokens[moved.id] += moved.tokens
            if moved.finished:
                left.remove(moved.id)
        waiting = []
    seed = Digest(bytes(range(32)))
    return ToProve(answering.container_id, answering.network.id, seed, prompt, tuple(tokens.values()), False, tuple(ids))


def passes(models: HfModels, job: ToProve, monkeypatch: pytest.MonkeyPatch) -> tuple[list[RolloutProof], int]:
    """The proofs, and how many passes they took."""
    hidden_states, made = PolicyModel.hidden_states, []

    def counted(self: PolicyModel, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        made.append(1)
        return hidden_states(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PolicyModel, "hidden_states", counted)
        return models.prove(job), len(made)


def distance(one: RolloutProof, other: RolloutProof) -> float:
    ours, theirs = (parse_sketches(proof.sketches, len(proof.sketches) // 8) for proof in (one, other))
    assert ours.shape == theirs.shape
    return float(np.sqrt(np.mean((np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)) ** 2)))


def test_an_answer_takes_no_pass_where_its_states_are_at_hand_and_one_where_they_are_not(
    answering: ClosedAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = HfModels()
    models.hold(answering.to_hold[0])
    job = drawn(models, answering, rows=3)
    at_hand, without = passes(models, job, monkeypatch)
    again, with_pass = passes(models, job, monkeypatch)  # states are given once
    assert (without, with_pass) == (0, 1)
    unlike = replace(job, sketch_seed=Digest(bytes(32)))
    other, _ = passes(models, unlike, monkeypatch)
    for ours, theirs, others in zip(at_hand, again, other, strict=True):
        assert distance(ours, theirs) < 0.05 * distance(ours, others)


def test_a_completion_that_was_cut_before_its_last_token_needs_none_either(
    answering: ClosedAnswers, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = HfModels()
    models.hold(answering.to_hold[0])
    job = drawn(models, answering, rows=2)
    cut = replace(job, completions=tuple(completion[: max(1, len(completion) // 2)] for completion in job.completions))
    (first, second), without = passes(models, cut, monkeypatch)
    assert without == 0
    for proof, again in zip((first, second), models.prove(cut), strict=True):
        assert len(proof.sketches) == len(again.sketches)


def test_nothing_is_kept_of_a_row_that_nobody_waits_for_and_of_each_other_its_own_alone(answering: ClosedAnswers) -> None:
    models = HfModels(burst_seconds=0.0)
    models.hold(answering.to_hold[0])
    prompt = tuple(range(40, 90))
    rows = [NewRow(RowId(n), answering.container_id, GenerationRequest(prompt, n, POLICY)) for n in range(6)]
    models.advance(rows, [])
    models.advance([], [RowId(0), RowId(1)], [RowId(2)])
    streaming = models._held[answering.container_id][1]
    assert len(streaming._kept) == 1  # of the one that a stop text ended
    for row in streaming._rows:
        assert all(state.untyped_storage().nbytes() <= 31 * state.shape[1] * state.element_size() for state in row.states[1:])
    models.advance([], [RowId(2)])
    assert len(streaming._kept) == 0
    assert set(models._left) <= {RowId(3), RowId(4), RowId(5)}


def test_claimed_log_probabilities_come_from_a_pass(answering: ClosedAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    models = HfModels()
    models.hold(answering.to_hold[0])
    job = replace(drawn(models, answering, rows=1), logprobs=True)
    (proof,), made = passes(models, job, monkeypatch)
    assert made == 1
    assert len(proof.logprobs) == len(job.completions[0])


def test_a_model_that_is_released_takes_its_rows_with_it_and_one_that_is_cancelled_late_is_nobodys(
    answering: ClosedAnswers,
) -> None:
    models = HfModels(burst_seconds=0.0)
    models.hold(answering.to_hold[0])
    models.advance([NewRow(RowId(1), answering.container_id, GenerationRequest((40, 41), 1, POLICY))], [])
    models.release(answering.container_id)
    assert models.advance([], [RowId(1)], [RowId(1)]) == []
    models.hold(answering.to_hold[0])
    assert drawn(models, answering, rows=1).completions
