"""E3, E5 to E8, E11 to E13: nothing starves, fools or crashes a validator, and none of its faults is a miner's."""

from __future__ import annotations

import pytest

from tooling.adversaries import family_e_costs, family_e_kills, family_e_own_faults, family_e_validators
from tooling.adversaries.crowd import HONEST, crowd_of
from tooling.adversaries.family_e_own_faults import FAULTS, OTHER

ATTACKS = {
    name: attack
    for family in (family_e_costs, family_e_kills, family_e_own_faults, family_e_validators)
    for name, attack in family.ATTACKS.items()
}
SWIFT = ("E11", "E12")
SLOW = sorted(ATTACKS.keys() - set(SWIFT))


@pytest.mark.parametrize("id_", [*SWIFT, *(pytest.param(id_, marks=pytest.mark.heavy) for id_ in SLOW)])
@pytest.mark.timeout(900)
def test_no_row_of_the_validator_gets_through(id_: str) -> None:
    row = ATTACKS[id_]()
    decided = row.get("not_decided", {})
    assert [one for one in row["details"] if one["accepted"] and one["try"] not in decided] == []
    assert (row["id"], row["accepted"], row["honest_false_rejects"]) == (id_, 0, 0)
    assert row["honest_tries"] > 0


def test_a_fault_that_is_off_breaks_nothing() -> None:
    """Else every row of faults would show what the fault's own machinery does."""
    with crowd_of({OTHER: lambda liar: liar.pack(liar.groups())}) as crowd:
        crowd.mine()
        with FAULTS["no store answers in time"](crowd) as (validator, _):
            (body,) = crowd.judge(validator)
        assert {crowd.verdict(body, name).status.value for name in (HONEST, OTHER)} == {"accepted"}
