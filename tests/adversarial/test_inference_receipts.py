"""Family I: a receipt that is not of this answer, this model or this draw is not accepted; its honest twin is.

The model is tiny but trained (seconds). Published figures are of `hatch run attacks --family I` and `hatch run receipts power`.
"""

from __future__ import annotations

import pytest

from tooling.adversaries.family_i import RUNS, Scene
from tooling.adversaries.rows import Row
from tooling.adversaries.size import QUICK
from tooling.studies.receipts.deviations import DEVIATIONS, Forger
from tooling.studies.receipts.node import StudiedNode
from tooling.testing.models.artefacts import Artefacts


@pytest.fixture(scope="module")
def receipts(scene: object, store: Artefacts) -> Scene:
    """Over the models that the other families' scene has trained."""
    return Scene(Forger(StudiedNode(QUICK, store=store)), tries=1)


@pytest.fixture(scope="module")
def i8(receipts: Scene) -> Row:
    return RUNS["I8"](receipts)


def no_try_got_through(row: Row) -> None:
    decided = [one for one in row.tries if one.name not in row.undecided]
    assert decided
    assert [(one.name, one.message) for one in decided if one.accepted] == []
    assert row.honest_tries > 0
    assert row.honest_false_rejects == 0


@pytest.mark.parametrize("id_", ["I2", "I3", "I16"])
def test_a_receipt_moved_or_malformed_is_refused_and_its_honest_twin_is_not(receipts: Scene, id_: str) -> None:
    no_try_got_through(RUNS[id_](receipts))


def test_a_forged_or_replayed_order_is_refused_as_such_and_not_by_chance_of_its_proof(i8: Row) -> None:
    no_try_got_through(i8)
    assert {one.caught_by for one in i8.tries if "stop text" not in one.name} <= {"order", "gas", "model"}
    assert i8.honest_tries == 3  # one that nobody signed, one that a wallet did, one that a stop text ends


def test_an_answer_that_ends_elsewhere_than_at_its_first_stop_text_is_refused_by_termination(i8: Row) -> None:
    tries = [one for one in i8.tries if "stop text" in one.name]
    assert [(one.accepted, one.caught_by) for one in tries] == [(False, "termination")] * 4


def test_one_changed_token_is_unproven_wherever_it_stands_and_however_it_is_proved(receipts: Scene) -> None:
    row = Row("I1", "receipt")
    receipts.deviate(row, [name for name in DEVIATIONS if "token replaced" in name or name == "swapped text"])
    no_try_got_through(row)


def test_another_seed_is_rejected_by_one_receipt(receipts: Scene) -> None:
    row = Row("I6", "receipt")
    receipts.deviate(row, ["another seed"])
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} == {"sampling"}


@pytest.mark.parametrize("length", [1, 8, 64])
def test_four_bit_weights_are_seen_in_answers_of_every_length(receipts: Scene, length: int) -> None:
    row = Row("I5", "receipt")
    receipts.deviate(row, ["4-bit weights, groups of 32", "4-bit weights, per channel"], [length])
    no_try_got_through(row)
    assert {one.caught_by for one in row.tries} == {"proof"}
