"""What the validators say of a window: their verdicts, read from their buckets and held against the chain.

A validator speaks with a signed verdict in its own bucket and is trusted if it held a permit, stake and a bucket at block T.
A verdict that contradicts the finalised chain, the beacon or its own coins is told and ignored whole. What follows from those
that count is in `quorum`. Nobody's word is taken for the bytes: they are hashed (`wanted_files`), and every rollout is
verified again by whoever learns from it (`batch`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from grail_core.chain.base import Neuron, seconds_of
from grail_core.errors import ChainError, StorageError
from grail_core.files.verdicts import RefusedVerdictError, VerdictReader
from grail_core.keys import ss58
from grail_core.participant.outcomes import Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import ChallengedWindow, until_had, wait_for_challenge
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.quorum import accepted_digests, half_scored, scored_stake, settled
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.time_limits import at_most
from grail_core.telemetry import get_logger
from grail_core.verification.verdict import contradictions, inputs_of

log = get_logger(__name__)

MIN_PAUSE_SECONDS = 0.2
"""Between two looks at the validators' buckets."""
PATIENCE_BLOCKS: Final = 20
"""After so many blocks beyond the challenge, who has not spoken is no longer waited for if half of the stake has scored."""

TOO_OLD: Final = "its rollouts are too old to learn from"

QUICK_SECONDS: Final = 5.0
"""That a validator's store gets to answer, among the others."""
SLOW_SECONDS: Final = 60.0
"""That it gets when it is the slow one whose turn it is: one in each round, so that no number of them holds up the others."""
MAX_QUICK_SECONDS: Final = 1.0
"""Who takes longer to give no verdict is slow, until it is seen to be quick."""


@dataclass(frozen=True)
class WantedFile:
    """A file that the quorum accepted. `holders` accepted it and have it in their buckets, those with the most stake first."""

    hotkey: Hotkey  # of the miner
    content_digest: Digest
    holders: tuple[Neuron, ...]


@dataclass(frozen=True)
class Intake:
    """What validators say of one window. `wanted` is in order of hotkey; `reason` says why it is empty.

    `ask_rest` hears who had not spoken when the window was decided, which changes no decision, and gives `wanted` with whoever
    of them has the files too.
    """

    window: Window
    context: WindowContext | None = None  # None where the window could not be opened, or is too old
    verdicts: Mapping[Hotkey, SignedVerdict] = field(default_factory=dict)  # those that count
    wanted: tuple[WantedFile, ...] = ()
    reason: str = ""
    ask_rest: Callable[[], tuple[WantedFile, ...]] = tuple


class VerdictListener:
    """Reads verdicts from the validators' buckets."""

    def __init__(self, participant: Participant, *, max_windows_old: int) -> None:
        self._participant = participant
        self._max_windows_old = max_windows_old

    def wait(self, window: Window, stop: threading.Event) -> Intake | Stopped:
        """The window's intake once the validators have spoken, or no longer matter."""
        had = until_had(
            self._participant, window, stop, partial(self._block_after_challenge, window, stop), too_late=lambda: False
        )
        if isinstance(had, Stopped):
            return had
        if isinstance(had, Void) or had.value >= self.too_late(window):
            return _too_old(window)
        opened = wait_for_challenge(self._participant, window, stop)
        if isinstance(opened, Stopped):
            return opened
        if isinstance(opened, Void):
            return Intake(window, reason=opened.reason)
        return self._listen(opened.value, stop)

    def _block_after_challenge(self, window: Window, stop: threading.Event) -> Block | None:
        there = self._participant.wait_for_block(self._participant.times(window).challenge_block, stop)
        return self._participant.chain.current_block() if there else None

    def too_late(self, window: Window) -> Block:
        """From this block on the window's rollouts are not learned from."""
        return Block(window + (self._max_windows_old + 1) * WINDOW_LENGTH)

    def _listen(self, opened: ChallengedWindow, stop: threading.Event) -> Intake | Stopped:
        participant, window = self._participant, opened.context.window
        impatient = participant.times(window).challenge_block + PATIENCE_BLOCKS
        pause = max(MIN_PAUSE_SECONDS, seconds_of(0.25, participant.params.block_time_ms))
        ear: _Ear | None = None
        while not stop.is_set():
            try:
                block = participant.chain.current_block()
                ear = ear or _Ear(participant, opened)
            except ChainError as error:
                log.event("window_input_late", window=window, reason=error.what)
                stop.wait(pause)
                continue
            if block >= self.too_late(window):
                return _too_old(window)
            if not ear.stake:
                return Intake(window, reason="no validator had a permit, stake and a bucket when the window began")
            if ear.listen(stop) or (block >= impatient and half_scored(ear.verdicts, ear.stake)):
                return ear.intake()
            stop.wait(pause)
        return Stopped()


