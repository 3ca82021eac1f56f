"""X10: what breaks on one's own machine stays there, or is told in one message."""

from __future__ import annotations

import pytest

from tooling.adversaries.family_x_faults import x10


def test_no_fault_of_ones_own_machine_is_lost_doubled_or_shown_raw() -> None:
    row = x10(quick=True, tries=2)
    assert [one for one in row["details"] if one["accepted"]] == []
    assert row["honest_false_rejects"] == 0
    assert (row["tries"], row["honest_tries"]) == (45, 6)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_nor_is_any_of_many() -> None:
    row = x10(seed=1)
    assert [one for one in row["details"] if one["accepted"]] == []
