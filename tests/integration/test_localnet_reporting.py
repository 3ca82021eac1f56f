"""What a run says about itself: the state file, event files, summary.json and report.html."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.protocol.network import LOCALNET
from grail_trainer.metrics import METRICS
from tooling.localnet import chaos
from tooling.localnet.events import Event, EventTail
from tooling.localnet.plan import Layout, Plan, load_or_create_state
from tooling.localnet.report import collect
from tooling.localnet.report.charts import Line, Point, line_chart, nice_ticks
from tooling.localnet.report.facts import (
    AlarmFact,
    CheckpointFact,
    EvaluationFact,
    MinerIdentity,
    MinerWindowFact,
    NotWaitedFact,
    ParameterFact,
    PhaseFact,
    ProcessFact,
    RejectFact,
    RunFacts,
    TrainingFact,
    WeightFact,
    WindowFact,
)
from tooling.localnet.report.report import render
from tooling.localnet.report.summary import summarise
from tooling.localnet.status import MinerStatus, NetworkStatus

PLAN = Plan(windows=2, env_id="sat", seed=7, quick=True, miners=1, cheats=("zero-sketch",), validators=2, block_time_ms=500)
HONEST = MinerIdentity("miner-1", "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX", 4, "honest")
CHEAT = MinerIdentity("miner-2", "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy", 5, "zero-sketch")
REQUIRED_KEYS = {
    "windows", "env_id", "eval_before", "eval_after", "format_before", "format_after", "eval_constant", "eval_control", "audit",
    "miners", "validators_agree", "windows_missed", "delta_ratio", "verify_to_generate_ratio", "seconds_per_window",
    "generate_to_verify_ratio", "rollouts_verified_fraction",
}  # fmt: skip
REQUIRED_MINER_KEYS = {"hotkey", "strategy", "weight", "unique_valid", "windows_failed", "reason"}
VOID_ELEMENTS = {"meta", "br"}


def facts() -> RunFacts:
    windows = (30, 60)
    return RunFacts(
        env_id="sat",
        seed=7,
        quick=False,
        model="made here",
        windows_asked=2,
        first_window=30,
        block_time_ms=1500,
        started_at="2026-11-21T00:31:00Z",
        seconds_total=120.0,
        seconds_in_windows=34.0,
        finished=True,
        why_unfinished="",
        miners=(HONEST, CHEAT),
        validators=("validator-1", "validator-2"),
        windows=tuple(WindowFact(w, i, ("validator-1", "validator-2"), {}, True, 320, 160) for i, w in enumerate(windows)),
        miner_windows=tuple(MinerWindowFact(w, "miner-1", "accepted", 160, 158, "") for w in windows)
        + tuple(MinerWindowFact(w, "miner-2", "failed", 160, 0, "proof: error 1.0 > 0.3 <b>") for w in windows),
        rejects=tuple(RejectFact("validator-1", w, "miner-2", "proof", "1.0042", "0.3", "sketch error") for w in windows),
        checkpoints=(
            CheckpointFact(30, 0, "FULL", 1_000_000, None, None),
            CheckpointFact(60, 1, "DELTA", None, 50_000, 0.04),
        ),
        training=(TrainingFact(30, 10, 0.6, 0.2, 5.0, 90),),
        evaluations=(
            EvaluationFact("a", 30, 0, 2000, 0.15, 0.008, 0.97, 0.004, 0.04),
            EvaluationFact("b", 90, 2, 2000, 0.24, 0.0095, 0.98, 0.003, 0.04),
        ),
        weights=(WeightFact(70, "validator-1", {0: 0.9, 4: 0.1}), WeightFact(71, "validator-2", {0: 0.9, 4: 0.1})),
        phases=(
            PhaseFact(30, "miner-1", "miner", "generate, one rollout", 0.1),
            PhaseFact(30, "validator-1", "validator", "verify, one rollout", 0.02),
            PhaseFact(30, "miner-1", "miner", "generate", 16.0),
        ),
        processes=(ProcessFact("miner-1", "miner", 1, (-9,), 1),),
        parameters=(ParameterFact("block_time_ms", "12000", "1500"),),
        versions={"grail-core": "0.1.0"},
        machine={"processors": "2"},
        command="hatch run localnet --windows 2",
    )


def test_the_summary_has_every_promised_key_and_derives_its_ratios() -> None:
    summary = summarise(facts()).to_json()
    assert summary.keys() >= REQUIRED_KEYS
    miners = {m["name"]: m for m in json.loads(json.dumps(summary["miners"]))}
    assert all(m.keys() >= REQUIRED_MINER_KEYS for m in miners.values())
    assert miners["miner-1"]["weight"] == pytest.approx(0.1)
    assert miners["miner-2"]["weight"] == 0.0
    assert miners["miner-2"]["reason"].startswith("proof: error")
    assert summary["validators_agree"] is True
    assert summary["delta_ratio"] == pytest.approx(0.05)
    assert summary["generate_to_verify_ratio"] == pytest.approx(5.0)
    assert summary["verify_to_generate_ratio"] == pytest.approx(0.2)
    assert summary["rollouts_verified_fraction"] == pytest.approx(1 / 2)
    assert summary["honest_unique_fraction"] == pytest.approx(158 / 160)
    assert summary["eval_control"] is None
    assert (summary["seconds_per_window"], summary["clock"]) == (17.0, "virtual")


def test_validators_that_differ_or_never_met_do_not_count_as_agreeing() -> None:
    differing = dataclasses.replace(facts().windows[0], bodies_equal=False)
    alone = dataclasses.replace(facts().windows[0], bodies_equal=None)
    assert not summarise(dataclasses.replace(facts(), windows=(facts().windows[0], differing))).validators_agree
    assert not summarise(dataclasses.replace(facts(), windows=(alone,))).validators_agree


def test_windows_after_a_missed_one_are_named_as_compared_without_scores() -> None:
    first, second = facts().windows
    late = dataclasses.replace(second, scores_compared=False)
    summary = summarise(dataclasses.replace(facts(), windows=(first, late)))
    assert summary.windows_compared_without_scores == (late.window,)
    assert "compared without scores" in render(dataclasses.replace(facts(), windows=(first, late)), summary)


def test_what_a_run_did_not_measure_is_null() -> None:
    empty = dataclasses.replace(
        facts(), evaluations=(), windows=(), miner_windows=(), rejects=(), checkpoints=(), phases=(), weights=(), training=()
    )
    summary = summarise(empty)
    assert (summary.eval_before, summary.delta_ratio, summary.verify_to_generate_ratio) == (None, None, None)
    assert "<main>" in render(empty, summary)


def test_a_role_that_was_not_waited_for_is_named_in_summary_and_report() -> None:
    alone = dataclasses.replace(facts(), not_waited=(NotWaitedFact("miner-1", "mine", 60, 67, 300.2),))
    said = "miner-1 was not waited for any longer to mine window 60: 300 s at block 67"
    assert summarise(alone).not_waited_for == (said,)
    assert said in render(alone, summarise(alone))


def test_curves_are_of_what_the_trainer_told_and_alarms_are_marked() -> None:
    def trained(window: int, **more: object) -> Event:
        told = {"groups": 20, "groups_without_variance": 2, "entropy": 0.5, "kl_behaviour": 0.01, "nobody_knows": 7.0}
        return Event("trainer", "window_trained", 0.0, {"window": window, **told, **more})

    alarm = {"alarm": "entropy", "action": "slow", "reason": "entropy <fell>: 0.05 against 0.1", "value": 0.05, "bound": 0.1}
    training = collect.training_facts([trained(30), trained(60, entropy=0.05, alarms=[alarm, "nonsense"])])
    assert [one.metrics["entropy"] for one in training] == [0.5, 0.05]
    assert "nobody_knows" not in training[0].metrics
    assert training[1].alarms == (AlarmFact("entropy", "slow", "entropy <fell>: 0.05 against 0.1"),)
    learned = dataclasses.replace(facts(), training=training)
    page = render(learned, summarise(learned))
    assert "window 60, entropy: 0.05" in page
    assert "window 60: entropy (slow): entropy &lt;fell&gt;: 0.05 against 0.1" in page
    assert METRICS["entropy"].about in page
    assert "importance_mean" not in page, "a metric that was not told has no curve"
    calm = dataclasses.replace(facts(), training=training[:1])
    assert "none was raised" in render(calm, summarise(calm))


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe"), f"the page must stand alone: <{tag}>"
        assert not any(name in ("src", "href") for name, _ in attrs)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        depth = len(self.open)
        self.handle_starttag(tag, attrs)
        del self.open[depth:]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_report_stands_alone_is_well_formed_and_escapes_what_others_wrote() -> None:
    page = render(facts(), summarise(facts()))
    checker = _Checker()
    checker.feed(page)
    assert checker.open == []
    assert not re.search(r"https?://|@import|url\(", page)
    assert "0.3 <b>" in "".join(checker.texts)
    assert "prefers-color-scheme:dark" in page
    assert "The model got better: 15.0 %" in page
    assert "hatch run localnet --windows 2" in page


def test_an_unfinished_run_says_so_instead_of_claiming_a_gain() -> None:
    unfinished = dataclasses.replace(facts(), finished=False, why_unfinished="the last window's time is over")
    page = render(unfinished, summarise(unfinished))
    assert "The run ended early" in page
    assert "the last window&#x27;s time is over" in page


def test_a_folder_of_another_run_is_refused_with_every_difference(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    load_or_create_state(PLAN, layout)
    other = dataclasses.replace(PLAN, seed=8, cheats=("copy",))
    with pytest.raises(ConfigurationError, match=r"seed was 7, now 8.*|cheats was") as caught:
        load_or_create_state(other, layout)
    assert "seed" in caught.value.what
    assert "cheats" in caught.value.what
    state, resumed = load_or_create_state(dataclasses.replace(PLAN, windows=4), layout)
    assert resumed
    assert (state.starts, state.plan.windows) == (2, 4)


def test_a_folder_that_followed_another_clock_says_which_option_resumes_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    load_or_create_state(dataclasses.replace(PLAN, real_time=True), layout)
    with pytest.raises(ConfigurationError, match="real_time was True, now False") as caught:
        load_or_create_state(PLAN, layout)
    assert "(with --real-time)" in caught.value.hint


def test_a_folder_of_version_0_1_0_followed_the_wall_clock_and_is_resumed_by_it(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    load_or_create_state(PLAN, layout)
    old = json.loads(layout.state.read_text())
    for name in ("real_time", "groups"):
        del old["plan"][name]
    for name in ("not_waited", "seconds_in_windows"):
        del old[name]
    layout.state.write_text(json.dumps(old))
    with pytest.raises(ConfigurationError, match="real_time was True"):
        load_or_create_state(PLAN, layout)
    state, resumed = load_or_create_state(dataclasses.replace(PLAN, real_time=True), layout)
    assert (resumed, state.plan.real_time, state.not_waited) == (True, True, ())


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigurationError, match="not empty"):
        load_or_create_state(PLAN, Layout(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_line_that_is_still_being_written_is_read_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "miner-1.jsonl"
    tail = EventTail("miner-1", path)
    assert tail.read() == []
    path.write_text('{"time": 1.5, "event": "window_mined", "window": 60}\n{"time": 2, "event": "wind')
    assert [(e.name, e.integer("window"), e.time) for e in tail.read()] == [("window_mined", 60, 1.5)]
    with path.open("a") as file:
        file.write('ow_skipped"}\n{"cut off by SIGK\n[1]\n{"time": 3, "event": "x"}\n')
    assert [e.name for e in tail.read()] == ["window_skipped", "x"]
    assert tail.damaged_lines == 2


def test_a_window_counts_as_judged_once_every_validator_has_published_a_verdict() -> None:
    status = NetworkStatus(LOCALNET, 2, {HONEST.hotkey: MinerStatus(HONEST)}, ("validator-1", "validator-2"))
    status.first_window = 30
    status.apply(Event("validator-1", "verdict_published", 0.0, {"window": 30}))
    status.apply(Event("validator-1", "verdict_published", 0.0, {"window": 0}))
    status.apply(Event("validator-2", "window_judged", 0.0, {"window": 30}))
    assert status.windows_judged() == 0
    status.apply(Event("validator-2", "window_not_scored", 0.0, {"window": 30, "status": "inconclusive", "reason": "away"}))
    assert status.windows_judged() == 0
    status.apply(Event("validator-2", "verdict_published", 0.0, {"window": 30}))
    assert status.windows_judged() == 1
    assert status.missed["validator-2"] == {30: "away"}
    status.block = 100
    assert status.miners_are_done()


def test_chaos_strikes_every_role_exactly_once_and_not_in_the_first_window() -> None:
    plan = chaos.strikes(["miner-1"], ["validator-1"], 6)
    assert {s.process for s in plan} == {"miner-1", "validator-1", "trainer", "beacon"}
    assert all(1 <= s.window_index < 6 for s in plan)
    status = NetworkStatus(LOCALNET, 6, {}, ("validator-1",), block=10_000)
    assert chaos.due(plan, [], status) == []
    status.first_window = 30
    assert len(chaos.due(plan, [], status)) == len(chaos.ahead(plan, [])) == len(plan)
    assert chaos.due(plan, [s.process for s in plan], status) == chaos.ahead(plan, [s.process for s in plan]) == []


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0 + 1e-13), (0.0, 3e-15), (0.0, 0.0), (-2.0, -2.0), (1e9, 1e9 + 1e-4), (0.31, 0.49), (-1.0, 4e5)]
)
def test_an_axis_has_a_length_and_holds_what_it_is_for(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert len(set(ticks)) >= 2
    assert ticks == sorted(ticks)
    slack = 1e-6 * max(abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert len(ticks) <= 8


@pytest.mark.parametrize(("value", "axis"), [(1.0, (0.0, 1.0)), (0.0, (0.0, 1.0)), (-2.0, (-2.0, 0.0))])
def test_one_value_is_shown_against_nothing_and_a_share_never_beyond_the_whole(value: float, axis: tuple[float, float]) -> None:
    ticks = nice_ticks(value, value)
    assert (ticks[0], ticks[-1]) == axis


@pytest.mark.parametrize("value", [1.0, 0.0, 1e-14])
def test_a_line_of_one_point_or_of_equal_ones_is_drawn(value: float) -> None:
    for count in (1, 3):
        line = Line("one", tuple(Point(place, value + place * 1e-16, 0.0, "") for place in range(count)), "red")
        assert "<svg" in line_chart([line], ["1", "2", "3"], y_format=str)
