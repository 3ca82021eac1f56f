"""What must be true of every published verdict and of every weight, whatever goes wrong. A promise broken names its seed.

It is an auditor's own count: histories and counted rollouts are built again from published verdicts and the truth about files,
never taken from a validator's ledger.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from grail_core.protocol import (
    MinerStatus,
    MinerVerdict,
    MinerWindow,
    VerdictBody,
    WindowStatus,
    score_inputs,
    weights,
)
from grail_core.protocol.constants import SCORE_MEMORY_WINDOWS, UNIQUE_HISTORY_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.context import challenge_seed
from grail_core.protocol.scores import counts_inconclusive, weights_now
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.verdict import contradictions, inputs_of
from grail_validator.simulation.subnet.faults import Fault
from grail_validator.simulation.subnet.miners import Done
from grail_validator.simulation.subnet.validator import SimulatedValidator, decoded
from grail_validator.simulation.subnet.world import World

_MEMORY = SCORE_MEMORY_WINDOWS * WINDOW_LENGTH
_STORE = (Fault.LAG, Fault.PARTITION)
_DRAWN = (MinerStatus.ACCEPTED, MinerStatus.FAILED, MinerStatus.INCONCLUSIVE)


@dataclass
class _Account:
    """Of one validator, from what it published."""

    history: dict[Hotkey, dict[int, MinerWindow]] = field(default_factory=lambda: defaultdict(dict))
    counted: dict[Hotkey, deque[tuple[int, frozenset[Digest]]]] = field(default_factory=lambda: defaultdict(deque))
    scored: set[int] = field(default_factory=set)
    published: dict[int, bytes] = field(default_factory=dict)

    def remember(self, body: VerdictBody) -> None:
        """Once each."""
        if body.window in self.scored:
            return
        self.scored.add(body.window)
        for miner in body.miners:
            entries = self.history[miner.hotkey]
            entries[body.window] = miner.miner_window(body.window)
            while entries and (oldest := min(entries)) <= body.window - 2 * _MEMORY:
                del entries[oldest]

    def of(self, hotkey: Hotkey, before: int) -> list[MinerWindow]:
        entries = self.history.get(hotkey, {})
        return [entries[window] for window in sorted(entries) if before - _MEMORY <= window < before]


@dataclass
class Promises:
    """`done` is the truth: what each miner did, by window and UID."""

    world: World
    honest: frozenset[int]  # UIDs
    validators: Sequence[SimulatedValidator]
    done: dict[int, dict[int, Done]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _accounts: dict[int, _Account] = field(default_factory=lambda: defaultdict(_Account))
    _bodies: dict[int, dict[int, VerdictBody]] = field(default_factory=dict)
    _alike: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))  # windows that two remember alike

    def check(self, validator: SimulatedValidator, raw: bytes, window: int) -> VerdictBody:
        """A verdict that has just been published, and its body."""
        account = self._accounts[validator.index]
        where = f"validator {validator.index}, window {window}"
        if window in account.published:
            self._require(account.published[window] == raw, where, "two verdicts of one window")
            return decoded(raw).body
        account.published[window] = raw
        account.published.pop(window - 2 * _MEMORY, None)
        verdict = decoded(raw)
        body = verdict.body
        self._require(verdict.verify(self.world.network_id) and body.window == window, where, "no verdict of this validator")
        adopted = validator.adopted.pop(body.window, [])
        for one in adopted:
            account.remember(one)
        told = {one.window for one in adopted}
        if told and verdict.adopted is not None:
            self._require(verdict.adopted.first <= min(told), where, f"adopted {sorted(told)}, and tells {verdict.adopted}")
        self._require(not told or verdict.adopted is not None, where, f"adopted {sorted(told)}, and does not tell it")
        self.counts[body.status.value] += 1
        self._scores(account, body, where)
        if body.status is WindowStatus.SCORED:
            self._inputs(body, where)
            for miner in body.miners:
                self._miner(validator, account, body, miner, where)
            account.remember(body)
        self._agreement(validator, body, told)
        return body

    def check_weights(self, validator: int, body: VerdictBody) -> None:
        """What stands on the chain belongs to who holds the UIDs when it is set."""
        now = self.world.weights_block[validator]
        registered = {neuron.hotkey: neuron.uid for neuron in self.world.neurons(self.world.final_at(now))}
        due = weights_now(body.weights, body.hotkeys, registered, self.world.params.burn_uid)
        self._require(self.world.weights[validator] == due, f"validator {validator}, block {now}", "weights of others")
        for uid, hotkey in body.hotkeys.items():
            if uid != self.world.params.burn_uid and hotkey not in registered:
                self.counts["recycled"] += 1
                paid = self.world.weights[validator].get(uid, 0)
                self._require(paid == 0, f"validator {validator}, block {now}", f"UID {uid} is paid for its former holder")

    def _require(self, holds: bool, where: str, broken: str) -> None:
        if not holds:
            self.broken.append(f"{where}: {broken}")

    def _inputs(self, body: VerdictBody, where: str) -> None:
        """Nothing in it contradicts the chain, the beacon or the coins."""
        context = self.world.context(body.window)
        challenge = self.world.challenge(context)
        registered = {neuron.uid: neuron.hotkey for neuron in self.world.neurons(body.window)}
        for found in contradictions(body, inputs_of(context, challenge), challenge.select_seed, registered):
            self._require(False, where, f"contradiction: {found}")

    def _scores(self, account: _Account, body: VerdictBody, where: str) -> None:
        """Scores and weights follow from published verdicts alone, each window once."""
        entries = {miner.hotkey: miner.miner_window(body.window) for miner in body.miners}
        inputs = {}
        for uid, hotkey in body.hotkeys.items():
            history = account.of(hotkey, body.window)
            inputs[uid] = score_inputs([*history, entries[hotkey]] if hotkey in entries else history, body.window)
        self._require(inputs == dict(body.score_inputs), where, "scores do not follow from its verdicts")
        if inputs:
            self._require(weights(inputs, self.world.params) == dict(body.weights), where, "weights do not follow from scores")

    def _miner(
        self, validator: SimulatedValidator, account: _Account, body: VerdictBody, miner: MinerVerdict, where: str
    ) -> None:
        done = self.done[body.window].get(miner.uid)
        excused = validator.excuses.get((body.window, miner.uid), set())
        where = f"{where}, UID {miner.uid}"
        sealed = done is not None and done.file is not None and done.in_time and not (done.deed.forged or done.deed.careless)
        honest = miner.uid in self.honest
        if miner.status is MinerStatus.ABSENT:
            self._require(
                not (sealed and honest) or bool(excused.intersection(_STORE)), where, f"absent without a fault: {miner.reason}"
            )
            return
        assert done is not None
        assert done.file is not None
        self._require(miner.content_digest == done.content_digest, where, "another file than was sealed")
        if miner.status is MinerStatus.INCONCLUSIVE:
            counted = counts_inconclusive(account.of(miner.hotkey, body.window), body.window, miner.declared)
            self._require(miner.checked == counted, where, "an inconclusive window that is counted otherwise than A7 says")
            ours = bool(excused)
            self._require(ours or done.deed.withheld, where, f"inconclusive without a fault: {miner.reason}")
            self.counts["inconclusive miners"] += 1
            return
        if miner.status not in _DRAWN:
            return
        self._drawn(account, body, miner, done, excused, where)

    def _drawn(
        self, account: _Account, body: VerdictBody, miner: MinerVerdict, done: Done, excused: set[Fault], where: str
    ) -> None:
        """Accepted or failed, as the file itself says."""
        assert done.file is not None
        assert done.content_digest is not None
        context = self.world.context(body.window)
        seed = challenge_seed(context, self.world.challenge(context), done.content_digest)
        wrong = not done.file.readable or done.file.is_seen_with(seed)
        if miner.status is MinerStatus.FAILED:
            self.counts["failed miners"] += 1
            if Fault.LAG in excused:
                self.counts["failed for a store's lag"] += 1
            self._require(wrong or done.deed.withheld or Fault.LAG in excused, where, f"failed without a fault: {miner.reason}")
            return
        self._require(not wrong, where, "accepted, though its sample shows what is wrong")
        known = account.counted[miner.hotkey]
        while known and known[0][0] <= body.window - (UNIQUE_HISTORY_WINDOWS + 1) * WINDOW_LENGTH:
            known.popleft()
        oldest = body.window - UNIQUE_HISTORY_WINDOWS * WINDOW_LENGTH
        new = frozenset(done.file.identities()).difference(*(found for window, found in known if window >= oldest))
        self._require(miner.unique_valid == len(new), where, f"{miner.unique_valid} rollouts counted, {len(new)} are new")
        known.append((body.window, new))

    def _agreement(self, validator: SimulatedValidator, body: VerdictBody, adopted: Collection[int]) -> None:
        """Validators that remember alike and met no fault say the same, byte for byte."""
        others = self._bodies.setdefault(body.window, {})
        for other, theirs in others.items():
            pair = (min(other, validator.index), max(other, validator.index))
            alike = self._alike[pair]
            remembered = range(max(0, body.window - _MEMORY), body.window, WINDOW_LENGTH)
            both = body.status is theirs.status is WindowStatus.SCORED
            faulted = body.window in validator.faulted or body.window in self.validators[other].faulted
            if both:
                self.counts["judged by two"] += 1
                self.counts["equal"] += theirs == body
                due = not faulted and alike.issuperset(remembered)
                self.counts["had to be equal"] += due
                self._require(theirs == body or not due, f"validators {pair}, window {body.window}", "bodies differ")
            if theirs == body if both else body.status is theirs.status:
                alike.add(body.window)
        for pair, windows in self._alike.items():
            if validator.index in pair:
                windows.difference_update(adopted)
        others[validator.index] = body
        self._bodies.pop(body.window - _MEMORY, None)
