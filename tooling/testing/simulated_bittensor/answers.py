"""What a node answers to the reads that the SDK makes for us: storage items, maps and one runtime call, as of a block."""

from __future__ import annotations

from typing import Any

from grail_core.chain.base import Neuron
from grail_core.chain.development.local import LocalChain
from grail_core.keys import ss58
from grail_core.protocol.types import Block
from tooling.testing.simulated_bittensor.epochs import epochs_at
from tooling.testing.simulated_bittensor.faults import Nodes

COLDKEY = "5" + "C" * 47
MAX_WEIGHTS_LIMIT = 65535


def query(chain: LocalChain, nodes: Nodes, number: int, name: str, params: list[Any]) -> Any:
    """One storage item of this subnet; None of those that a subtensor has and nobody here asks for."""
    neurons = chain.metagraph(Block(number)).neurons
    epochs = epochs_at(number, nodes.tempos)
    if name == "Uids":
        return next((n.uid for n in neurons if ss58(n.hotkey) == params[1]), None)
    values: dict[str, Any] = {
        "Now": chain.block(Block(number)).timestamp_ms,
        "CommitRevealWeightsEnabled": chain.parameters.rules.reveal_blocks > 0,
        "WeightsSetRateLimit": chain.parameters.rules.weights_rate_limit,
        "LastUpdate": last_updates(neurons),
        "MinAllowedWeights": 1,
        "MaxWeightsLimit": MAX_WEIGHTS_LIMIT,
        "SubnetEpochConsensus": "Yuma",
        "Tempo": epochs.tempo,
        "RevealPeriodEpochs": 1,
        "LastEpochBlock": epochs.last_epoch_block,
        "SubnetEpochIndex": epochs.index,
        "BlocksSinceLastStep": number - epochs.last_epoch_block,
        "PendingEpochAt": 0,
    }
    return values.get(name)


def query_map(chain: LocalChain, number: int, name: str, params: list[Any]) -> list[tuple[Any, Any]]:
    """A storage map of this subnet, empty of others; commitments of hotkeys that are not registered are left out."""
    if params != [chain.netuid]:
        return []
    neurons = chain.metagraph(Block(number)).neurons
    if name == "CommitmentOf":
        return [(ss58(n.hotkey), _commitment(n)) for n in neurons if n.commitment is not None]
    if name == "TimelockedWeightCommits":
        pending = [(ss58(n.hotkey), chain.pending_weights(n.hotkey, Block(number))) for n in neurons]
        return [(0, [(hotkey, block, "0x00", 1) for hotkey, block in pending if block is not None])]
    return []


def metagraph(chain: LocalChain, nodes: Nodes, number: int) -> dict[str, Any]:
    """`SubnetInfoRuntimeApi.get_metagraph`, decoded, with the columns that the SDK needs to build its own."""
    neurons = chain.metagraph(Block(number)).neurons
    epochs = epochs_at(number, nodes.tempos)
    return {
        "netuid": chain.netuid,
        "name": "grail",
        "symbol": "g",
        "block": number,
        "tempo": epochs.tempo,
        "last_step": epochs.last_epoch_block,
        "blocks_since_last_step": number - epochs.last_epoch_block,
        "owner_hotkey": ss58(neurons[0].hotkey) if neurons else COLDKEY,
        "owner_coldkey": COLDKEY,
        "network_registered_at": 0,
        "hotkeys": [ss58(n.hotkey) for n in neurons],
        "coldkeys": [COLDKEY] * len(neurons),
        "validator_permit": [n.validator_permit for n in neurons],
        "block_at_registration": [n.registered_at for n in neurons],
        "total_stake": [n.stake for n in neurons],
        "last_update": last_updates(neurons),
    }


def last_updates(neurons: tuple[Neuron, ...]) -> list[int]:
    """0 of a UID that never set weights, as a subtensor has it."""
    return [0 if n.last_update <= n.registered_at else n.last_update for n in neurons]


def _commitment(neuron: Neuron) -> dict[str, Any]:
    raw = (neuron.commitment or "").encode("utf-8", "surrogatepass")
    fields = [{f"Raw{len(raw)}": "0x" + raw.hex()}]
    return {"block": neuron.commitment_block, "deposit": 0, "info": {"fields": fields}}
