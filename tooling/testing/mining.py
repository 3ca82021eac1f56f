"""The miner of a `tooling.testing.network`: the shipped one, by hand, window file by window file."""

from __future__ import annotations

from collections.abc import Sequence

from grail_core.checkpoints.loaded import LiveCheckpoint, LoadedCheckpoint
from grail_core.keys import ss58
from grail_core.protocol import Seal
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Window
from grail_core.storage.layout import seal_key, window_key
from grail_miner.mining import Mining
from tooling.testing.network import Network


def mining_of(network: Network, name: str, factory: type[Mining] = Mining) -> Mining:
    """What the participant mines with; `factory` is a miner that differs from the shipped one in one step."""
    checkpoint = LiveCheckpoint(network.participant(name).checkpoints)
    return factory(network.signers[name], checkpoint, network.environment_of)


def loaded_by(mining: Mining, context: WindowContext) -> LoadedCheckpoint:
    """The window's model, which the miner's own process holds."""
    loaded = mining.select_model(context)
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


def mine(network: Network, mining: Mining, window: Window, groups: Sequence[int]) -> bytes:
    """The window file of these groups, not uploaded."""
    context = network.participant("trainer").open_window(window)
    loaded = mining.select_model(context)
    return mining.pack(context, loaded, mining.produce_groups(context, loaded, groups))


def upload(network: Network, mining: Mining, name: str, data: bytes, window: Window) -> Seal:
    """The file, then its seal, into the participant's bucket, as the shipped miner does."""
    participant = network.participant(name)
    seal = mining.seal(participant.open_window(window), data)
    own = ss58(participant.signer.hotkey)
    participant.own_store.put(window_key(own, window), data)
    participant.own_store.put(seal_key(own, window), seal.encode())
    return seal
