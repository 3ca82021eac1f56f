"""X6, X7: false work in short answers, and behind answers that spoil their own judgement, is found without any grade."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from grail_core.protocol import RolloutRecord
from grail_envs.sandbox import GraderPool, SandboxUnavailableError
from grail_miner.groups import Group
from tooling.adversaries import family_e, family_x_answers
from tooling.adversaries.courtroom import Courtroom
from tooling.adversaries.inconclusive_programs import PARTS, programs
from tooling.adversaries.tampering import as_tokens, constant_sketches, with_completion

WAITING = ("time.sleep(9)", "while True")


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    try:
        pool = GraderPool("strict", lanes=1)
    except SandboxUnavailableError as error:
        pytest.skip(f"no complete sandbox here: {error.what}")
    yield pool
    pool.close()


def test_no_answer_makes_its_judgement_somebody_elses_fault(pool: GraderPool) -> None:
    """Those that are over at once; the others wait for a limit."""
    swift = {f"{name} when called" for name, part in PARTS.items() if not any(way in part for way in WAITING)}
    assert len(swift) >= 40
    assert family_e.inconclusive(pool, {name: programs()[name] for name in swift}) == {}


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_no_answer_that_waits_for_a_limit_does_either(pool: GraderPool) -> None:
    assert family_e.inconclusive(pool, programs()) == {}


def test_made_up_groups_of_short_answers_are_rejected_for_a_model_of_any_size() -> None:
    row = family_x_answers.run_x6(quick=True, limits=(3,))
    assert [item for item in row["details"] if item["accepted"]] == []
    assert (row["honest_tries"], row["honest_false_rejects"]) == (2, 0)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_made_up_groups_of_answers_of_one_and_of_fifteen_tokens_are_too() -> None:
    row = family_x_answers.run_x6(quick=True, limits=(1, 15))
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["honest_false_rejects"] == 0


def test_false_work_behind_an_answer_that_cannot_be_judged_is_rejected_by_the_model(pool: GraderPool) -> None:
    row = family_x_answers.run_x7(pool=pool, names=["exit_97 when loaded", "real_randomness_and_exit when called"])
    caught = {item["try"]: item["caught_by"] for item in row["details"]}
    assert row["accepted"] == 0
    assert caught["exit_97 when loaded"] == "reward"
    assert caught["never a grade"] == caught["never a grade, nothing claimed"] == "proof"
    assert (row["honest_tries"], row["honest_false_rejects"]) == (6, 0)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_every_such_answer_is_judged_and_measured(pool: GraderPool) -> None:
    row = family_x_answers.run_x7(pool=pool)
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["honest_false_rejects"] == 0


# Rows that are signed and strange


@pytest.fixture(scope="module")
def court() -> Iterator[Courtroom]:
    with family_x_answers.court_of(3) as opened:
        yield opened


def _one_token(record: RolloutRecord) -> RolloutRecord:
    tokens = as_tokens((*record.prompt.tolist(), 97))
    return replace(record, tokens=tokens, logprobs=record.logprobs[:1].copy(), sketches=record.sketches[:16])


STRANGE: dict[str, Callable[[RolloutRecord], RolloutRecord]] = {
    "honest": lambda record: record,
    "the largest token": lambda record: with_completion(record, [256 - 1] * record.completion_length),
    "end tokens alone": lambda record: with_completion(record, [256] * record.completion_length),
    "a token beyond the vocabulary": lambda record: with_completion(record, [2**31 - 1] * record.completion_length),
    "bytes that are no text": lambda record: with_completion(record, [188] * record.completion_length),
    "one token": _one_token,
    "almost all of it is prompt": lambda record: replace(
        record,
        prompt_length=len(record.tokens) - 1,
        logprobs=record.logprobs[:1].copy(),
        sketches=record.sketches[:16],
    ),
    "one token of prompt": lambda record: replace(
        record,
        prompt_length=1,
        logprobs=np.full(len(record.tokens) - 1, -1, np.float32),
        sketches=constant_sketches(len(record.tokens)),
    ),
    "the least log-probabilities": lambda record: replace(
        record, logprobs=np.full_like(record.logprobs, np.finfo(np.float32).min)
    ),
    "the largest sketches": lambda record: replace(record, sketches=constant_sketches(len(record.sketches) // 8, 32767)),
    "the largest reward": lambda record: replace(record, reward=float(np.finfo(np.float64).max), success=True),
    "the least reward": lambda record: replace(record, reward=5e-324),
}


@pytest.mark.parametrize("name", STRANGE)
def test_whatever_a_signed_row_says_is_accepted_or_rejected(court: Courtroom, name: str) -> None:
    groups = court.honest([0])
    strange = [Group(group.group, tuple(map(STRANGE[name], group.rollouts))) for group in groups]
    # A reward that differs by less than rounding is no other reward.
    assert court.examine(court.pack(strange)).accepted == (name in ("honest", "the least reward"))
    one_of_them = [Group(0, (strange[0].rollouts[0], *groups[0].rollouts[1:]))]
    assert court.examine(court.pack(one_of_them)).findings
