"""The state of the development chain as a pure function of its extrinsics.

`ChainState` is what a prefix of the extrinsic log amounts to; `apply` adds one extrinsic or says why the chain refuses it.
Nothing here reads a file or a clock, so the same rules hold when the log is replayed for a past block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grail_core.chain.base import MAX_WEIGHT, Metagraph, Neuron
from grail_core.chain.development.extrinsics import Call, Extrinsic
from grail_core.chain.development.yuma import Emission, emission
from grail_core.errors import ChainError
from grail_core.keys import ss58
from grail_core.protocol.network import MAX_COMMITMENT_BYTES
from grail_core.protocol.types import Block, Hotkey

MAX_STAKE = 2**53 - 1  # rao; the largest integer of canonical JSON, nine million TAO


@dataclass(frozen=True)
class ChainRules:
    """What a real subnet calls hyperparameters."""

    weights_rate_limit: int = 10  # blocks between two weight extrinsics of one hotkey
    max_uids: int = 256
    max_validators: int = 64
    permit_stake: int = 1_000_000_000  # rao: the least stake that earns a validator permit
    emission_per_block: int = 1_000_000_000  # rao for the whole subnet


@dataclass
class ChainState:
    """Registrations, stakes, commitments and weights after some extrinsics."""

    neurons: dict[int, tuple[Hotkey, Block]] = field(default_factory=dict)  # uid → (hotkey, registered at)
    uids: dict[Hotkey, int] = field(default_factory=dict)
    stakes: dict[Hotkey, int] = field(default_factory=dict)
    commitments: dict[Hotkey, tuple[str, Block]] = field(default_factory=dict)  # kept when a hotkey leaves, as on a real subnet
    weights: dict[Hotkey, tuple[Mapping[int, int], Block]] = field(default_factory=dict)

    def copy(self) -> ChainState:
        return ChainState(dict(self.neurons), dict(self.uids), dict(self.stakes), dict(self.commitments), dict(self.weights))

    def permitted(self, rules: ChainRules) -> frozenset[Hotkey]:
        """Hotkeys with a validator permit: the most staked ones, ties to the lower UID."""
        eligible = [(-self.stakes.get(hotkey, 0), uid, hotkey) for hotkey, uid in self.uids.items()]
        ranked = [hotkey for stake, _, hotkey in sorted(eligible) if -stake >= rules.permit_stake]
        return frozenset(ranked[: rules.max_validators])

    def metagraph(self, block: Block, rules: ChainRules) -> Metagraph:
        permits = self.permitted(rules)
        rows = []
        for uid, (hotkey, registered_at) in sorted(self.neurons.items()):
            text, committed_at = self.commitments.get(hotkey, (None, None))
            stake = self.stakes.get(hotkey, 0)
            rows.append(Neuron(uid, hotkey, stake, hotkey in permits, registered_at, text, committed_at))
        return Metagraph(block, tuple(rows))

    def emission(self, rules: ChainRules) -> Emission:
        """Shares by UID from the weights of those who hold a permit now."""
        permits = self.permitted(rules)
        rows = {self.uids[hotkey]: row for hotkey, (row, _) in self.weights.items() if hotkey in permits}
        return emission({self.uids[h]: self.stakes.get(h, 0) for h in permits}, rows)


def apply(state: ChainState, extrinsic: Extrinsic, block: Block, rules: ChainRules) -> None:
    """Change `state` by one extrinsic included in `block`; its signature was verified before.

    Raises:
        ChainError: refused, and `state` is unchanged.
    """
    hotkey, arguments = extrinsic.hotkey, extrinsic.arguments
    if extrinsic.call is Call.REGISTER:
        _register(state, hotkey, block, rules)
    elif extrinsic.call is Call.DEREGISTER:
        uid = _uid(state, hotkey)
        del state.neurons[uid], state.uids[hotkey]
        state.weights.pop(hotkey, None)
        for other, (row, at) in list(state.weights.items()):
            state.weights[other] = ({u: w for u, w in row.items() if u != uid}, at)
    elif extrinsic.call is Call.STAKE:
        _uid(state, hotkey)
        total = state.stakes.get(hotkey, 0) + _integer(arguments.get("amount"), "a stake")
        if not 0 <= total <= MAX_STAKE:
            raise ChainError(f"a stake lies between 0 and {MAX_STAKE} rao, not {total}", where=ss58(hotkey))
        state.stakes[hotkey] = total
    elif extrinsic.call is Call.COMMIT:
        _uid(state, hotkey)
        text = arguments.get("text")
        if not isinstance(text, str) or not 1 <= len(text.encode("utf-8", "surrogatepass")) <= MAX_COMMITMENT_BYTES:
            raise ChainError(f"a commitment has 1 to {MAX_COMMITMENT_BYTES} bytes of UTF-8", where=ss58(hotkey))
        state.commitments[hotkey] = (text, block)
    else:
        _set_weights(state, hotkey, arguments.get("weights"), block, rules)


def _register(state: ChainState, hotkey: Hotkey, block: Block, rules: ChainRules) -> None:
    if hotkey in state.uids:
        raise ChainError(f"this hotkey is registered already, as UID {state.uids[hotkey]}", where=ss58(hotkey))
    uid = next((uid for uid in range(rules.max_uids) if uid not in state.neurons), None)
    if uid is None:
        raise ChainError(f"the subnet is full: all {rules.max_uids} UIDs are taken", where=ss58(hotkey))
    state.neurons[uid], state.uids[hotkey] = (hotkey, block), uid


def _set_weights(state: ChainState, hotkey: Hotkey, rows: object, block: Block, rules: ChainRules) -> None:
    _uid(state, hotkey)
    if hotkey not in state.permitted(rules):
        raise ChainError(
            "this hotkey has no validator permit",
            where=ss58(hotkey),
            hint=f"a permit needs {rules.permit_stake} rao of stake and a place among the {rules.max_validators} most staked",
        )
    _, last = state.weights.get(hotkey, ({}, None))
    if last is not None and block - last < rules.weights_rate_limit:
        raise ChainError(
            f"weights were set {block - last} blocks ago; the rate limit is {rules.weights_rate_limit} blocks",
            where=ss58(hotkey),
        )
    if not isinstance(rows, list) or not rows:
        raise ChainError("weights name at least one UID", where=ss58(hotkey))
    weights: dict[int, int] = {}
    for uid, weight in rows:
        if uid not in state.neurons:
            raise ChainError(f"weights name UID {uid}, which is not registered", where=ss58(hotkey))
        if not 0 <= _integer(weight, "a weight") <= MAX_WEIGHT:
            raise ChainError(f"a weight lies between 0 and {MAX_WEIGHT}, not {weight}", where=f"UID {uid}")
        if uid in weights:
            raise ChainError(f"weights name UID {uid} twice", where=ss58(hotkey))
        weights[uid] = weight
    if not any(weights.values()):
        raise ChainError("weights are all zero", where=ss58(hotkey))
    state.weights[hotkey] = (weights, block)


def _uid(state: ChainState, hotkey: Hotkey) -> int:
    if hotkey not in state.uids:
        raise ChainError("this hotkey is not registered on the subnet", where=ss58(hotkey), hint="register it first")
    return state.uids[hotkey]


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ChainError(f"{what} is an integer, not {type(value).__name__}")
    return value
