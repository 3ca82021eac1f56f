"""The forecast is the pay rules' own: what the simulator pays for honest work is what it says, failures and all."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from grail_core.protocol.constants import LOOKBACK_WINDOWS, SCORE_WINDOWS, UNIQUE_ROLLOUTS_CAP, WINDOW_LENGTH
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.scores import MAX_POWER, MinerWindow, score_inputs, weights
from grail_core.protocol.types import Hotkey, Window
from grail_core.verification.forecast import HORIZON, Course, Field, danger, forecast
from grail_validator.simulation.measure import HONEST
from grail_validator.simulation.network import live

RULE = replace(LOCALNET, weight_mode="uncapped", burn_share_permille=0, burn_uid=9)
MINERS = {uid: Hotkey(bytes([uid]) * 32) for uid in range(3)}


def worked(windows: int, *, declared: int = UNIQUE_ROLLOUTS_CAP, failed: int | None = None) -> list[MinerWindow]:
    """Everybody is drawn, as in a network of fewer than 35."""
    found = []
    for at in range(1, windows + 1):
        fails = at == failed
        found.append(
            MinerWindow(Window(at * WINDOW_LENGTH), declared, not fails, True, 0 if fails else declared, fails, Fraction(1))
        )
    return found


def field_of(*histories: list[MinerWindow]) -> Field:
    window = max(history[-1].window for history in histories if history)
    inputs = {uid: score_inputs(history, window) for uid, history in enumerate(histories)}
    hotkeys = {uid: MINERS[uid] for uid in inputs}
    return Field(window, hotkeys, inputs, {MINERS[uid]: history for uid, history in enumerate(histories)}, RULE)


def test_who_goes_on_from_its_first_window_is_paid_what_the_simulator_pays_honest_work() -> None:
    lived = live([HONEST], crowd=30, windows=40, seed=1)
    first = MinerWindow(Window(0), UNIQUE_ROLLOUTS_CAP, True, True, UNIQUE_ROLLOUTS_CAP, False, Fraction(1))
    assert lived.drawn[:, 0].all()
    found = forecast(field_of([replace(first, declared=4992, unique_valid=4992)]), 0, Course.GOES_ON, 39)
    expected = [float(pay) for pay in lived.pay[1:, 0]]
    assert [one.power / MAX_POWER for one in found] == pytest.approx(expected, rel=0.01)  # 312 groups of 16 are 4,992


def test_a_failure_costs_its_look_back_and_the_windows_in_which_its_audit_is_remembered() -> None:
    field = field_of(worked(72), worked(72))
    on, fails = (forecast(field, 0, course) for course in (Course.GOES_ON, Course.FAILS_ONCE))
    assert {one.share for one in on} == {Fraction(32768, 65535)}  # the odd one goes to the lower UID
    shortest = LOOKBACK_WINDOWS[0]
    assert [one.share for one in fails[:shortest]] == [0] * shortest
    assert 0 < fails[shortest].share < on[shortest].share
    told = danger(field, 0)
    assert told.failure_lookback == shortest
    assert told.failure_costs is not None
    assert shortest < told.failure_costs < HORIZON
    assert not told.lookback_left
    assert (told.newcomer, told.bound_by, told.idle) == (False, "work", 0)
    assert told.chance == 1


def test_who_stops_is_paid_less_in_every_window_and_nothing_after_twelve() -> None:
    shares = [one.share for one in forecast(field_of(worked(72), worked(72)), 0, Course.STOPS, SCORE_WINDOWS + 1)]
    assert shares == sorted(shares, reverse=True)
    assert shares[SCORE_WINDOWS - 2] > 0
    assert shares[SCORE_WINDOWS - 1 :] == [0, 0]


def test_inside_a_look_back_its_end_is_told_and_the_forecast_pays_from_there() -> None:
    field = field_of(worked(40, failed=38), worked(40))
    told, failed = danger(field, 0), field.histories[MINERS[0]][37]
    assert told.share == 0
    assert told.failure_costs is None
    assert told.paid_again_from == failed.paid_again_from
    assert told.lookback_left == (failed.paid_again_from - field.window) // WINDOW_LENGTH - 1
    paid = [one for one in forecast(field, 0, Course.GOES_ON) if one.share]
    assert paid[0].window == failed.paid_again_from
    assert len([one for one in forecast(field, 0, Course.GOES_ON) if one.window < paid[0].window]) == told.lookback_left


def test_a_newcomer_is_told_that_it_is_drawn_more_and_who_never_worked_has_nothing_to_lose() -> None:
    field = field_of(worked(1, declared=320), worked(72), [])
    field = replace(field, histories={**field.histories, MINERS[0]: [replace(worked(1, declared=320)[0], window=field.window)]})
    assert danger(field, 0).newcomer
    nobody = danger(field, 2)
    assert nobody.failure_costs is None
    assert (nobody.failure_lookback, nobody.idle) == (0, 72)
    assert {one.share for one in forecast(field, 2, Course.GOES_ON)} == {0}


def test_a_memory_that_is_not_published_and_a_rule_of_another_network_are_noticed() -> None:
    field = field_of(worked(20), worked(20))
    assert field.agrees(0)
    assert not replace(field, histories={MINERS[0]: worked(20)[1:]}).agrees(0)
    stated = weights(field.inputs, RULE)
    assert field.gives(stated)
    assert not replace(field, rule=replace(RULE, burn_share_permille=900)).gives(stated)
