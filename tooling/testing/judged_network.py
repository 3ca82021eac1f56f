"""A network in which a validator has judged a window and weights are due, and the part of the validator that sets them."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

from grail_core.protocol import SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.scores import MinerWindow, score_inputs, weights
from grail_core.protocol.types import Block, Window
from grail_core.protocol.verdicts import MinerStatus, MinerVerdict, Versions
from grail_validator.ledger import Ledger, PublishedFiles
from grail_validator.weight_setting import WeightSetting
from tooling.testing.network import FIRST_WINDOW, Network

ME, MINER = "validator-0", "miner-0"
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def judged(network: AnyNetwork, window: Window = FIRST_WINDOW) -> AnyNetwork:
    """The validator has judged a window in which two miners worked, and the chain is at a block after it."""
    network.advance_to(window + 40)
    participant = network.participant(ME)
    neurons = network.chain.metagraph(Block(window)).neurons
    rollouts = {network.signers[MINER].hotkey: 32, network.signers["miner-1"].hotkey: 16}
    miners, inputs = [], {}
    for neuron in neurons:
        worked = rollouts.get(neuron.hotkey, 0)
        if worked:
            chance = Fraction(1)
            miner = MinerVerdict(
                neuron.hotkey,
                neuron.uid,
                MinerStatus.ACCEPTED,
                active=True,
                declared=worked,
                checked=True,
                unique_valid=worked,
                check_probability=chance,
                coin=0,
            )
            miners.append(miner)
        history = [MinerWindow(window, worked, True, True, worked, False, Fraction(1))] if worked else []
        inputs[neuron.uid] = score_inputs(history, window)
    body = VerdictBody(
        network_id=participant.network_id,
        window=window,
        status=WindowStatus.SCORED,
        versions=Versions("test", "test", "test"),
        miners=tuple(miners),
        hotkeys={neuron.uid: neuron.hotkey for neuron in neurons},
        score_inputs=inputs,
        weights=weights(inputs, network.params),
    )
    signer = participant.signer
    verdict = SignedVerdict(body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey)))
    ledger_of(network).record_judged(window, body, PublishedFiles(verdict.encode(), b""), {}, {})
    return network


def ledger_of(network: Network) -> Ledger:
    participant = network.participant(ME)
    return Ledger(participant.state.ledger, network_id=participant.network_id, hotkey=participant.signer.hotkey)


def setting(network: Network, chain: object = None) -> WeightSetting:
    """The part of a validator that sets weights, as after a start."""
    participant = network.participant(ME)
    if chain is not None:
        object.__setattr__(participant, "chain", chain)
    return WeightSetting(participant, ledger_of(network))
