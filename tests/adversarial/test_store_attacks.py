"""X9, X12: a store that lies or takes its time costs its owner's read alone, and no stranger's word acts on who reads it."""

from __future__ import annotations

import pytest

from tooling.adversaries.family_x_stores import ATTACKS

QUICK, WHOLE = {"quick": True}, pytest.param({}, marks=pytest.mark.heavy)


@pytest.mark.parametrize("id_", sorted(ATTACKS))
@pytest.mark.parametrize("options", [QUICK, WHOLE])
def test_no_store_and_no_strangers_word_gets_through(id_: str, options: dict[str, bool]) -> None:
    row = ATTACKS[id_](**options)
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["honest_tries"] > 0
    assert row["honest_false_rejects"] == 0
    assert all(item["message"] for item in row["details"])
