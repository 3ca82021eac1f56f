"""Neighbouring versions of the wheels: what requirements admit reads each other's files, what they forbid pip refuses."""

from __future__ import annotations

import pytest

from tooling.release.neighbours import try_neighbours


@pytest.mark.heavy
def test_what_requirements_admit_works_together_and_what_they_forbid_is_refused_with_both_names() -> None:
    tried = try_neighbours()
    assert len(tried.worked) == 3
    assert all(set(read) == tried.worked.keys() for read in tried.worked.values())
    assert len(tried.refused) == 2
    for said in tried.refused.values():
        assert "requested grail-core==" in said
        assert "depends on grail-core~=" in said
