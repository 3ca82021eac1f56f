"""C3, D4, D5, D6, E4: what costs, breaks, lies or repeats fails by its check, or counts once; the miner beside it is paid."""

from __future__ import annotations

import pytest

from tooling.adversaries import family_c_repeats, family_d_files

ATTACKS = family_c_repeats.ATTACKS | family_d_files.ATTACKS


@pytest.mark.parametrize("id_", ["D5", "D6", *(pytest.param(id_, marks=pytest.mark.heavy) for id_ in ("C3", "D4", "E4"))])
def test_no_file_gets_through_and_no_neighbour_is_hurt(id_: str) -> None:
    row = ATTACKS[id_]()
    assert [one for one in row["details"] if one["accepted"]] == []
    assert row["honest_tries"] > 0
    assert row["honest_false_rejects"] == 0


def test_every_row_about_files_is_tried_above() -> None:
    assert set(ATTACKS) == {"C3", "D4", "D5", "D6", "E4"}
