"""What the study of deterrence says follows from the rules that validators run, and its least coins are least."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grail_validator.simulation.measure import Size
from grail_validator.simulation.network import live
from grail_validator.simulation.plans import Strategy
from grail_validator.simulation.replicas import live_replicas
from grail_validator.simulation.strategies import failed
from tooling.studies import deterrence
from tooling.studies.deterrence import Cell, Cheating, Way, cells, closed_form, gain, least, least_coin, lost_windows

SMALL = Size(replicas=16, windows=30)
ON, RENEWED = Way("cheats on"), Way("new hotkey", renews=True)


@pytest.mark.parametrize(
    "strategy",
    [
        Strategy("half", Cheating(0.3, 0.3, windows=0.5)),
        Strategy("idles", Cheating(0.3, 0.3, idles=True)),
        Strategy("renews", Cheating(0.5, 0.4, audits=2), failed),
    ],
    ids=lambda strategy: strategy.name,
)
def test_cheats_are_paid_what_the_protocols_functions_pay(strategy: Strategy) -> None:
    exact = live([strategy] * 2, 34, 70, 3, apart=True)
    fast = live_replicas(strategy, 34, 70, 2, 3)
    assert np.abs(exact.pay - fast.pay).max() < 1e-9
    assert (exact.cost == fast.cost).all()
    assert (exact.registered == fast.registered).all()
    assert (fast.cost < 1).mean() > 0
    assert (fast.pay == 0).any()  # some were caught


def test_who_is_never_found_gains_the_fourth_power_below_the_cap_and_what_it_saves_at_it() -> None:
    for saved in (0.1, 0.3, 0.5):
        (cell,) = cells(ON, saved, 1.0, 0.0, SMALL)
        assert cell.income == pytest.approx(gain(saved), rel=0.02)
        assert cell.per_cost == pytest.approx(1 / (1 - saved), rel=0.01)


def test_where_everybody_is_audited_and_compared_no_saving_pays() -> None:
    for way in deterrence.WAYS[::3]:
        assert all(cell.income < 0.5 for cell in cells(way, 0.5, 1.0, 1.0, SMALL)), way.name


def test_a_rare_coin_lets_a_cheat_pay_and_a_dearer_hotkey_makes_it_pay_less() -> None:
    free, dear = cells(RENEWED, 0.3, 1.0, 0.05, SMALL)
    assert free.fee < dear.fee
    assert free.income > dear.income > 1
    (seldom,) = cells(ON, 0.3, 0.1, 0.05, SMALL)
    (often,) = cells(ON, 0.3, 1.0, 0.05, SMALL)
    assert seldom.income > often.income > 1


def test_the_least_coin_is_the_last_crossing_and_none_where_there_is_none() -> None:
    def row(*incomes: float) -> list[Cell]:
        coins = zip((0.1, 0.2, 0.4), incomes, strict=True)
        return [Cell("way", 0.3, 0.35, coin, 0.0, income, 0.0, 0.5) for coin, income in coins]

    def income(cell: Cell) -> float:
        return cell.income

    assert least_coin(row(2.0, 0.5, 0.1), income) == pytest.approx(math.sqrt(0.1 * 0.2))
    assert least_coin(row(0.9, 1.1, 1 / 1.1), income) == pytest.approx(math.sqrt(0.2 * 0.4))  # not the first
    assert least_coin(row(0.9, 0.5, 0.1), income) == 0.1
    assert least_coin(row(3.0, 2.0, 1.1), income) == math.inf
    (one,) = least(row(2.0, 0.5, 0.1))
    assert one.hazard == pytest.approx(0.35 * math.sqrt(0.02))
    assert one.coin_at_cap == 0.1
    figures = deterrence.figures(row(3.0, 2.0, 1.1))
    assert figures["deterrence.undeterred"] == 1
    assert "deterrence.least_coin.way.s0.3.p0.35.fee0" not in figures
    others = [Cell("way", saved, 0.35, 0.1, 0.0, 2.0, 0.0, 2.0) for saved in (0.1, 0.2, 0.5)]
    assert "| way | none, none, none, none |" in deterrence.markdown([*row(3.0, 2.0, 1.1), *others])


def test_the_closed_form_is_renewal_with_what_the_protocol_takes() -> None:
    assert [lost_windows(p, renews=False) for p in (1.0, 0.35, 0.1)] == [14, 15, 36]
    assert lost_windows(1.0, renews=True) == pytest.approx(9.1, abs=0.1)
    assert lost_windows(1.0, renews=True, fee=4) == lost_windows(0.1, renews=True) + 4
    assert closed_form(0.3, 14) == pytest.approx(0.184, abs=1e-3)
    for saved in (0.1, 0.3, 0.5):  # a cycle: paid G a window until it is caught, as honest work is in all of its windows
        paid = 1 / closed_form(saved, 9.0) - 1
        assert gain(saved) * paid == pytest.approx(paid + 9.0)
