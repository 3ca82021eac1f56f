"""D10, D11, D13: no round that nobody signed, no key that writes, no endpoint of one's own."""

from __future__ import annotations

import pytest

from tooling.adversaries.family_d_outside import ATTACKS


@pytest.mark.parametrize("id_", sorted(ATTACKS))
def test_nothing_from_outside_is_believed_that_cannot_be_checked(id_: str) -> None:
    row = ATTACKS[id_]()
    assert [one for one in row["details"] if one["accepted"]] == []
    assert row["honest_tries"] > 0
    assert row["honest_false_rejects"] == 0
    assert all(one["message"] for one in row["details"])
