"""D9, D14, D17: every hostile checkpoint is refused with a message, the running model untouched; the honest twin passes."""

from __future__ import annotations

import pytest

from tooling.adversaries.family_d_checkpoints import ATTACKS


@pytest.mark.parametrize("id_", sorted(ATTACKS))
def test_no_hostile_checkpoint_gets_through(id_: str) -> None:
    row = ATTACKS[id_]()
    assert [item for item in row["details"] if item["accepted"]] == []
    assert row["honest_tries"] > 0
    assert row["honest_false_rejects"] == 0
    assert all(item["message"] for item in row["details"])
