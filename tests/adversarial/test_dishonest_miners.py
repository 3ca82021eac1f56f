"""Whoever lies in one step of mining, or changes honest rows afterwards, is rejected by the check of that lie."""

from __future__ import annotations

import pytest

from grail_core.checkpoints.loaded import LoadedCheckpoint, PreparedCheckpoint
from grail_core.environment import Environment, Problem
from grail_core.generation.base import Completion
from grail_core.keys import ss58
from grail_core.storage.layout import window_key
from grail_miner.mining import Mining
from tooling.adversaries import STRATEGIES, tampering
from tooling.adversaries.courtroom import Ruling
from tooling.adversaries.miners import BestOfN, mining_factory
from tooling.adversaries.scene import Scene
from tooling.adversaries.tampering import Tamper, change_rollout, map_rollouts


def dishonest(scene: Scene, strategy: str) -> Mining:
    network = scene.court.network
    honest = network.mining("miner-0")
    return mining_factory(strategy)(network.participant("miner-0"), honest.checkpoint, honest.environment_of, 8)


def ruling_on(scene: Scene, mining: Mining, groups: int) -> Ruling:
    return scene.court.examine(scene.court.mined_by(mining, range(groups)))


def test_a_miner_that_runs_no_model_for_its_proof_is_rejected_by_the_proof(scene: Scene) -> None:
    assert ruling_on(scene, dishonest(scene, "zero-sketch"), 1).caught_by == "proof"


def test_the_best_of_several_draws_is_rejected_by_the_sampling_check(scene: Scene) -> None:
    class Wordy(BestOfN):
        """The tiny model earns nothing with any draw, so another taste decides between them."""

        def worth(
            self, environment: Environment, prepared: PreparedCheckpoint, problem: Problem, completion: Completion
        ) -> float:
            return len(set(completion.tokens))

    honest = scene.court.network.mining("miner-0")
    wordy = Wordy(honest.signer, honest.checkpoint, honest.environment_of)
    assert ruling_on(scene, wordy, 1).caught_by == "sampling"


def test_leaving_out_groups_beyond_the_allowance_is_refused_at_first_sight(scene: Scene) -> None:
    ruling = ruling_on(scene, dishonest(scene, "skip"), 6)
    assert ruling.caught_by == "seal"
    assert (ruling.findings[0].value, ruling.findings[0].threshold) == (2, 1)
    assert "more groups are missing than may be" in ruling.why
    assert ruling.evidence is None


def test_a_copied_file_is_rejected_since_its_problems_are_the_victims(scene: Scene) -> None:
    victim = scene.before(1)
    store = scene.court.network.participant("miner-1").own_store
    store.put(window_key(ss58(victim.hotkey), victim.context.window), victim.pack(scene.honest(1, 1)))
    assert ruling_on(scene, dishonest(scene, "copy"), 1).caught_by == "prompt"


def test_a_stale_miner_without_an_older_checkpoint_is_an_honest_one(scene: Scene) -> None:
    assert ruling_on(scene, dishonest(scene, "stale"), 1).accepted


def test_a_miner_with_eight_bit_weights_rounds_a_copy_once_a_checkpoint(scene: Scene) -> None:
    mining = dishonest(scene, "eight-bit")
    run = mining.select_model(scene.court.context)
    assert isinstance(run, LoadedCheckpoint)
    assert mining.select_model(scene.court.context) is run
    exact = mining.checkpoint.at(scene.court.context.manifest)
    assert isinstance(exact, LoadedCheckpoint)
    theirs = run.model.state()
    changed = {name for name, weight in exact.model.state().items() if not weight.equal(theirs[name])}
    assert changed
    assert all(".layers." in name and name.endswith("proj.weight") for name in changed)


def test_every_strategy_of_the_command_line_is_a_miner(scene: Scene) -> None:
    for strategy in STRATEGIES:
        assert type(dishonest(scene, strategy)) is not Mining


def tamperings() -> dict[str, tuple[Tamper, str]]:
    vocabulary, end = 512, 0  # of the scene's model
    forged = {name: (map_rollouts(change), "proof") for name, change in tampering.FORGED_SKETCHES.items()}
    return forged | {
        "tokens changed": (map_rollouts(tampering.tokens_changed(vocabulary)), "proof"),
        "prompt changed": (map_rollouts(tampering.prompt_changed(vocabulary)), "prompt"),
        "end put first": (map_rollouts(tampering.end_put_first(end)), "termination"),
        "last token cut": (map_rollouts(tampering.last_token_cut), "termination"),
        "false reward": (change_rollout(0, 3, reward=1.0, success=True), "reward"),
    }


@pytest.mark.parametrize("name", tamperings())
def test_a_changed_row_fails_the_file_and_names_its_check(scene: Scene, name: str) -> None:
    tamper, check = tamperings()[name]
    honest = scene.honest(0, 1)
    changed = tamper(honest)
    assert changed != honest
    assert scene.examine(0, changed).caught_by == check
    assert scene.honest_ruling(0, 1).accepted
