"""Choosing the work, junk, trust and dilution: nothing of it is paid more than honest work, at the size of a quick table."""

from __future__ import annotations

import pytest

from grail_validator.simulation.measure import Pay
from tooling.adversaries import family_c, family_x_pay
from tooling.adversaries.__main__ import registry
from tooling.adversaries.rows import Row
from tooling.adversaries.simulated import add_pay

ATTACKS = {**family_c.ATTACKS, **family_x_pay.ATTACKS}
LONG = {"C7", "X3"}
"""Most of their time; the heavy table of all rows (`test_attack_table`) has them at this size too."""


@pytest.mark.parametrize("id_", [pytest.param(id_, marks=[pytest.mark.heavy] * (id_ in LONG)) for id_ in ATTACKS])
def test_nothing_is_paid_more_than_honest_work_and_its_twin_has_its_due(id_: str) -> None:
    row = ATTACKS[id_](quick=True)
    assert row["id"] == id_
    assert row["tries"] > 0
    assert row["accepted"] == 0, [one for one in row["details"] if one["accepted"]]
    assert row["honest_tries"] == 2
    assert row["honest_false_rejects"] == 0


def test_a_strategy_whose_interval_lies_above_honest_work_is_accepted() -> None:
    row = Row("X3", "strategy")
    add_pay(row, "pays", Pay(1.2, 0.1, 0.5, 0.1, 0.4, 0, 100))
    add_pay(row, "may pay", Pay(1.05, 0.1, 0.5, 0.1, 0.4, 0, 100))
    assert [one.accepted for one in row.tries] == [True, False]


def test_the_table_finds_them() -> None:
    assert ATTACKS.keys() <= registry().keys()
