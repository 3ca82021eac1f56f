"""What validators of a `tooling.testing.network` say without judging: verdicts with real coins, inputs and signatures."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from fractions import Fraction

from grail_core.participant.waiting import ChallengedWindow
from grail_core.participant.windows import open_challenge
from grail_core.protocol import MinerStatus, MinerVerdict, SignedVerdict, VerdictBody, Versions, WindowStatus, score_inputs
from grail_core.protocol.selection import miner_coin
from grail_core.protocol.types import Block, Digest, Window
from grail_core.storage.layout import verdict_key
from grail_core.verification.verdict import inputs_of
from tooling.testing.network import FIRST_WINDOW, Network

VERSIONS = Versions("0", "0", "0")


def opened(network: Network, window: Window = FIRST_WINDOW) -> ChallengedWindow:
    """Context and challenge; the clock goes to where both are known."""
    network.advance_to(window + 38)
    context = network.participant("trainer").open_window(window)
    return ChallengedWindow(context, open_challenge(network.chain, network.beacon, context))


def scored(
    network: Network,
    claimed: Mapping[str, tuple[bytes, MinerStatus]],
    window: Window = FIRST_WINDOW,
    chance: Fraction = Fraction(1),
) -> VerdictBody:
    """What an honest validator says that found this of these miners' files, each drawn with this chance."""
    there, metagraph = opened(network, window), network.chain.metagraph(Block(window))
    miners = []
    for miner, (data, status) in claimed.items():
        neuron = metagraph.by_hotkey(network.signers[miner].hotkey)
        assert neuron is not None
        miners.append(
            MinerVerdict(
                neuron.hotkey,
                neuron.uid,
                status,
                content_digest=Digest(hashlib.sha256(data).digest()),
                active=status is not MinerStatus.INCONCLUSIVE,
                declared=48,
                checked=status in (MinerStatus.ACCEPTED, MinerStatus.FAILED),
                check_probability=chance,
                coin=miner_coin(there.challenge.select_seed, neuron.hotkey),
            )
        )
    return VerdictBody(
        there.context.network_id,
        window,
        WindowStatus.SCORED,
        VERSIONS,
        inputs=inputs_of(there.context, there.challenge),
        miners=tuple(sorted(miners, key=lambda miner: miner.uid)),
        hotkeys={miner.uid: miner.hotkey for miner in miners},
        score_inputs={miner.uid: score_inputs([miner.miner_window(window)], window) for miner in miners},
    )


def unscored(network: Network, status: WindowStatus, window: Window = FIRST_WINDOW) -> VerdictBody:
    """What a validator says that could not judge the window."""
    return VerdictBody(network.participant("trainer").network_id, window, status, VERSIONS)


def say(network: Network, name: str, body: VerdictBody) -> SignedVerdict:
    """Put a verdict with a real signature into a validator's bucket."""
    signer = network.signers[name]
    verdict = SignedVerdict(body, signer.hotkey, signer.sign(SignedVerdict.message(body, signer.hotkey)))
    network.participant(name).own_store.put(verdict_key(body.window), verdict.encode())
    return verdict
