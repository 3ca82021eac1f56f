"""Rounds of gradient work with all roles: liars end at nothing, and a liar that is seen before the merge leaves no trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tooling.adversaries.gradient_miners import CHEATS
from tooling.rounds import promises as promised
from tooling.rounds.cli import BROKEN, cli
from tooling.rounds.plan import Plan
from tooling.rounds.promises import Promise, promises
from tooling.rounds.run import Finished, run

PLAN = Plan(rounds=2, honest=1, cheats=("flip", "late"), reference=False)


@dataclass(frozen=True)
class Pair:
    """A run, and the same with its liars silent."""

    run: Finished
    silent: Finished

    def held(self) -> dict[str, Promise]:
        return {one.name: one for one in promises(self.run, self.silent)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("rounds")
    silent = replace(PLAN, silent=True, joiners=False)
    return Pair(run(PLAN, folder / "run", ignore), run(silent, folder / "silent", ignore))


def ignore(*_: object) -> None:
    """Nobody watches."""


def test_everything_that_a_run_has_to_show_holds(pair: Pair) -> None:
    held = pair.held()
    assert [one for one in held.values() if not one.holds] == []
    assert {"flip ends at weight 0, caught by its check", "late ends at weight 0, caught by its check"} <= held.keys()
    assert {"H2 is first", "no honest miner is at weight 0, with the liars silent"} <= held.keys()
    assert pair.run.losses[-1] < pair.run.losses[0]


def test_liars_that_are_never_merged_change_no_checkpoint_and_no_honest_rating(pair: Pair) -> None:
    assert [line.weights_root for line in pair.run.lines] == [line.weights_root for line in pair.silent.lines]
    assert pair.run.standing("h1") == pair.silent.standing("h1")
    assert pair.run.standing("h1").rating.sigma < pair.run.standing("flip").rating.sigma  # it has been in matches
    assert all(set(line.merged) == {"H2", "h1"} for line in pair.run.lines)


def test_late_joiners_have_the_same_weights_from_an_anchor_and_from_updates_alone(pair: Pair) -> None:
    assert [one.what for one in pair.run.roots] == [
        "joined after round 2 from the newest anchor",
        "joined after round 2 from the first checkpoint and updates",
    ]
    assert {one.found for one in pair.run.roots} == {pair.run.lines[-1].weights_root}


def test_a_promise_that_is_broken_is_said_to_be(pair: Pair) -> None:
    def broken(done: Finished) -> set[str]:
        return {one.name for one in promises(done, pair.silent) if not one.holds}

    def seen(caught_by: str, status: str) -> Finished:
        lines = [
            replace(line, rows=line.rows | {"late": replace(line.rows["late"], caught_by=caught_by, status=status)})
            for line in pair.run.lines
        ]
        return replace(pair.run, lines=lines)

    assert broken(pair.run) == set()
    assert broken(seen("", "accepted")) == {"late ends at weight 0, caught by its check"}
    assert broken(seen("chunks", "failed")) == {"late ends at weight 0, caught by its check"}
    worse = replace(pair.run, lines=[replace(line, loss=9.0, weights_root=None) for line in pair.run.lines])
    assert broken(worse) == {
        "held-out loss at most 1.02 of that with the liars silent",
        "checkpoints and the honest ratings are those with the liars silent, to the bit",
    }


@pytest.mark.parametrize(
    ("ratios", "holds"), [((0.883, 0.687, 1.023), True), ((1.02,), True), ((1.021,), False), ((1.0, 1.05), False)]
)
def test_a_loss_beside_silent_liars_is_asked_of_all_seeds_together(ratios: tuple[float, ...], holds: bool) -> None:
    found = promised.loss_of_all(ratios)
    assert found.holds is holds
    assert all(f"{ratio:.4f}" in found.said for ratio in ratios)


def test_the_command_ends_with_its_own_code_where_something_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip = replace(CHEATS["flip"], caught_by=("replay",))
    monkeypatch.setattr(promised, "CHEATS", CHEATS | {"flip": flip})
    asked = ["--rounds", "1", "--miners", "1", "--cheats", "flip", "--no-compare", "--json", "--out", str(tmp_path)]
    ended = CliRunner().invoke(cli, asked)
    assert ended.exit_code == BROKEN
    (found,) = json.loads(ended.stdout.splitlines()[-1])
    broken = [one for one in found["promises"] if not one["holds"]]
    assert [one["said"] for one in broken] == ["weight 0, caught by chunks in round 1"]
    assert json.loads((tmp_path / "rounds-0.json").read_text()) == found
    assert (tmp_path / "rounds-0.svg").read_text().count("<polyline") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--rounds", "1"), "stale, copy lie from the second round on"),
        (("--rounds", "2", "--kill", "--no-cheats"), "--kill needs three rounds"),
        (("--no-cheats", "--cheats", "flip"), "contradict each other"),
        (("--rounds", "1", "--no-cheats", "--out", "/proc/none"), "cannot be made"),
    ],
)
def test_a_run_that_cannot_show_what_is_asked_is_refused_before_it_starts(arguments: tuple[str, ...], words: str) -> None:
    ended = CliRunner().invoke(cli, arguments)
    assert ended.exit_code == 2
    assert words in ended.output


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_who_dies_in_every_third_round_makes_the_same_checkpoints_and_verdicts(tmp_path: Path) -> None:
    found = command("--rounds", "9", "--kill", "--no-cheats", "--out", str(tmp_path))
    assert len(found["deaths"]) >= 4  # of six; a drawn moment may not come in a round with fewer of them
    assert [one["name"] for one in found["promises"] if "merge of round" in one["name"]] == [
        f"merge of round {number}: equal weights_root" for number in (3, 6, 9)
    ]


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_thirty_rounds_of_twelve_miners_show_what_they_have_to() -> None:
    found = command("--validators", "2")
    assert [line["alike"] for line in found["by_round"]] == [True] * 30


def command(*arguments: str) -> dict[str, Any]:
    """The JSON of a run that ends well; a process of its own, since deaths stay in it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "tooling.rounds", "--json", *arguments]
    ended = subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout)[0]
    return found