class _Ear:
    """Listens to the validators of one window, those with the most stake first."""

    def __init__(self, participant: Participant, opened: ChallengedWindow) -> None:
        """Raises ChainError."""
        self._participant, self._opened = participant, opened
        self.window = opened.context.window
        neurons = participant.chain.metagraph(Block(self.window)).neurons
        self._registered = {neuron.uid: neuron.hotkey for neuron in neurons}
        trusted = [n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None]
        self._trusted = sorted(trusted, key=lambda neuron: (-neuron.stake, neuron.hotkey))
        self.stake = {neuron.hotkey: neuron.stake for neuron in trusted}
        self.verdicts: dict[Hotkey, SignedVerdict] = {}
        self._ignored: set[Hotkey] = set()
        self._reader = VerdictReader(participant.network_id)  # remembers what was refused
        self._complaints: set[Hotkey] = set()
        self._slow: dict[Hotkey, int] = {}  # and how often it was its turn

    def listen(self, stop: threading.Event) -> bool:
        """Ask whoever has not spoken; True once nobody who is left could change anything: then they are not even asked."""
        for neuron in self._trusted:
            if stop.is_set():
                return False
            if settled(self.verdicts, self.stake, self._silent()):
                return True
            if neuron.hotkey in self._silent() and neuron.hotkey not in self._slow:
                self._ask(neuron, QUICK_SECONDS)
        if not settled(self.verdicts, self.stake, self._silent()):
            self._ask_a_slow_one()
        return settled(self.verdicts, self.stake, self._silent())

    def _ask_a_slow_one(self) -> None:
        """Whose turn came least often, and of those the one with the most stake."""
        slow = [neuron for neuron in self._trusted if neuron.hotkey in self._silent() and neuron.hotkey in self._slow]
        if slow:
            neuron = min(slow, key=lambda neuron: self._slow[neuron.hotkey])
            self._slow[neuron.hotkey] += 1
            self._ask(neuron, SLOW_SECONDS)

    def intake(self) -> Intake:
        """What the verdicts that count come to."""
        wanted = accepted_digests(self.verdicts, self.stake)
        return Intake(
            self.window,
            self._opened.context,
            dict(self.verdicts),
            self._files(wanted),
            "" if wanted else self._why_none(),
            partial(self._ask_rest, wanted),
        )

    def _ask_rest(self, wanted: Mapping[Hotkey, Digest]) -> tuple[WantedFile, ...]:
        for neuron in self._trusted:
            if neuron.hotkey in self._silent() and neuron.hotkey not in self._slow:
                self._ask(neuron, QUICK_SECONDS)
        return self._files(wanted)

    def _files(self, wanted: Mapping[Hotkey, Digest]) -> tuple[WantedFile, ...]:
        return tuple(WantedFile(hotkey, digest, self._holders(hotkey, digest)) for hotkey, digest in wanted.items())

    def _silent(self) -> set[Hotkey]:
        return self.stake.keys() - self.verdicts.keys() - self._ignored

    def _ask(self, neuron: Neuron, seconds: float) -> None:
        validator, started = neuron.hotkey, time.monotonic()
        self._look(neuron, seconds)
        if validator in self._silent() and time.monotonic() - started > MAX_QUICK_SECONDS:
            self._slow.setdefault(validator, 0)
        else:
            self._slow.pop(validator, None)

    def _look(self, neuron: Neuron, seconds: float) -> None:
        validator = neuron.hotkey
        try:
            with at_most(seconds):
                store = self._participant.directory.open(neuron.commitment or "")
                verdict = self._reader.read(store, self.window, validator)
            if verdict is not None:
                self._hear(validator, verdict)
        except (RefusedVerdictError, StorageError) as error:
            self._complain(validator, error.what)
        except Exception as error:  # what a verdict does that nobody thought of costs that verdict
            log.exception("unforeseen with the verdict of %s of window %d", ss58(validator), self.window)
            self._ignored.add(validator)
            self._complain(validator, f"unforeseen in this trainer: {type(error).__name__}")

    def _hear(self, validator: Hotkey, verdict: SignedVerdict) -> None:
        """Take a signed verdict, or ignore it whole: what is signed stays, so nothing else is waited for."""
        inputs = inputs_of(self._opened.context, self._opened.challenge)
        wrong = contradictions(verdict.body, inputs, self._opened.challenge.select_seed, self._registered)
        if not wrong:
            self.verdicts[validator] = verdict
            return
        self._ignored.add(validator)
        log.event(
            "verdict_ignored", window=self.window, validator=ss58(validator), reason=str(wrong[0]), contradictions=len(wrong)
        )

    def _complain(self, validator: Hotkey, reason: str) -> None:
        if validator not in self._complaints:
            self._complaints.add(validator)
            log.event("verdict_unreadable", window=self.window, validator=ss58(validator), reason=reason)

    def _holders(self, hotkey: Hotkey, digest: Digest) -> tuple[Neuron, ...]:
        return tuple(neuron for neuron in self._trusted if self._accepts(neuron.hotkey, hotkey, digest))

    def _accepts(self, validator: Hotkey, hotkey: Hotkey, digest: Digest) -> bool:
        verdict = self.verdicts.get(validator)
        if verdict is None or verdict.body.status is not WindowStatus.SCORED:
            return False
        miner = verdict.body.miner(hotkey)
        return miner is not None and miner.status is MinerStatus.ACCEPTED and miner.content_digest == digest

    def _why_none(self) -> str:
        if not half_scored(self.verdicts, self.stake):
            scored, total = scored_stake(self.verdicts, self.stake), sum(self.stake.values())
            ignored = f"; {len(self._ignored)} verdicts were ignored" if self._ignored else ""
            return f"validators with {scored} of {total} rao scored the window, and half of it must{ignored}"
        return "no file was accepted by validators with more than half of the stake that scored the window"


def _too_old(window: Window) -> Intake:
    return Intake(window, reason=TOO_OLD)
