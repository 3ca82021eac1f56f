"""One validator of a simulated subnet: the shell around the real decisions, as `grail_validator.service` is on a machine.

What it decides is `steps`, `judging` and the ledger; in between are only questions to a virtual chain and virtual stores, each
of which may fail, and writes, at each of which its process may end. It is asked once a block.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from grail_core.checkpoints.pinned_table import shipped
from grail_core.errors import BeaconError, ChainError, ProtocolViolationError, StorageError
from grail_core.files.evidence import write_evidence
from grail_core.keys import LocalSigner
from grail_core.participant.outcomes import Void
from grail_core.proof.calibration import Shape
from grail_core.protocol import Seal, SignedVerdict, VerdictBody, WindowStatus, weights_now
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_validator import steps
from grail_validator.adoption import MAX_ASKED
from grail_validator.cases import Announcement, Case, Docket, Means, Sighting, Standing, WindowResult, WindowStage
from grail_validator.first_sight import MAX_TRIES, UNREADABLE
from grail_validator.judging import open_docket, stored_in_time
from grail_validator.ledger import Ledger, PublishedFiles
from grail_validator.simulation.subnet.faults import Fault
from grail_validator.simulation.subnet.made_up_files import Examiner, NoEnvironment, NoRenderer, Seed
from grail_validator.simulation.subnet.memory_ledger import MemoryLedger
from grail_validator.simulation.subnet.miners import file_key, seal_key
from grail_validator.simulation.subnet.world import World, verdict_key
from grail_validator.steps import Buckets, PublishedRecord, ResultRecord, SightingsRecord, Step, StoreAnswer, Turn, Unreadable

_WRITES = frozenset(
    (
        *("record_sighting", "record_sightings", "begin_work", "note_work", "end_work", "record_measured", "record_judged"),
        *("record_published", "adopt_scores", "record_weights"),
    )
)
_FILES_A_BLOCK = 16
_FETCH_BLOCKS = 5  # after the challenge, in which a file is asked for
_SHAPE = Shape(1, 64)


class Killed(BaseException):
    """The process has ended: nothing of it runs any more, whoever catches errors."""


class MortalLedger:
    """A ledger whose n-th write ends the process, before or after it; once dead, nothing is written any more."""

    def __init__(self, inner: Ledger | MemoryLedger, ends: Callable[[int], str | None], count: int) -> None:
        self._inner, self._ends, self.count, self.dead = inner, ends, count, False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _WRITES:
            return found

        def write(*arguments: Any) -> Any:
            if self.dead:
                raise Killed
            self.count += 1
            how = self._ends(self.count)
            if how == "before":
                self.dead = True
                raise Killed
            answer = found(*arguments)
            if how == "after":
                self.dead = True
                raise Killed
            return answer

        setattr(self, name, write)
        return write


@dataclass
class Fetching:
    """The drawn files of one window, asked for block by block."""

    context: WindowContext
    challenge: Challenge
    docket: Docket
    standing: Standing
    since: int
    had: dict[Hotkey, bytes] = field(default_factory=dict)


@dataclass
class Process:
    """What ends with the process."""

    ledger: Any  # a MortalLedger: the real one's calls, any of which may be the last
    next_sight: Window
    next_judge: Window
    asked: Counter[Window] = field(default_factory=Counter)
    tries: Counter[Hotkey] = field(default_factory=Counter)
    fetching: Fetching | None = None


@lru_cache(maxsize=256)
def decoded(raw: bytes) -> SignedVerdict:
    """As `SignedVerdict.decode`, of bytes that several read."""
    return SignedVerdict.decode(raw)


@dataclass
class SimulatedValidator:
    """`said` gets a line for everything that happens to it."""

    index: int
    signer: LocalSigner
    world: World
    ledger: Ledger | MemoryLedger
    said: Callable[[str], None]
    excuses: dict[tuple[int, int], set[Fault]] = field(default_factory=lambda: defaultdict(set))  # by window and UID
    faulted: set[int] = field(default_factory=set)  # windows
    adopted: dict[Window, list[VerdictBody]] = field(default_factory=lambda: defaultdict(list))  # by what was judged then
    process: Process | None = None
    writes: int = 0
    up_at: int = 0
    weighed: VerdictBody | None = None  # whose weights it set last

    def act(self) -> None:
        """What it does in the world's newest block."""
        if self.world.now < self.up_at or self.world.now % (1 + self.world.faults.late_by(self.index, self.world.now)):
            return
        try:
            self._act()
        except Killed:
            assert self.process is not None
            self.writes = self.process.ledger.count
            down = self.world.faults.down_for(self.index, self.writes)
            self.up_at, self.process = self.world.now + down, None
            self.said(f"killed at write {self.writes}, down for {down} blocks")

    def _act(self) -> None:
        try:
            head = self.world.current_block(self.index)
        except ChainError:
            return
        if self.process is None:
            self._start(head)
        process = self._running
        self._first_sight(head)
        while process.next_judge < process.next_sight:
            self._publish_the_rest()
            if not self._advance(process.next_judge):
                break
            process.next_judge = Window(process.next_judge + WINDOW_LENGTH)
        self._set_weights()

    @property
    def _running(self) -> Process:
        assert self.process is not None
        return self.process

    def _start(self, head: int) -> None:
        def ends(write: int) -> str | None:
            return self.world.faults.killed(self.index, write, self.world.now)

        current = Window(head - head % WINDOW_LENGTH)
        first = steps.first_window(current, self.ledger.last_judged(), self.ledger.record_beginning(current))
        self.process = Process(MortalLedger(self.ledger, ends, self.writes), first, first)
        self._publish_the_rest()

    def excuse(self, window: int, uid: int, fault: Fault) -> None:
        """A fault has done something to one miner's window here."""
        self.excuses[window, uid].add(fault)
        self.faulted.add(window)

    # --- first sight ----------------------------------------------------------------------------------------------------

    def _first_sight(self, head: int) -> None:
        """Seals of every window whose first sight has begun; what is over is missed."""
        process = self._running
        while head >= self.world.times(process.next_sight).deadline_block:
            window, last_block = process.next_sight, self.world.times(process.next_sight).first_sight_end_block
            if process.ledger.stage(window) is WindowStage.UNSEEN and head <= last_block and not self._sighted(window, head):
                return
            if process.ledger.stage(window) is WindowStage.UNSEEN:
                self.said(f"window {window}: missed first sight")
            process.next_sight, process.tries = Window(window + WINDOW_LENGTH), Counter()

    def _sighted(self, window: Window, head: int) -> bool:
        """Ask who has not answered. Whether first sight is over."""
        process, times = self._running, self.world.times(window)
        neurons = self.world.neurons(window)
        before = {sighting.hotkey for sighting in process.ledger.sightings_so_far(window)}
        waiting = []
        for neuron in neurons:
            if neuron.hotkey in before:
                continue
            if process.tries[neuron.hotkey] >= MAX_TRIES:
                waiting.append(neuron)
                continue
            process.tries[neuron.hotkey] += 1
            lag = self.world.faults.lag(self.index, neuron.uid, window)
            try:
                there = self.world.read(self.index, neuron.hotkey, seal_key(window), lag)
            except StorageError:
                self.excuse(window, neuron.uid, Fault.PARTITION)
                waiting.append(neuron)
                continue
            if lag:
                self.excuse(window, neuron.uid, Fault.LAG)
            seen = Sighting(neuron.hotkey, there.data, there.stored_at_ms) if there is not None else Sighting(neuron.hotkey)
            process.ledger.record_sighting(window, seen)
        if any(process.tries[neuron.hotkey] < MAX_TRIES for neuron in waiting) and head < times.first_sight_end_block:
            return False
        late = tuple(Sighting(neuron.hotkey, reason=UNREADABLE) for neuron in waiting)
        nothing = len(late) == len(neurons)
        taken = steps.sight(
            WindowStage.UNSEEN, Buckets(late, Block(times.first_sight_end_block + nothing), times.first_sight_end_block)
        )
        if isinstance(taken.record, SightingsRecord):
            process.ledger.record_sightings(window, taken.record.sightings)
            sightings = process.ledger.sightings(window) or ()
            seals = sum(one.seal is not None for one in sightings)
            self.said(f"window {window}: first sight, {seals} seals of {len(neurons)}, {len(late)} late")
        return True

    # --- judging --------------------------------------------------------------------------------------------------------

    def _advance(self, window: Window) -> bool:
        """One window as far as it goes now. Whether it is judged."""
        process = self._running
        stage = process.ledger.stage(window)
        if stage in (WindowStage.JUDGED, WindowStage.PUBLISHED):
            self._carry_out(window, steps.step(window, stage, Turn()))
            return True
        if stage is WindowStage.UNSEEN:
            self._carry_out(window, steps.step(window, stage, Turn(), self._standing(window)))
            return True
        event = self._case(window)
        if event is None:
            return False
        standing = event.standing if isinstance(event, Case) else self._standing(window)
        taken = steps.step(window, stage, event, standing)
        process.ledger.end_work(window)
        process.fetching = None
        self._carry_out(window, taken)
        return True

    def _standing(self, window: Window) -> Standing:
        self._adopt(window)
        neurons = self.world.neurons(window)
        sighted = {sighting.hotkey for sighting in self._running.ledger.sightings(window) or ()}
        memory = self._running.ledger.memory(window, sighted | {neuron.hotkey for neuron in neurons})
        return Standing(self.world.network_id, self.world.params, neurons, memory)

    def _case(self, window: Window) -> Case | Void | Unreadable | None:
        """Everything to judge a sighted window with, or why there is not; None: not yet."""
        process, world = self._running, self.world
        if process.fetching is None:
            times = world.times(window)
            try:
                if world.finalised_block(self.index) < times.challenge_block:
                    return None
                for block in (times.seed_beacon_block, times.challenge_block):
                    world.round_at(block)
            except BeaconError as error:
                return self._void(window, error.what)
            except ChainError:
                return None
            context = world.context(window)
            challenge, standing = world.challenge(context), self._standing(window)
            docket = open_docket(context, challenge, self._announcements(window), standing.memory, _SHAPE, shipped().table)
            process.fetching = Fetching(context, challenge, docket, standing, world.now)
        fetching = process.fetching
        if not self._fetched(window, fetching):
            return None
        begun = process.ledger.begin_work(window)
        if begun.hopeless:
            return Unreadable("this validator's process ended twice while it judged this window")
        for one in fetching.docket.drawn:
            if one.entry.neuron.hotkey in begun.given_up:
                self.excuse(window, one.entry.neuron.uid, Fault.RESTART)
        measured = process.ledger.measured(window)
        means = self._means(window, fetching.docket)
        files = _Files(self, window, fetching.had)
        return Case(
            *(fetching.context, fetching.challenge, fetching.docket, fetching.standing, means),
            *(files, begun.given_up, measured),
            line_holds=files.line_holds,
        )

    def _void(self, window: Window, reason: str) -> Void | None:
        try:
            over = self.world.current_block(self.index) > self.world.times(window).void_block
        except ChainError:
            return None
        return Void(f"an input could not be had in time: {reason}") if over else None

    def _announcements(self, window: Window) -> tuple[Announcement, ...]:
        start, deadline = self.world.time_ms(window), self.world.time_ms(window + WINDOW_LENGTH)
        sightings = {sighting.hotkey: sighting for sighting in self._running.ledger.sightings(window) or ()}
        return tuple(
            Announcement(neuron, seen, stored_in_time(seen, start, deadline))
            for neuron in self.world.neurons(window)
            if (seen := sightings.get(neuron.hotkey)) is not None
        )

    def _fetched(self, window: Window, fetching: Fetching) -> bool:
        """Ask for some more of the drawn files. Whether all came, or the time for it is over."""
        missing = [one for one in fetching.docket.drawn if one.entry.neuron.hotkey not in fetching.had]
        for one in missing[:_FILES_A_BLOCK]:
            neuron = one.entry.neuron
            lag = self.world.faults.lag(self.index, neuron.uid, window)
            try:
                there = self.world.read(self.index, neuron.hotkey, file_key(window), lag)
            except StorageError:
                self.excuse(window, neuron.uid, Fault.PARTITION)
                continue
            if there is not None and hashlib.sha256(there.data).digest() == one.seal.content_digest:
                fetching.had[neuron.hotkey] = there.data
            elif lag:
                self.excuse(window, neuron.uid, Fault.LAG)
        return len(fetching.had) == len(fetching.docket.drawn) or self.world.now >= fetching.since + _FETCH_BLOCKS

    def _means(self, window: Window, docket: Docket) -> Means:
        ledger, broken = self._running.ledger, set()
        for one in docket.drawn:
            neuron = one.entry.neuron
            if self.world.faults.machine_fails(self.index, window, neuron.uid):
                self.excuse(window, neuron.uid, Fault.MACHINE)
                broken.add(neuron.hotkey)
        return Means(
            environment=NoEnvironment(),
            renderer=NoRenderer(),
            vocabulary_size=1,
            context_length=1,
            shape=_SHAPE,
            pinned=shipped(),
            sampling=Seed,
            examine=Examiner(broken),
            working=lambda hotkey: ledger.note_work(window, hotkey),
            keep=lambda measured: ledger.record_measured(window, measured),
            unforeseen=_raise,
        )

    def _adopt(self, before: Window) -> None:
        """Fill what it did not score from the verdicts of the first validator besides it, which has the most stake."""
        process = self._running
        leader = self.world.validators[int(self.index == 0)] if len(self.world.validators) > 1 else None
        for window in process.ledger.unremembered(before) if leader else ():
            if process.asked[window] >= MAX_ASKED or leader is None:
                continue
            process.asked[window] += 1
            try:
                there = self.world.read(self.index, leader.hotkey, verdict_key(window))
                verdict = decoded(there.data) if there is not None else None
            except (StorageError, ProtocolViolationError):
                continue
            scored = verdict is not None and verdict.body.status is WindowStatus.SCORED
            if verdict is not None and scored and verdict.verify(self.world.network_id):
                try:
                    process.ledger.adopt_scores(verdict.body, leader.hotkey)
                finally:  # a process that ends right after it has adopted it
                    if window not in self.ledger.unremembered(before):
                        self.adopted[before].append(verdict.body)
                        self.said(f"window {window}: adopted before judging {before}")

    # --- what a step asks for -------------------------------------------------------------------------------------------

    def _carry_out(self, window: Window, taken: Step) -> None:
        if isinstance(taken.record, ResultRecord):
            self._record(window, taken.record.result)
        elif isinstance(taken.record, PublishedRecord):
            self._running.ledger.record_published(window)
        if taken.publications:
            self._carry_out(window, steps.step(window, taken.stage, self._publish(window)))

    def _record(self, window: Window, result: WindowResult) -> None:
        body, hotkey, ledger = result.body, self.signer.hotkey, self._running.ledger
        evidence, adopted = write_evidence(result.evidence), ledger.untold()
        digest = Digest(hashlib.sha256(evidence).digest())
        signature = self.signer.sign(SignedVerdict.message(body, hotkey, digest, adopted))
        verdict = SignedVerdict(body, hotkey, signature, digest, adopted)
        ledger.record_judged(window, body, PublishedFiles(verdict.encode(), evidence), result.counted, result.classes)
        counts = Counter(miner.status.value for miner in body.miners)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        became = f"{body.status.value} ({body.reason})" if body.reason else body.status.value
        self.said(f"window {window}: {became}; {told}; body {body.digest().hex()}")

    def _publish(self, window: Window) -> StoreAnswer:
        files = self._running.ledger.files(window)
        assert files is not None
        there = self.world.buckets.get(self.signer.hotkey, {}).get(verdict_key(window))
        try:
            if there is None or there.data != files.verdict:
                self.world.publish(self.index, window, files.verdict)
        except StorageError:
            return StoreAnswer.FAILED
        return StoreAnswer.TOOK_ALL

    def _publish_the_rest(self) -> None:
        for window in self._running.ledger.unfinished():
            self._carry_out(window, steps.step(window, WindowStage.JUDGED, Turn()))

    def _set_weights(self) -> None:
        """As often as the network says; what the chain shows afterwards decides whether it was done."""
        ledger, world = self._running.ledger, self.world
        window = ledger.last_judged()
        files = ledger.files(window) if window is not None else None
        if files is None:
            return
        try:
            shown = world.last_update(self.index)
            if not steps.Weights(window, {0: 1}, {}, None if shown is None else Block(shown)).due(
                Block(world.now), world.params.weight_interval
            ):
                return
            body = decoded(files.verdict).body
            registered = {neuron.hotkey: neuron.uid for neuron in world.neurons(world.final_at(world.now))}
            setting = weights_now(body.weights, body.hotkeys, registered, world.params.burn_uid)
            world.set_weights(self.index, setting)
            done = world.last_update(self.index) == world.now
        except ChainError:
            return
        if done:
            self.weighed = body
        ledger.record_weights(Block(world.now))
        told = hashlib.sha256(repr(sorted(setting.items())).encode()).hexdigest()[:16]
        self.said(f"weights of window {window} {'set' if done else 'not on the chain, though it said so'}: {told}")


def _raise(_hotkey: Hotkey, error: Exception) -> None:
    raise error


@dataclass(frozen=True)
class _Files:
    """`SealedFiles` over what was fetched and what other validators have shared."""

    validator: SimulatedValidator
    window: Window
    had: Mapping[Hotkey, bytes]

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        return self.had.get(hotkey)

    def elsewhere(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        for other in self.validator.world.validators:
            try:
                there = self.validator.world.read(self.validator.index, other.hotkey, shared_key(seal.content_digest))
            except StorageError:
                return None
            if there is not None:
                return there.data
        try:
            there = self.validator.world.read(self.validator.index, hotkey, file_key(self.window))
        except StorageError:
            return None
        same = there is not None and hashlib.sha256(there.data).digest() == seal.content_digest
        return there.data if there is not None and same else None

    def line_holds(self) -> bool:
        return not self.validator.world.faults.partitioned(self.validator.index, self.validator.world.now)

    def share(self, hotkey: Hotkey, seal: Seal, data: bytes) -> None:
        try:
            self.validator.world.put_own(self.validator.index, shared_key(seal.content_digest), data)
        except StorageError:
            return  # as the real shelf: it is put again with the verdict


def shared_key(digest: Digest) -> str:
    return f"files/{digest.hex()}"
