"""What the simulation says is what the protocol's functions say, and no strategy of the table pays more than honest work."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from fractions import Fraction
from html import escape
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from grail_core.errors import GrailError
from grail_core.protocol.scores import MinerWindow, score_inputs
from grail_core.protocol.selection import Candidate, check_probabilities
from grail_validator.simulation import network, replicas, table
from grail_validator.simulation.coins import hotkey, sample_touches
from grail_validator.simulation.command import simulate
from grail_validator.simulation.company import CROWDS_OF_IT, accompanied
from grail_validator.simulation.crowding import chance_beside_tiny_files, crowded, sealers
from grail_validator.simulation.hotkeys import cheapest_of, operators, split
from grail_validator.simulation.measure import CROWDS, HONEST, Pay, Size, measured, ratio
from grail_validator.simulation.network import Account, live, window_at
from grail_validator.simulation.newcomers import beginning
from grail_validator.simulation.page import BEGIN, END, PLOTS
from grail_validator.simulation.plans import FULL_GROUPS, IfDrawn, Plans, Strategy, View, plans
from grail_validator.simulation.replicas import live_replicas
from grail_validator.simulation.sizes import burst, junk_in_file, junk_in_files, small_files
from grail_validator.simulation.skipping import UNCUT, best_skipping
from tooling import REPOSITORY

PAGE = REPOSITORY / "docs/pay.md"
SMALL = Size(replicas=24, windows=60)


def _anything(view: View) -> Plans:
    """All that a plan can be, by chance: absent, of every size, junk and repeated whole and in part, late, without file,
    inconclusive, unlucky; and what follows from its own audits."""
    size = np.where(view.chance(0.2), 0, np.where(view.chance(0.3), view.rng.random(view.replicas), 1.0))
    junk = np.where(view.chance(0.06), 1.0, np.where(view.chance(0.1), 1 / FULL_GROUPS, 0))
    junk = np.where(view.since_audit == 3, 1.0, junk)
    equal = np.where(view.chance(0.1), view.rng.random(view.replicas), 0)
    wasted = np.where(view.chance(0.1), 1.0, 0)
    if_drawn = np.where(view.chance(0.05), IfDrawn.INCONCLUSIVE, np.where(view.chance(0.02), IfDrawn.NO_FILE, IfDrawn.JUDGED))
    return plans(view, size, junk=junk, if_drawn=if_drawn, false_reject=0.02, equal=equal, wasted=wasted)


ANYTHING = Strategy("anything", _anything, lambda view: (view.age > 60) & view.chance(0.02))


@pytest.mark.parametrize("crowd", [0, 34, 120])
@pytest.mark.parametrize("strategy", [ANYTHING, replace(ANYTHING, company=lambda view: 40 * (view.age % 3))])
def test_replicas_are_paid_what_the_protocols_functions_pay(crowd: int, strategy: Strategy) -> None:
    exact = live([strategy] * 3, crowd, 120, 3, apart=True)
    fast = live_replicas(strategy, crowd, 120, 3, 3)
    assert exact.drawn.sum() > 30
    assert exact.registered.any()
    if crowd:  # alone, `select_miners` adds what the coins leave short of two
        assert (exact.drawn == fast.drawn).all()
        assert np.abs(exact.pay - fast.pay).max() < 1e-9
    assert np.abs(exact.probability - fast.probability).max() < 1e-9
    assert (exact.cost == fast.cost).all()


def test_every_row_of_the_table_is_paid_alike_by_both() -> None:
    for row in (table.attacks()[4], *table.faults_on_demand()[2:], *table.honest_rows()[3:]):
        exact = live([row.strategies[0]] * 2, 34, 40, 5, apart=True)
        fast = live_replicas(row.strategies[0], 34, 40, 2, 5)
        assert np.abs(exact.pay - fast.pay).max() < 1e-9, row.name


def test_a_hotkeys_tally_is_what_score_inputs_adds_up() -> None:
    rng = np.random.default_rng(2)
    account = Account()
    entries: list[MinerWindow] = []
    for t in range(400):
        account.open(t)
        tallied = score_inputs(entries[-100:], window_at(t))
        assert (account.supported, account.audits) == (tallied.supported, tallied.audits)
        assert (account.lookback_end >= t) == tallied.in_lookback
        entry = None
        if rng.random() < 0.7:
            declared, kind = int(rng.integers(0, 6000)), rng.random()
            entry = MinerWindow(window_at(t), declared, True, False, 0, False, Fraction(1, int(rng.integers(1, 11))))
            if kind < 0.03:
                entry = replace(entry, active=False, checked=True, failed=True)
            elif kind < 0.3:
                entry = replace(entry, checked=True, unique_valid=declared)
            entries.append(entry)
        account.close(t, entry)
        assert account.work(t + 1) == sum(
            min(5000, one.declared) for one in entries if one.active and one.window > window_at(t - 11)
        )


def test_a_drawn_file_is_looked_at_as_often_as_its_sample_says() -> None:
    """34 of 313 groups: one that is junk is found in 34 of 313 audits."""
    found = sum(sample_touches(1, t, 0, FULL_GROUPS, 1) for t in range(1000)) / 1000
    assert abs(found - 34 / 313) < 4 * (34 / 313 / 1000) ** 0.5
    assert all(sample_touches(1, t, 0, 4, 1) for t in range(50))  # small files are checked whole


def test_honest_full_time_work_is_one() -> None:
    for probability, crowd in CROWDS.items():
        pay = measured(HONEST, crowd, SMALL)
        assert (pay.per_cost, pay.per_slot, pay.cost) == (1, 1, 1)
        full = {hotkey(i): Candidate(5000, 20_000) for i in range(crowd + 1)}
        assert round(float(check_probabilities(full)[hotkey(0)]), 2) == probability


def test_an_interval_holds_the_ratio_it_is_of() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        costs = rng.uniform(0.5, 1.5, 60)
        found, pm = ratio(0.7 * costs + rng.normal(0, 0.2, 60), costs)
        hits += abs(found - 0.7) <= pm
    assert 0.9 < hits / 300 < 0.99
    assert ratio(np.ones(3), np.zeros(3))[0] == float("inf")


@pytest.mark.parametrize("row", [row for row in table.attacks()[::3] if len(row.strategies) == 1], ids=lambda row: row.name)
def test_a_strategy_is_paid_at_most_what_honest_work_is(row: table.Row) -> None:
    for probability in (0.14, 0.29):
        cell = table.cell(row, probability, SMALL)
        assert not cell.pays, f"{cell.pay} beats {row.bound}"


@pytest.mark.heavy
@pytest.mark.parametrize("row", table.attacks(), ids=lambda row: row.name)
def test_no_row_pays_at_the_size_of_the_page(row: table.Row) -> None:
    for probability in (0.14, 0.29, 1.0):
        cell = table.cell(row, probability, Size())
        assert not cell.pays, f"{cell.pay} beats {row.bound}"


def test_what_pays_is_seen() -> None:
    """The measure is no rubber stamp: what a rule that holds them down keeps from paying does pay without it."""
    with pytest.MonkeyPatch.context() as without:
        without.setattr(replicas, "INCONCLUSIVE_FREE", 99)
        without.setattr(replicas, "INCONCLUSIVE_FREE_AUDITS", 0)
        assert [table.cell(row, 0.14, SMALL).pays for row in table.faults_on_demand()[:2]] == [True, True]
    with pytest.MonkeyPatch.context() as without:
        without.setattr(replicas, "_speaks_for", lambda valid, p: valid * 10)  # every audit, as if none had to come
        assert accompanied(34, SMALL).pay.beats_honest_work()
    assert not Pay(1.01, 0.02, 0.5, 0.1, 0.5, 0, 100).beats_honest_work()
    assert Pay(0.5, 0.02, 1.2, 0.1, 1, 0, 100).beats_honest_work()


def test_work_split_over_hotkeys_or_done_by_the_cheapest_earns_less() -> None:
    assert split(1.0, 2, CROWDS[0.14], SMALL).per_cost < 0.13
    assert cheapest_of(8, 7, 1.0, 1.0, CROWDS[0.14], SMALL).per_cost < 0.8
    assert {one[:3] for one in operators()} >= {(1.0, k, worked) for k in (2, 4, 8, 16) for worked in (None, 1, k - 1)}


def test_junk_in_j_of_g_groups_is_tried_as_finely_as_promised_and_does_not_pay() -> None:
    tried = {(groups, junk) for groups, junk, _, _ in junk_in_files()}
    assert tried >= {(groups, junk) for groups in (1, 2, 4, 5, 8) for junk in range(1, groups + 1)}
    for groups in (20, 33, 40, 312):
        assert len({junk for of, junk in tried if of == groups}) == 10
    for groups, junk in ((2, 1), (40, 1), (312, 1)):
        found = junk_in_file(groups, junk, 0.29, True, SMALL)
        assert not found.pay.beats_honest_work()
        assert (found.pay.per_cost > 0.3) is (groups == 312)  # what a sample may miss pays something, never enough


def test_bursts_and_small_files_are_paid_less_than_even_full_time_work() -> None:
    for share in (0.1, 0.9):
        assert burst(share, 20, 0.14, SMALL).pay.per_cost < 0.9
    assert small_files(0.6, SMALL).pay.per_cost < 0.25


def test_who_reads_its_audits_learns_nothing_of_the_next_coin() -> None:
    """What is told before a window, and whether it is drawn, are independent: `dodging` has nothing to go by."""
    lived = live_replicas(HONEST, CROWDS[0.14], 400, 48, 11)
    drawn = lived.drawn[100:]
    since = np.zeros(drawn.shape[1], np.int64)
    seen: dict[bool, list[float]] = {True: [], False: []}
    for now in drawn:
        for long in (True, False):
            seen[long] += now[(since >= 6) == long].tolist()
        since = np.where(now, 0, since + 1)
    p = float(lived.probability[200, 0])
    for draws in seen.values():
        assert abs(np.mean(draws) - p) < 4 * (p * (1 - p) / len(draws)) ** 0.5


def test_choosing_problems_does_not_pay_where_a_token_limit_cuts_their_cost() -> None:
    for spread in (0.5, 1.0):
        assert not best_skipping(spread, 8.0, 40, 1).paid_too_much
    assert not best_skipping(1.0, UNCUT, 40, 1).paid_too_much


def test_hotkeys_that_bring_nothing_take_no_audits_from_who_works() -> None:
    for name, strategy in sealers().items():
        if name.startswith("newcomers"):
            held = crowded(50, strategy, 30, 30, 1)
            assert held.alone == 0.7
            assert abs(held.chance - 0.7) < 1e-9, name
            assert held.audits_of_sealers >= 1
    alone, beside, own = chance_beside_tiny_files(100, 150)
    assert alone == 0.35
    assert beside > 0.348
    assert own == 0.1


@pytest.mark.parametrize("honest", CROWDS_OF_IT)
def test_who_moves_its_own_chance_by_other_hotkeys_is_paid_no_more_than_honest_work(honest: int) -> None:
    assert not accompanied(honest, SMALL).pay.beats_honest_work()


def test_an_honest_newcomer_comes_to_full_pay_and_others_newcomers_only_delay_it() -> None:
    alone, beside = beginning(99, 0, SMALL), beginning(99, 150, SMALL)
    assert alone.pay[0] < alone.pay[1] <= alone.pay[2] <= 1
    assert alone.pay[3] > 0.99
    assert beside.pay[1] + beside.pay_pm[1] < alone.pay[1]
    assert beside.pay[3] > 0.9


def test_every_hotkey_of_a_shared_network_is_drawn_by_one_select_miners() -> None:
    lived = live([HONEST] * 3, 0, 40, 1)
    assert lived.probability.min() == 1.0
    assert network.TRUSTED.newcomer is False


def test_the_command_explains_itself_and_says_at_once_what_is_wrong_with_a_page(tmp_path: Path) -> None:
    said = CliRunner().invoke(simulate, ["--help"]).output
    for words in ("--windows", "--seed", "pay per cost", "docs/pay.md"):
        assert words in said
    page = tmp_path / "pay.md"
    page.write_text(f"{BEGIN}\nno end\n")
    for path in (page, tmp_path / "none.md"):
        refused = CliRunner().invoke(simulate, ["--page", str(path)]).exception
        assert isinstance(refused, GrailError)
        assert END in refused.hint


def test_the_published_page_has_every_row_and_no_cell_above_its_bound() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = text[text.index(BEGIN) : text.index(END)]
    assert "20,480 windows a cell" in tables
    for row in table.rows():
        (line,) = [
            line for line in tables.splitlines() if line.startswith(f"| {row.name} |") or line.startswith(f"| {row.name} (")
        ]
        figures = re.findall(r"([\d.]+) ± ([\d.]+) · ([\d.]+)", line)
        assert len(figures) == len(CROWDS)
        for probability, (per_cost, pm, per_slot) in zip(sorted(CROWDS), figures, strict=True):
            if probability >= 0.14 and not row.honest:
                assert float(per_cost) - float(pm) <= row.bound + 0.001, row.name
                assert float(per_slot) <= row.bound + 0.01, row.name


def test_the_published_plots_show_every_strategy_and_size() -> None:
    text = PAGE.read_text(encoding="utf-8")
    drawn = {name: PAGE.with_name(name).read_text(encoding="utf-8") for name in PLOTS}
    assert all(f"]({name})" in text for name in PLOTS)
    for row in table.rows():
        assert drawn["pay-strategies.svg"].count(f"<title>{escape(row.name)}, p = ") == len(CROWDS), row.name
    assert all(f"G = {groups}" in drawn["pay-junk.svg"] for groups in (20, 33, 40, 312))
    assert "cycle of 72" in drawn["pay-bursts.svg"]


def test_results_are_json() -> None:
    row = table.Row("honest", (HONEST,), honest=True)
    assert json.dumps(table.cell(row, 1.0, Size(8, 20)).pay.__dict__)
