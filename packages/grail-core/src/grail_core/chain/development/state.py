"""The state of the development chain as a pure function of its extrinsics.

`ChainState` is what a prefix of the extrinsic log amounts to as of a block; `apply` adds one extrinsic or says why the chain
refuses it, `reveal` does what a block does by itself. Nothing here reads a file or a clock, so the same rules hold when the log
is replayed for a past block.

* **A full subnet.** Who registers there takes the UID of the neuron that earns least among those past their immunity (ties: who
  is there longest), and its former holder is unregistered; where all are immune it is refused. The first `owner_uids` are the
  subnet owner's and are never taken. A weight on a UID that was registered after the row was set or committed pays nobody.
* **Commit-reveal** (`reveal_blocks` > 0). Weights are committed in the closed form of `timelock`, for a reveal block at most
  `reveal_blocks` after the one that includes them; they are in force from that block on, without another call. `last_update`
  and the rate limit count from the commit. What does not open, or would not be taken if it were set then, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from grail_core.chain.base import MAX_WEIGHT, Metagraph, Neuron
from grail_core.chain.development.extrinsics import Arguments, Call, Extrinsic
from grail_core.chain.development.timelock import MAX_COMMIT_BYTES, open_weights
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
    immunity_blocks: int = 4096  # after its registration, for which a neuron keeps its UID on a full subnet
    owner_uids: int = 1  # from UID 0 on, which nobody loses
    reveal_blocks: int = 0  # from a weight commit to its reveal, at most; 0: weights are set in the open


MAX_PENDING = 10  # weight commits of one hotkey that wait for their reveal


@dataclass(frozen=True)
class WeightCommit:
    """Weights that nobody can read until the reveal block."""

    committed_at: Block
    reveal_at: Block
    data: bytes


@dataclass
class ChainState:
    """Registrations, stakes, commitments and weights after some extrinsics."""

    neurons: dict[int, tuple[Hotkey, Block]] = field(default_factory=dict)  # uid → (hotkey, registered at)
    uids: dict[Hotkey, int] = field(default_factory=dict)
    stakes: dict[Hotkey, int] = field(default_factory=dict)
    commitments: dict[Hotkey, tuple[str, Block]] = field(default_factory=dict)  # kept when a hotkey leaves, as on a real subnet
    weights: dict[Hotkey, tuple[Mapping[int, int], Block]] = field(default_factory=dict)  # in force, set or committed at
    updates: dict[Hotkey, Block] = field(default_factory=dict)  # when it last set weights or committed to some
    pending: dict[Hotkey, tuple[WeightCommit, ...]] = field(default_factory=dict)  # in order of their commit

    def copy(self) -> ChainState:
        return ChainState(*(dict(value) for value in vars(self).values()))

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
            update = self.updates.get(hotkey, registered_at)
            rows.append(Neuron(uid, hotkey, stake, hotkey in permits, registered_at, text, committed_at, update))
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
        _leave(state, _uid(state, hotkey))
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
    elif extrinsic.call is Call.COMMIT_WEIGHTS:
        _commit_weights(state, hotkey, arguments, block, rules)
    else:
        if rules.reveal_blocks:
            raise ChainError("weights are committed on this subnet, not set in the open", where=ss58(hotkey))
        _require_may_weigh(state, hotkey, block, rules)
        state.weights[hotkey] = (_row(state, hotkey, arguments.get("weights")), block)
        state.updates[hotkey] = block


def reveal(state: ChainState, block: Block, hash_of: Callable[[int], bytes], rules: ChainRules) -> None:
    """Bring commits that open up to `block` into force, in order of their reveal; a block does it before its extrinsics.

    Args:
        hash_of: the hash of an existing block.
    """
    due = [(c.reveal_at, c.committed_at, hotkey, c) for hotkey, waiting in state.pending.items() for c in waiting]
    for reveal_at, _, hotkey, commit in sorted((entry for entry in due if entry[0] <= block), key=lambda entry: entry[:3]):
        state.pending[hotkey] = tuple(c for c in state.pending[hotkey] if c is not commit)
        try:
            _require_permit(state, hotkey, rules)
            row = _row(state, hotkey, open_weights(commit.data, hash_of(reveal_at), hotkey))
        except ChainError:
            continue  # as a real chain does: nobody waits for an answer any more
        known = {uid: weight for uid, weight in row.items() if state.neurons[uid][1] < commit.committed_at}
        state.weights[hotkey] = (known, commit.committed_at)


def reveal_blocks_of(state: ChainState) -> set[Block]:
    """Blocks in which weights come into force by themselves."""
    return {commit.reveal_at for waiting in state.pending.values() for commit in waiting}


def _register(state: ChainState, hotkey: Hotkey, block: Block, rules: ChainRules) -> None:
    if hotkey in state.uids:
        raise ChainError(f"this hotkey is registered already, as UID {state.uids[hotkey]}", where=ss58(hotkey))
    uid = next((uid for uid in range(rules.max_uids) if uid not in state.neurons), None)
    if uid is None:
        uid = _worst(state, block, rules)
        if uid is None:
            raise ChainError(
                f"the subnet is full: all {rules.max_uids} UIDs are taken",
                where=ss58(hotkey),
                hint=f"a UID is free for others {rules.immunity_blocks} blocks after its registration",
            )
        _leave(state, uid)
    state.neurons[uid], state.uids[hotkey] = (hotkey, block), uid


def _worst(state: ChainState, block: Block, rules: ChainRules) -> int | None:
    """The UID that a new registration takes on a full subnet; None where everybody is immune."""
    share = state.emission(rules).share
    candidates = [
        (share.get(uid, 0), registered_at, uid)
        for uid, (_, registered_at) in state.neurons.items()
        if uid >= rules.owner_uids and block - registered_at >= rules.immunity_blocks
    ]
    return min(candidates)[2] if candidates else None


def _leave(state: ChainState, uid: int) -> None:
    """Unregister whoever holds a UID; its stake and its commitment stay with the hotkey."""
    hotkey, _ = state.neurons.pop(uid)
    for held in (state.uids, state.weights, state.updates, state.pending):
        held.pop(hotkey, None)
    for other, (row, at) in list(state.weights.items()):
        state.weights[other] = ({u: w for u, w in row.items() if u != uid}, at)


def _require_permit(state: ChainState, hotkey: Hotkey, rules: ChainRules) -> None:
    _uid(state, hotkey)
    if hotkey not in state.permitted(rules):
        raise ChainError(
            "this hotkey has no validator permit",
            where=ss58(hotkey),
            hint=f"a permit needs {rules.permit_stake} rao of stake and a place among the {rules.max_validators} most staked",
        )


def _require_may_weigh(state: ChainState, hotkey: Hotkey, block: Block, rules: ChainRules) -> None:
    _require_permit(state, hotkey, rules)
    last = state.updates.get(hotkey)
    if last is not None and block - last < rules.weights_rate_limit:
        raise ChainError(
            f"weights were set {block - last} blocks ago; the rate limit is {rules.weights_rate_limit} blocks",
            where=ss58(hotkey),
        )


def _row(state: ChainState, hotkey: Hotkey, rows: object) -> dict[int, int]:
    """Weights by UID from what somebody sent or committed to."""
    if not isinstance(rows, list) or not rows:
        raise ChainError("weights name at least one UID", where=ss58(hotkey))
    weights: dict[int, int] = {}
    for uid, weight in _pairs(rows, hotkey):
        if uid not in state.neurons:
            raise ChainError(f"weights name UID {uid}, which is not registered", where=ss58(hotkey))
        if not 0 <= _integer(weight, "a weight") <= MAX_WEIGHT:
            raise ChainError(f"a weight lies between 0 and {MAX_WEIGHT}, not {weight}", where=f"UID {uid}")
        if uid in weights:
            raise ChainError(f"weights name UID {uid} twice", where=ss58(hotkey))
        weights[uid] = _integer(weight, "a weight")
    if not any(weights.values()):
        raise ChainError("weights are all zero", where=ss58(hotkey))
    return weights


def _pairs(rows: Iterable[object], hotkey: Hotkey) -> list[tuple[int, object]]:
    pairs = []
    for pair in rows:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ChainError("weights are pairs of a UID and a weight", where=ss58(hotkey))
        pairs.append((_integer(pair[0], "a UID"), pair[1]))
    return pairs


def _commit_weights(state: ChainState, hotkey: Hotkey, arguments: Arguments, block: Block, rules: ChainRules) -> None:
    if not rules.reveal_blocks:
        raise ChainError("weights are set in the open on this subnet, not committed", where=ss58(hotkey))
    _require_may_weigh(state, hotkey, block, rules)
    text, reveal_at = arguments.get("commit"), _integer(arguments.get("reveal"), "a reveal block")
    if not isinstance(text, str) or not 0 < len(text) <= 2 * MAX_COMMIT_BYTES:
        raise ChainError(f"a weight commit has 1 to {MAX_COMMIT_BYTES} bytes", where=ss58(hotkey))
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise ChainError("a weight commit is hexadecimal text", where=ss58(hotkey)) from error
    if not block < reveal_at <= block + rules.reveal_blocks:
        raise ChainError(
            f"the reveal block {reveal_at} is not one of the {rules.reveal_blocks} after block {block}", where=ss58(hotkey)
        )
    waiting = state.pending.get(hotkey, ())
    if len(waiting) >= MAX_PENDING:
        raise ChainError(f"{len(waiting)} weight commits wait for their reveal already", where=ss58(hotkey))
    state.pending[hotkey] = (*waiting, WeightCommit(block, Block(reveal_at), data))
    state.updates[hotkey] = block


def _uid(state: ChainState, hotkey: Hotkey) -> int:
    if hotkey not in state.uids:
        raise ChainError("this hotkey is not registered on the subnet", where=ss58(hotkey), hint="register it first")
    return state.uids[hotkey]


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ChainError(f"{what} is an integer, not {type(value).__name__}")
    return value
