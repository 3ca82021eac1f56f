"""X13: a node whose head stands, or that says success and does nothing, is noticed by a validator as shipped."""

from __future__ import annotations

from tooling.adversaries.family_x_chain import x13


def test_no_node_holds_a_validator_up_or_loses_its_weights_unnoticed() -> None:
    row = x13()
    assert [one for one in row["details"] if one["accepted"]] == []
    assert (row["tries"], row["honest_tries"], row["honest_false_rejects"]) == (5, 1, 0)
