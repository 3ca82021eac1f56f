"""A round that honest miners played in a `GradientNetwork`, up to its second sight, as whoever judges sees it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from grail_core.chain.base import Neuron
from grail_core.participant.round_models import RoundModel
from grail_core.protocol.context import Challenge
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.records import ZERO_ROOT
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.storage.layout import opening_key, seal_key, update_key
from grail_core.verification.gradient.files import Revealed, Round, Sealer, StoredObject, examine_file
from grail_core.verification.gradient.measure import RoundScene
from grail_envs.corpus.bytes_1 import Bytes1
from grail_miner.gradient.training import Training
from tooling.testing.gradient_network import GradientNetwork

_MOST = 64 << 20


@dataclass(frozen=True)
class PlayedRound:
    """Everybody's objects, and what they are judged with."""

    network: GradientNetwork
    context: RoundContext
    challenge: Challenge
    model: RoundModel
    neurons: tuple[Neuron, ...]

    @property
    def round(self) -> Round:
        reveal_ms = self.network.block_time_ms(self.context.times.reveal_block)
        return Round(self.context, self.challenge, self.model.layout, self.model.theta, reveal_ms)

    @property
    def scene(self) -> RoundScene:
        model, compared = self.model, self.network.models.alternatives(self.model)
        return RoundScene(self.context, model.theta, model.layout, model.trained, model.policy, Bytes1(), compared)

    def neuron(self, name: str) -> Neuron:
        hotkey = self.network.signers[name].hotkey
        return next(one for one in self.neurons if one.hotkey == hotkey)

    def objects(self, name: str) -> tuple[StoredObject, StoredObject, StoredObject]:
        """Seal, update and opening in a participant's bucket."""
        store = self.network.participant(name).own_store
        address, found = self.network.signers[name].ss58, []
        for key_of in (seal_key, update_key, opening_key):
            key = key_of(address, self.context.round)
            info = store.head(key)
            if info is None:
                found.append(StoredObject())
            else:
                found.append(StoredObject(store.get(key, max_bytes=_MOST), info.stored_at_ms))
        return found[0], found[1], found[2]

    def revealed(self, name: str, feedback: Digest = ZERO_ROOT) -> Revealed:
        """The miner's file, through checks 2 to 5."""
        seal, update, opening = self.objects(name)
        neuron = self.neuron(name)
        assert seal.data is not None
        sealer = Sealer(neuron.uid, Hotkey(neuron.hotkey), GradientSeal.decode(seal.data), feedback)
        examined = examine_file(self.round, sealer, update, opening)
        if examined.revealed is None:
            raise AssertionError(f"{name}'s file of round {self.context.round} is refused: {examined.findings}")
        return examined.revealed


def play_round(
    network: GradientNetwork,
    names: Sequence[str],
    first: Window,
    *,
    batch: int = 4,
    factories: Mapping[str, type[Training]] | None = None,
    silent: Collection[str] = (),
    unopened: Collection[str] = (),
) -> PlayedRound:
    """These miners train, seal, reveal and open; the clock ends in the round's second sight.

    Args:
        factories: how those train who are not honest. silent: who seals and shows nothing. unopened:
            who shows the update alone.
    """
    stop = threading.Event()
    network.advance_to(first + 2)
    context = network.round(first)
    miners = [network.miner(name, (factories or {}).get(name, Training), batch) for name in names]
    pending = [miner.prepare(context, stop) for miner in miners]
    for miner, work in zip(miners, pending, strict=True):
        assert work is not None
        assert miner.seal(context, work)
    shown = [entry for entry in zip(names, miners, pending, strict=True) if entry[0] not in silent]
    network.advance_to(context.times.first_sight_end_block + 1)
    for _, miner, work in shown:
        assert work is not None
        miner.reveal(context, work)
    network.advance_to(context.times.challenge_block + 1)
    challenge = network.challenge(context)
    for name, miner, work in shown:
        assert work is not None
        assert name in unopened or miner.open(context, challenge, work)
        miner.settle(context)
    network.advance_to(context.times.reveal_block + 1)
    neurons = tuple(network.participant("trainer").miners_at(first))
    return PlayedRound(network, context, challenge, network.models.at(context.manifest), neurons)
