"""D3, D8, D15, D16: nothing is learned from but what was judged, under its own name, as measured, rollout by rollout."""

from __future__ import annotations

import pytest

from tooling.adversaries.family_d_training import ATTACKS


@pytest.mark.parametrize("id_", ["D3", "D16", *(pytest.param(id_, marks=pytest.mark.heavy) for id_ in ("D8", "D15"))])
def test_no_poison_and_no_false_claim_is_learned_from(id_: str) -> None:
    row = ATTACKS[id_]()
    assert [one for one in row["details"] if one["accepted"]] == []
    assert row["honest_tries"] > 0
    assert row["honest_false_rejects"] == 0


def test_every_row_of_the_trainer_is_tried_above() -> None:
    assert set(ATTACKS) == {"D3", "D8", "D15", "D16"}
