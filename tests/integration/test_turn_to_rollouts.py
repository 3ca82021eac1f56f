"""A network that trains in rounds turns to rollouts: its next checkpoint says so, and pay follows over twelve windows."""

from __future__ import annotations

import dataclasses
import threading
from fractions import Fraction
from pathlib import Path

import pytest

from grail_core.errors import ConfigurationError
from grail_core.protocol import SignedVerdict
from grail_core.protocol.gradient.scores import largest_power
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.work import Work, work_of
from grail_trainer.gradient_presets import TINY
from grail_trainer.publishing.publication import TableChoice
from grail_trainer.start import publish_folder
from grail_validator.first_sight import FirstSight
from grail_validator.gradient.rounds import GradientRounds
from grail_validator.kinds import WindowKinds
from grail_validator.weight_setting import WeightSetting, with_rounds
from tooling.testing.driven_chain import Driven
from tooling.testing.gradient_network import GradientNetwork
from tooling.testing.mining import mine, mining_of, upload
from tooling.testing.network import FIRST_WINDOW
from tooling.testing.validating import validator_of

SPEC = dataclasses.replace(TINY, common=16, own=4, guard=8)
TURNED = Window(FIRST_WINDOW + 60)


def rounds_of(network: GradientNetwork) -> None:
    """One round by miner-0, merged and judged."""
    network.advance_to(FIRST_WINDOW + 1)
    context, stop = network.round(FIRST_WINDOW), threading.Event()
    miner, validator, trainer = network.miner("miner-0"), network.validator("validator-0"), network.aggregator()
    pending = miner.prepare(context, stop)
    assert pending is not None
    miner.seal(context, pending)
    network.advance_to(context.times.deadline_block)
    validator.sights.sight_seals(context)
    network.advance_to(context.times.first_sight_end_block + 1)
    miner.reveal(context, pending)
    network.advance_to(context.times.challenge_block)
    challenge = network.challenge(context)
    miner.open(context, challenge, pending)
    network.advance_to(context.times.reveal_block + 1)
    validator.sights.sight_files(context)
    assert trainer.aggregate(context, challenge, None) is not None
    trainer.complete()
    network.advance_to(context.times.checkpoint_block)
    assert validator.judge(context, challenge, stop) is WindowStatus.SCORED
    network.advance_to(FIRST_WINDOW + 31)


def turned(network: GradientNetwork, *, turn: bool = True) -> CheckpointManifest:
    """The merged weights, published anew with the environment of rollouts."""
    trainer = network.participant("trainer")
    head = trainer.own_checkpoints.sequence().head
    assert head is not None
    folder = trainer.checkpoints.materialise(head)
    return publish_folder(trainer, folder, network.environment, choice=TableChoice(uncovered=True), turn=turn)


def test_a_network_that_turns_from_rounds_to_rollouts_pays_each_work_for_its_windows(tmp_path: Path) -> None:
    network = GradientNetwork(tmp_path, SPEC, miners=2, validators=1)  # one trains the round, the other does rollouts
    rounds_of(network)
    with pytest.raises(ConfigurationError, match="environment is gradient"):
        turned(network, turn=False)

    manifest = turned(network)
    assert (work_of(manifest), manifest.valid_from) == (Work.ROLLOUTS, TURNED)
    assert manifest.shards, "no delta leads from float32 to bfloat16"
    view = network.participant("trainer").own_checkpoints.sequence()
    assert view.beginning() == manifest, "a trainer of rollouts counts its windows from here"
    assert view.beginning(FIRST_WINDOW + 30).sequence == 0
    with pytest.raises(ConfigurationError, match="already"):
        turned(network)

    network.advance_to(TURNED + 1)
    mining = mining_of(network, "miner-1")
    upload(network, mining, "miner-1", mine(network, mining, TURNED, range(1)), TURNED)
    participant = network.participant("validator-0")
    kinds = WindowKinds(participant)
    assert kinds.last(TURNED) == ["gradient", "gradient", "rollouts"], "of which twelve those before the first are gradient too"

    chain = Driven(network.chain, participant.times(TURNED).challenge_block)
    validator = validator_of(network, "validator-0", chain=chain)
    validator.gradient = GradientRounds(validator.participant, lambda kinds: network.validator("validator-0"))
    validator.first_sight = FirstSight(validator.participant, validator.ledger, validator.gradient)
    assert validator.run(threading.Event(), windows=1) == 1
    assert validator.ledger.last_judged() == TURNED

    of_rollouts, of_rounds = validator.ledger.files(TURNED), validator.ledger.rounds.files(FIRST_WINDOW)
    assert of_rollouts is not None
    assert of_rounds is not None
    rollouts, rounds = SignedVerdict.decode(of_rollouts.verdict).body, SignedGradientVerdict.decode(of_rounds.verdict).body
    owed = with_rounds(rollouts, rounds, Fraction(11, 12), largest_power(SPEC), network.params)[0]
    setting = WeightSetting(participant, validator.ledger)
    for _ in range(2):  # what was sent at the start is confirmed; what is due now is sent
        network.chain.advance(network.params.weight_interval)
        setting.turn()
    network.chain.advance(3)
    (row,) = network.chain.weights().values()
    assert row == owed
    trained, generated = (uid_of(network, name) for name in ("miner-0", "miner-1"))
    assert rollouts.weights.get(trained, 0) == 0 < row[trained]
    assert 0 < row[generated] < rollouts.weights[generated]


def uid_of(network: GradientNetwork, name: str) -> int:
    neuron = network.chain.metagraph().by_hotkey(network.signers[name].hotkey)
    assert neuron is not None
    return neuron.uid


def test_a_turn_waits_for_the_end_of_a_round_that_has_begun(tmp_path: Path) -> None:
    long = dataclasses.replace(SPEC, round_windows=2, tail_blocks=22)
    network = GradientNetwork(tmp_path, long, miners=1, validators=1)
    network.advance_to(2 * FIRST_WINDOW + 1)
    manifest = turned(network)
    assert manifest.valid_from % 60 == 0
