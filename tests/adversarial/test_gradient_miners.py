"""Whoever lies in one step of gradient work is rejected by the check of that lie; honest twins and victims are not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from grail_core.protocol.context import Challenge
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.types import Window
from grail_trainer.gradient_presets import TINY
from tooling.adversaries import GRADIENT_STRATEGIES
from tooling.adversaries.gradient_court import Courtroom, Played, rejecting
from tooling.adversaries.gradient_miners import CHEATS, VARIANTS, stolen_update
from tooling.testing.gradient_network import GradientNetwork

LIARS = CHEATS | VARIANTS
SHOWN_BY_ONE_STEP = sorted(name for name, one in LIARS.items() if not one.every_round)


@dataclass(frozen=True)
class Trial:
    """The second round: an honest miner, whose first update was merged, and every liar."""

    court: Courtroom
    context: RoundContext
    challenge: Challenge
    played: dict[str, Played]

    def caught(self, name: str) -> set[str]:
        return rejecting(self.court.findings(self.context, self.challenge, self.played[name]))

    def by_step(self, name: str) -> dict[int, set[str]]:
        """What rejects when each step is the drawn one."""
        found = self.court.challenged(self.context, self.challenge, self.played[name])
        return {step: rejecting(self.court.findings(self.context, other, one)) for step, other, one in found}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    torch.set_num_threads(1)
    fast = replace(TINY, learning_rates=((0, 4_000_000),))  # so that one round moves the weights as in the middle of a run
    network = GradientNetwork(tmp_path_factory.mktemp("liars"), fast, miners=1 + len(LIARS), validators=0)
    court = Courtroom(network)
    honest = court.miner("miner-0")
    context, _, first = court.play(Window(30), {"honest": honest})
    court.merge(context, first["honest"])
    liars = {name: court.miner(f"miner-{i}", one) for i, (name, one) in enumerate(LIARS.items(), 1)}
    context, challenge, played = court.play(Window(60), {"honest": honest, **liars})
    return Trial(court, context, challenge, played)


def test_the_command_lines_names_are_those_of_the_eight() -> None:
    assert tuple(CHEATS) == GRADIENT_STRATEGIES


@pytest.mark.parametrize("name", sorted(LIARS.keys() - {*SHOWN_BY_ONE_STEP, "swap"}))
def test_a_lie_is_caught_by_the_check_that_it_names(trial: Trial, name: str) -> None:
    caught = trial.caught(name)
    assert caught
    assert caught <= set(LIARS[name].caught_by)


@pytest.mark.parametrize("name", SHOWN_BY_ONE_STEP)
def test_an_invented_step_is_caught_by_the_replay_that_draws_it_and_passes_every_other(trial: Trial, name: str) -> None:
    """Checks 1 to 5 accept each of them: without a replay nothing would be seen."""
    by_step = trial.by_step(name)
    false_steps = {1, 2, 3} if name == "lazy" else {3}
    assert {step for step, caught in by_step.items() if caught} == false_steps
    assert all(caught <= set(LIARS[name].caught_by) for caught in by_step.values())


def test_training_on_other_sequences_is_caught_by_replays(trial: Trial) -> None:
    """So early some chunks have nearly the same gradient on any text, so that one replay in about sixteen sees nothing."""
    tries = trial.court.challenged(trial.context, trial.challenge, trial.played["swap"], times=3)
    caught = [rejecting(trial.court.findings(trial.context, other, one)) for _, other, one in tries]
    assert caught.count({"replay"}) >= 4
    assert {frozenset(checks) for checks in caught} <= {frozenset(), frozenset({"replay"})}


def test_the_honest_twin_passes_whatever_step_is_drawn(trial: Trial) -> None:
    assert trial.caught("honest") == set()
    caught = trial.by_step("honest")
    assert set(caught) == set(range(TINY.inner_steps))
    assert not any(caught.values())


def test_what_the_copier_sends_is_its_victims_last_update(trial: Trial) -> None:
    copier = trial.court.miner("miner-4", CHEATS["copy"])
    taken = stolen_update(copier.participant, Window(30))
    assert taken is not None
    sent = trial.played["copy"].pending.update
    assert len(sent) > len(taken) / 2
    assert taken[-2000:] == sent[-2000:]  # the streams of the last tensors
