"""Localnet with gradient work: what its clock waits for, what its table and page say, and whole runs of real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from grail_core.chain.development.parameters import LocalChainParameters
from grail_core.chain.development.state import ChainRules
from grail_core.protocol.gradient.rounds import RoundTimes
from grail_core.protocol.network import LOCALNET
from grail_core.protocol.types import Window
from grail_core.telemetry.console import PlainConsole
from tooling import REPOSITORY
from tooling.adversaries.gradient_miners import CHEATS
from tooling.localnet.cli import cli
from tooling.localnet.conductor import Advance, Hold, Known, Need, Over, Step, Task, step
from tooling.localnet.events import Event
from tooling.localnet.plan import Layout, Plan
from tooling.localnet.report.facts import MinerIdentity, RejectFact, RunFacts, WeightFact, WindowFact
from tooling.localnet.rounds.facts import LossFact, MergeFact, MinerRoundFact, RoundsFacts, StandingFact
from tooling.localnet.rounds.page import render
from tooling.localnet.rounds.progress import RoundProgress
from tooling.localnet.rounds.stands import RoundTimetable
from tooling.localnet.rounds.status import SPEC, RoundStatus
from tooling.localnet.rounds.summary import summarise
from tooling.localnet.rounds.table import print_summary
from tooling.localnet.status import MinerStatus

CHAIN = LocalChainParameters(81, "seed", LOCALNET.block_time_ms, 1_767_225_600_400, 1, ChainRules())
TRAINER, VALIDATORS, MINERS = "trainer", ("validator-1", "validator-2"), ("miner-1", "miner-2")
ALL = (TRAINER, *VALIDATORS, *MINERS)
TABLE = RoundTimetable(LOCALNET, CHAIN, 2, TRAINER, VALIDATORS, MINERS, SPEC)
FIRST, SECOND = Window(30), Window(60)
STARTED = frozenset(Need(name, Task.START) for name in ALL)
TIMES = RoundTimes(FIRST, SPEC, LOCALNET)


def needs(task: Task, round_: Window, *roles: str) -> frozenset[Need]:
    return frozenset(Need(role, task, round_) for role in roles)


def block(number: int) -> int:
    return CHAIN.time_of_ms(number)


def at(now_ms: int, done: frozenset[Need]) -> Step:
    return step(TABLE, Known(FIRST, done), now_ms)


def held(taken: Step) -> set[str]:
    assert isinstance(taken, Hold), taken
    return set(map(str, taken.waits_for))


def walked(done: frozenset[Need]) -> list[int]:
    """Where the clock stands, one after the other, with everything done."""
    now, stood = 0, []
    while isinstance(taken := at(now, done), Advance):
        now = taken.to_ms
        stood.append(now)
    assert isinstance(taken, Over)
    return stood


EVERYTHING = STARTED | frozenset(
    Need(role, task, round_)
    for round_ in (FIRST, SECOND)
    for task, roles in (
        (Task.MINE, MINERS),
        (Task.SIGHT, VALIDATORS),
        (Task.REVEAL, MINERS),
        (Task.OPEN, MINERS),
        (Task.SIGHT_FILES, VALIDATORS),
        (Task.TRAIN, (TRAINER,)),
        (Task.JUDGE, VALIDATORS),
        (Task.WEIGH, VALIDATORS),
    )
    for role in roles
)


def test_no_round_begins_before_every_role_has_joined() -> None:
    assert held(at(block(2), STARTED - {Need("miner-2", Task.START)})) == {"miner-2 to start"}


@pytest.mark.parametrize(
    ("task", "roles", "not_before", "not_after"),
    [
        (Task.MINE, MINERS, TIMES.seed_beacon_block, TIMES.deadline_block - 1),
        (Task.SIGHT, VALIDATORS, TIMES.deadline_block, TIMES.first_sight_end_block),
        (Task.REVEAL, MINERS, TIMES.first_sight_end_block + 1, TIMES.reveal_block),
        (Task.OPEN, MINERS, TIMES.challenge_block, TIMES.reveal_block),
        (Task.SIGHT_FILES, VALIDATORS, TIMES.reveal_block, TIMES.second_sight_end_block),
        (Task.TRAIN, (TRAINER,), TIMES.reveal_block + 1, TIMES.checkpoint_block - 2),
        (Task.JUDGE, VALIDATORS, TIMES.checkpoint_block, TIMES.next_round - 1),
        (Task.WEIGH, VALIDATORS, TIMES.checkpoint_block, TIMES.next_round - 1),
    ],
)
def test_the_clock_stands_while_a_step_of_a_round_is_in_time_until_everybody_has_taken_it(
    task: Task, roles: tuple[str, ...], not_before: int, not_after: int
) -> None:
    for role in roles:
        done = EVERYTHING - needs(task, FIRST, role)
        holds = [now for now in walked_until_held(done) if isinstance(at(now, done), Hold)]
        assert len(holds) == 1
        assert block(not_before) <= holds[0] < block(not_after + 1), (task, role)
        assert held(at(holds[0], done)) == {f"{role} to {task.value} window {FIRST}"}


def walked_until_held(done: frozenset[Need]) -> list[int]:
    now, stood = 0, [0]
    while isinstance(taken := at(now, done), Advance):
        now = taken.to_ms
        stood.append(now)
    return stood


def test_a_run_stands_at_each_step_once_in_order_and_ends_when_weights_are_final() -> None:
    stood = walked(EVERYTHING)
    assert all(earlier < later for earlier, later in pairwise(stood))
    assert len(stood) == 2 * 6 + 1
    assert stood[-1] >= block(TIMES.checkpoint_block + SPEC.round_blocks + CHAIN.finality_lag + 2)


def event(process: str, name: str, **fields: object) -> Event:
    return Event(process, name, 0.0, fields)


def test_every_way_to_be_done_with_a_step_counts_as_done() -> None:
    progress = RoundProgress()
    for name, fields, expected in (
        ("aggregator_started", {}, {Need("role", Task.START)}),
        ("round_sealed", {"window": 30}, needs(Task.MINE, FIRST, "role")),
        ("window_skipped", {"window": 60}, needs(Task.MINE, SECOND, "role") | needs(Task.OPEN, SECOND, "role")),
        ("round_withheld", {"window": 30}, needs(Task.REVEAL, FIRST, "role")),
        ("round_opened", {"window": 30}, needs(Task.OPEN, FIRST, "role")),
        ("round_sight_kept", {"window": 30, "of": "seal"}, needs(Task.SIGHT, FIRST, "role")),
        ("round_sight_missed", {"window": 60, "of": "seal"}, needs(Task.SIGHT, SECOND, "role")),
        ("round_sight_missed", {"window": 60, "of": "seal"}, needs(Task.SIGHT_FILES, SECOND, "role")),
        ("merge_published", {"round": 30}, needs(Task.TRAIN, FIRST, "role")),
        ("round_not_merged", {"window": 60}, needs(Task.TRAIN, SECOND, "role")),
        ("verdict_published", {"window": 30}, needs(Task.JUDGE, FIRST, "role")),
        ("weights_kept", {"window": 30}, needs(Task.WEIGH, FIRST, "role")),
    ):
        progress.apply(event("role", name, **fields))
        assert expected <= progress.done, name
    assert Need("role", Task.SIGHT_FILES, FIRST) not in progress.done, "seals that were seen say nothing of files"


# --- what is said ----------------------------------------------------------------------------------------------------------

HONEST = MinerIdentity("miner-1", "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX", 4, "honest")
CHEAT = MinerIdentity("miner-2", "5DAAnrj7VHTznn2AWBemMuyBwZWs6FNFjdyVXUeYum3PTXFy", 5, "lazy")
REASON = "replay 0.81 (threshold 0.12): <b>step 3</b>"


def facts() -> RoundsFacts:
    run = RunFacts(
        env_id="gradient (tiny)",
        seed=7,
        quick=True,
        model="made here",
        windows_asked=2,
        first_window=30,
        block_time_ms=1500,
        started_at="2026-01-01T00:00:00Z",
        seconds_total=80.0,
        finished=True,
        why_unfinished="",
        miners=(HONEST, CHEAT),
        validators=VALIDATORS,
        windows=tuple(WindowFact(30 * (i + 1), i, VALIDATORS, {}, True, 0, 0) for i in range(2)),
        rejects=(RejectFact("validator-1", 60, "miner-2", "replay", "0.81", "0.12", REASON),),
        weights=(WeightFact(88, "validator-1", {0: 0.9, 4: 0.1}),),
        seconds_in_windows=20.0,
        parameters_total=81_888,
    )
    rows = (
        MinerRoundFact(30, "miner-1", "accepted", "", 16, 0.02, 0.002, 1, True, 8_000, 400_000),
        MinerRoundFact(30, "miner-2", "accepted", "", 16, 0.01, 0.002, 2, True, 8_100, 400_000),
        MinerRoundFact(60, "miner-1", "accepted", "", 16, -0.001, 0.002, 1, True, 8_000, 400_000),
        MinerRoundFact(60, "miner-2", "failed", REASON, 16, None, None, None, False, 8_100, 400_000),
    )
    return RoundsFacts(
        run=run,
        preset="tiny",
        miner_rounds=rows,
        standings=(StandingFact("miner-1", 25.9, 7.7, 1), StandingFact("miner-2", 25.0, 8.3, 0)),
        merges=(
            MergeFact(30, 1, ("miner-1", "miner-2"), {}, 16_100),
            MergeFact(60, 2, ("miner-1",), {"miner-2": -0.03}, 8_000),
        ),
        losses=tuple(LossFact(i, i, 5.5 - i, 0.001, 128) for i in range(3)),
        floor=0.4268,
    )


def test_the_summary_says_of_every_miner_what_it_earned_and_why_not() -> None:
    summary = summarise(facts())
    honest, cheat = summary.miners
    assert (honest.weight, honest.rating, honest.rating_error, honest.ranks, honest.rounds_merged) == (
        0.1,
        25.9,
        7.7,
        (1, 1),
        2,
    )
    assert (cheat.weight, cheat.ranks, cheat.rounds_merged, cheat.rounds_failed) == (0.0, (2, None), 1, 1)
    assert (cheat.failed_checks, cheat.reason) == ({"replay": 1}, REASON)
    assert (summary.loss_before, summary.loss_after, summary.loss_floor) == (5.5, 3.5, 0.4268)
    assert summary.update_bits_per_parameter == pytest.approx(8 * 8_050 / 81_888)
    assert (summary.validators_agree, summary.windows) == (True, 2)
    assert json.loads(json.dumps(summary.to_json()))["work"] == "gradient"


def test_the_table_and_the_page_name_the_check_and_take_no_markup_from_a_reason(tmp_path: Path) -> None:
    summary, written = summarise(facts()), StringIO()
    print_summary(PlainConsole(file=written, width=180), summary, Layout(tmp_path))
    said = " ".join(written.getvalue().split())
    for words in ("25.9 ± 7.7", "2 of 2", "1 of 2", "2 –", "replay 0.81", "5.5000 ± 0.0010 → 3.5000", "entropy is 0.4268"):
        assert words in said, said
    page = render(facts(), summary)
    assert "<b>step 3</b>" not in page
    assert "The model got better" in page
    assert "entropy of the corpus" in page
    assert "miner-2 was left out" in page
    assert "<script" not in page


def test_the_view_names_what_a_round_is_at() -> None:
    status = RoundStatus(LOCALNET, 2, {CHEAT.hotkey: MinerStatus(CHEAT)}, VALIDATORS, first_window=30)
    said = []
    for number in (30, 33, 40, 45, 46, 49, 56):
        status.block = number
        said.append(status.phase()[1])
    assert said == [
        "waiting for the seed beacon",
        "training",
        "sight of seals",
        "opening what the challenge drew",
        "opening what the challenge drew",
        "sight of files, merging",
        "judging",
    ]
    fields = {"hotkey": CHEAT.hotkey, "status": "failed", "reason": REASON, "window": 30}
    status.apply(event("validator-1", "round_miner_judged", **fields))
    assert status.miners[CHEAT.hotkey].verdict == REASON


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--work", "gradient", "--env", "sat"), "--env is of rollouts"),
        (("--work", "gradient", "--cheat", "zero-sketch"), "is no lie about gradient"),
        (("--cheat", "lazy"), "is no lie about rollouts"),
    ],
)
def test_options_of_other_work_are_refused(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    ended = CliRunner().invoke(cli, [*options, "--out", str(tmp_path / "run")])
    assert ended.exit_code == 2
    assert words in " ".join(ended.output.split())
    assert not (tmp_path / "run").exists()


def test_a_folder_of_an_earlier_version_holds_rollouts() -> None:
    plan = Plan(windows=2, env_id="sat", seed=7, quick=True, miners=1, cheats=(), validators=2, block_time_ms=500)
    earlier = plan.to_json()
    del earlier["work"]
    assert Plan.from_json(earlier) == plan


# --- whole runs ------------------------------------------------------------------------------------------------------------


def localnet(out: Path, *options: str, stop_after: str = "") -> tuple[int, dict[str, Any], str]:
    """Run to the end, or send SIGINT once this start has printed `stop_after`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRAIL_", "BT_"))}
    argv = [sys.executable, "-m", "tooling.localnet", "--work", "gradient", "--out", str(out), "--json", *options]
    lines = []
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            lines.append(line)
            if stop_after and stop_after in line:
                process.send_signal(signal.SIGINT)
                stop_after = ""
        output = process.stdout.read()
    return process.returncode, json.loads(output) if output.strip() else {}, "".join(lines)


