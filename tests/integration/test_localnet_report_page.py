"""What a person finds in report.html: words on the first screen, what fell, reasons, and a page that fits where it is read."""

from __future__ import annotations

import dataclasses
import re

from tests.integration.test_localnet_reporting import facts
from tooling.adversaries import GRADIENT_STRATEGIES, STRATEGIES
from tooling.localnet.report.charts import NARROW
from tooling.localnet.report.cheats import GRADIENT_CHEATS, ROLLOUT_CHEATS
from tooling.localnet.report.facts import EvaluationFact, MinerWindowFact, PhaseFact, RunFacts, TrainingFact
from tooling.localnet.report.falls import falls
from tooling.localnet.report.report import render
from tooling.localnet.report.summary import summarise

REASON = "proof: error 1.0 &gt; 0.3 &lt;b&gt;"


def page_of(run: RunFacts) -> str:
    return render(run, summarise(run))


def evaluated(*form: float) -> RunFacts:
    """A run whose share of well-formed answers took these values, with an error of 0.005 each."""
    evaluations = tuple(EvaluationFact("e", 30, i, 2000, 0.2, 0.01, value, 0.005, 0.04) for i, value in enumerate(form))
    return dataclasses.replace(facts(), evaluations=evaluations)


def test_the_first_screen_names_no_check_and_no_bound_and_says_what_the_cheat_did() -> None:
    run = dataclasses.replace(facts(), unenforced=("logprob_ratio",))
    first, _, rest = page_of(run).partition("<h2>")
    assert "miner-2 cheated: it sent proofs that were made without running the model" in first
    assert "rejected in 2 of 2 windows and ended with no weight" in first
    for internal in (REASON, "logprob_ratio", "grail-validator", "UID"):
        assert internal not in first
    assert "logprob_ratio" in rest
    assert REASON in re.sub(r"<[^>]*>", "", rest), "the reason stands in the page's text, not in a title alone"


def test_every_lie_that_a_run_can_have_is_told_in_words() -> None:
    assert set(ROLLOUT_CHEATS) == set(STRATEGIES)
    assert set(GRADIENT_CHEATS) == set(GRADIENT_STRATEGIES)


def test_what_fell_is_shown_as_falling_with_the_reason_and_noise_is_called_noise() -> None:
    fell = evaluated(0.99, 0.93)
    (form,) = falls(fell, summarise(fell))
    assert (form.first, form.last, form.beyond_noise) == ("99.0 %", "93.0 %", True)
    assert '<span class="bad">99.0 → 93.0 %</span>' in page_of(fell)
    assert "Chance moves an answer" in page_of(fell)
    noise = evaluated(0.99, 0.985)
    assert [one.beyond_noise for one in falls(noise, summarise(noise))] == [False]
    assert "fell by 0.5 ± 0.7 points, within noise" in page_of(noise)
    dipped = evaluated(0.97, 0.90, 0.98)
    (form,) = falls(dipped, summarise(dipped))
    assert "Least after 1 windows: 90.0 %" in form.why
    risen = evaluated(0.9, 0.99)
    assert falls(risen, summarise(risen)) == ()
    assert "What fell" not in page_of(risen)


def test_a_fall_over_windows_is_told_without_a_claim_about_its_noise() -> None:
    training = (TrainingFact(30, 10, 0.6, 0.2, 5.0, 90), TrainingFact(60, 10, 0.4, 0.3, 5.0, 120))
    run = dataclasses.replace(facts(), training=training, evaluations=())
    (reward,) = falls(run, summarise(run))
    assert (reward.what, reward.first, reward.last, reward.beyond_noise) == (
        "mean reward of verified rollouts",
        "0.60",
        "0.40",
        None,
    )


def test_verifying_that_was_the_slower_one_is_not_praised() -> None:
    slow = PhaseFact(30, "validator-1", "validator", "verify, one rollout", 0.5)
    run = dataclasses.replace(facts(), phases=(*facts().phases[:1], slow))
    assert "1 : 5.0</span>" in page_of(run)
    assert "verifying was the slower one" in page_of(run)
    assert "5.0 : 1" in page_of(facts())


def test_a_section_with_nothing_to_show_is_left_out() -> None:
    honest = (MinerWindowFact(30, "miner-1", "accepted", 160, 158, ""),)
    bare = dataclasses.replace(
        facts(), rejects=(), training=(), evaluations=(), parameters=(), processes=(), miner_windows=honest
    )
    heads = re.findall(r"<h[23]>([^<]*)</h[23]>", page_of(bare))
    assert not {"What was refused", "Learning", "The update", "Alarms", "What fell"} & set(heads)
    assert not any(head.startswith(("Where this network", "Processes")) for head in heads)
    assert {"What was refused", "Learning", "The update"} <= set(re.findall(r"<h2>([^<]*)</h2>", page_of(facts())))


def test_axes_are_named_and_every_chart_is_drawn_for_a_narrow_page_too() -> None:
    page = page_of(facts())
    charts = re.findall(r'<svg class="chart" viewBox="0 0 (\d+) \d+".*?</svg>', page)
    narrow = re.findall(rf'<div class="only-narrow"><svg class="chart" viewBox="0 0 {NARROW} ', page)
    assert len(narrow) * 2 == len(charts)
    lines = [drawing for drawing in re.findall(r'<svg class="chart".*?</svg>', page) if 'class="tick"' in drawing]
    assert lines
    assert all(drawing.count('class="axis"') == 2 for drawing in lines)


def test_a_narrow_page_names_every_cell_and_a_long_run_is_not_one_wide_row() -> None:
    page = page_of(facts())
    for table in re.findall(r'<table class="rows">.*?</table>', page):
        cells = re.findall(r"<td([^>]*)>", table)
        assert cells
        assert all("data-label=" in cell for cell in cells)
    window = facts().windows[0]
    long = tuple(dataclasses.replace(window, window=30 * (i + 1), index=i) for i in range(24))
    assert 'class="matrix many"' in page_of(dataclasses.replace(facts(), windows=long))
    assert 'class="matrix many"' not in page