@pytest.mark.heavy
@pytest.mark.timeout(900)  # about 100 s on two idle processors
def test_an_interrupted_run_of_rounds_resumes_and_each_lie_ends_with_weight_0(tmp_path: Path) -> None:
    cheats = ("copy", "stale", "lazy", "noise")
    options = ["--windows", "4", "--miners", "2", "--quick", *(o for cheat in cheats for o in ("--cheat", cheat))]
    code, _, said = localnet(tmp_path / "run", *options, stop_after="merged")
    assert code == 130, said
    code, summary, said = localnet(tmp_path / "run", *options)
    assert code == 0, said
    assert summary["validators_agree"], said
    assert summary["rounds_merged"] == 4
    assert summary["loss_floor"] < summary["loss_after"] < summary["loss_before"] - 0.5
    assert summary["not_waited_for"] == []
    for miner in summary["miners"]:
        if miner["strategy"] == "honest":
            assert miner["weight"] > 0
            assert miner["rounds_failed"] == 0, miner
        else:
            assert miner["weight"] == 0, miner
            assert miner["failed_checks"], miner
            assert set(miner["failed_checks"]) <= set(CHEATS[miner["strategy"]].caught_by), miner


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_every_role_of_a_network_of_rounds_killed_once_and_the_run_goes_on(tmp_path: Path) -> None:
    code, summary, said = localnet(tmp_path / "run", "--windows", "5", "--quick", "--chaos")
    assert code == 0, said
    assert summary["validators_agree"], said
    assert summary["rounds_merged"] == 5
    assert set(summary["processes_restarted"]) == {"miner-1", "validator-1", "trainer", "beacon"}
    assert [miner["rounds_failed"] for miner in summary["miners"][:3]] == [0, 0, 0]
    assert all(miner["weight"] > 0 for miner in summary["miners"][:3])
