"""Which files of a window may be learned from: those that validators with most of the stake accepted (section 11).

A validator speaks with a signed verdict in its own bucket, weighs what its stake at block T weighs, and is trusted if it held
a permit then. A file is taken when the trusted validators that judged its very bytes (its content digest) and accepted it
hold more than half of the stake that judged it, and validators with more than half of all trusted stake have spoken at all.
Nobody's word is taken for the bytes: they are hashed, and every rollout is verified again by whoever learns from it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from grail_core.chain.base import Neuron, seconds_of
from grail_core.errors import ChainError, ProtocolViolationError, StorageError
from grail_core.files.accepted_files import AcceptedFile, read_accepted_files
from grail_core.files.verdicts import read_verdict
from grail_core.keys import ss58
from grail_core.participant.outcomes import Stopped
from grail_core.participant.participant import Participant
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.constants import MAX_FILE_BYTES, WINDOW_LENGTH
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.layout import rollouts_key
from grail_core.telemetry import get_logger

log = get_logger(__name__)

MAX_ACCEPTED_BYTES = 32 * MAX_FILE_BYTES
MIN_PAUSE_SECONDS = 0.2
"""Between two looks at the validators' buckets."""
PATIENCE_BLOCKS = 20
"""After so many blocks beyond the challenge, stake that has not spoken is no longer waited for if half has."""


@dataclass(frozen=True)
class Intake:
    """What validators say of one window. `files` are accepted by the quorum, in order of hotkey; `reason` says why none are."""

    window: Window
    verdicts: Mapping[Hotkey, SignedVerdict] = field(default_factory=dict)
    files: tuple[AcceptedFile, ...] = ()
    reason: str = ""


def accepted_digests(verdicts: Mapping[Hotkey, SignedVerdict], stake: Mapping[Hotkey, int]) -> dict[Hotkey, Digest]:
    """Per miner, the content digest accepted by more than half of the trusted stake that judged that content."""
    judged: dict[tuple[Hotkey, Digest], int] = {}
    accepted: dict[tuple[Hotkey, Digest], int] = {}
    for validator, verdict in verdicts.items():
        if verdict.body.status is not WindowStatus.SCORED:
            continue
        for miner in verdict.body.miners:
            if not miner.checked or miner.content_digest is None:
                continue
            key = (miner.hotkey, miner.content_digest)
            judged[key] = judged.get(key, 0) + stake[validator]
            if miner.status is MinerStatus.ACCEPTED:
                accepted[key] = accepted.get(key, 0) + stake[validator]
    taken: dict[Hotkey, Digest] = {}
    for (hotkey, digest), weight in sorted(accepted.items()):
        if 2 * weight > judged[hotkey, digest]:
            if hotkey in taken:  # two files of one miner, each with its own half of the stake: neither
                del taken[hotkey]
                continue
            taken[hotkey] = digest
    return taken


def have_spoken(verdicts: Mapping[Hotkey, SignedVerdict], stake: Mapping[Hotkey, int]) -> bool:
    """Have validators with more than half of the trusted stake published a verdict?"""
    return 2 * sum(stake[validator] for validator in verdicts) > sum(stake.values())


class VerdictReader:
    """Reads verdicts and accepted files from the validators' buckets."""

    def __init__(self, participant: Participant, *, max_windows_old: int) -> None:
        self._participant = participant
        self._max_windows_old = max_windows_old

    def wait(self, window: Window, stop: threading.Event) -> Intake | Stopped:
        """The window's intake once the validators have spoken, or no longer matter."""
        participant = self._participant
        times = participant.times(window)
        pause = max(MIN_PAUSE_SECONDS, seconds_of(0.25, participant.params.block_time_ms))
        too_late = Block(window + (self._max_windows_old + 1) * WINDOW_LENGTH)
        verdicts: dict[Hotkey, SignedVerdict] = {}
        complaints: set[Hotkey] = set()
        while not stop.is_set():
            try:
                if not participant.wait_for_block(times.challenge_block, stop):
                    return Stopped()
                block = participant.chain.current_block()
                if block >= too_late:
                    return Intake(window, reason="its rollouts are too old to learn from")
                trusted = self._trusted(window)
                if not trusted:
                    return Intake(window, reason="no validator had a permit, stake and a bucket when the window began")
                self._read_verdicts(window, trusted, verdicts, complaints)
            except (ChainError, StorageError) as error:
                log.event("window_input_late", window=window, reason=error.what)
                stop.wait(pause)
                continue
            stake = {hotkey: neuron.stake for hotkey, neuron in trusted.items()}
            complete = verdicts.keys() == stake.keys()
            if complete or (block >= times.challenge_block + PATIENCE_BLOCKS and have_spoken(verdicts, stake)):
                intake = self._take(window, verdicts, trusted)
                if intake is not None:
                    return intake
            stop.wait(pause)
        return Stopped()

    def _trusted(self, window: Window) -> dict[Hotkey, Neuron]:
        """Validators with a permit, stake and a bucket at block T."""
        neurons = self._participant.chain.metagraph(Block(window)).neurons
        return {n.hotkey: n for n in neurons if n.validator_permit and n.stake > 0 and n.commitment is not None}

    def _read_verdicts(
        self,
        window: Window,
        trusted: Mapping[Hotkey, Neuron],
        verdicts: dict[Hotkey, SignedVerdict],
        complaints: set[Hotkey],
    ) -> None:
        for hotkey, neuron in trusted.items():
            if hotkey in verdicts or neuron.commitment is None:
                continue
            try:
                store = self._participant.directory.open(neuron.commitment)
                verdict = read_verdict(store, window, hotkey, self._participant.network_id)
            except (ProtocolViolationError, StorageError) as error:
                if hotkey not in complaints:
                    log.event("verdict_unreadable", window=window, validator=ss58(hotkey), reason=error.what)
                    complaints.add(hotkey)
                continue
            if verdict is not None:
                verdicts[hotkey] = verdict

    def _take(
        self, window: Window, verdicts: Mapping[Hotkey, SignedVerdict], trusted: Mapping[Hotkey, Neuron]
    ) -> Intake | None:
        """The accepted files, from whoever of the accepting validators can show the bytes; None to try again later."""
        stake = {hotkey: trusted[hotkey].stake for hotkey in trusted}
        if not have_spoken(verdicts, stake):
            return Intake(window, verdicts, reason="validators with half of the stake or more published no verdict")
        wanted = accepted_digests(verdicts, stake)
        if not wanted:
            scored = any(verdict.body.status is WindowStatus.SCORED for verdict in verdicts.values())
            return Intake(window, verdicts, reason="no file was accepted" if scored else "no validator scored the window")
        found: dict[Hotkey, AcceptedFile] = {}
        for validator, verdict in sorted(verdicts.items()):
            if found.keys() == wanted.keys():
                break
            for file in self._files_of(window, trusted[validator], verdict):
                if wanted.get(file.hotkey) == file.content_digest:
                    found.setdefault(file.hotkey, file)
        if found.keys() != wanted.keys():
            missing = ", ".join(ss58(hotkey) for hotkey in sorted(wanted.keys() - found.keys()))
            log.event("accepted_files_missing", window=window, miners=missing)
            if not found:
                return None
        return Intake(window, verdicts, tuple(found[hotkey] for hotkey in sorted(found)))

    def _files_of(self, window: Window, neuron: Neuron, verdict: SignedVerdict) -> list[AcceptedFile]:
        if verdict.rollouts_digest is None or neuron.commitment is None:
            return []
        key = rollouts_key(window)
        try:
            data = self._participant.directory.open(neuron.commitment).get(key, max_bytes=MAX_ACCEPTED_BYTES)
            if hashlib.sha256(data).digest() != verdict.rollouts_digest:
                raise ProtocolViolationError("the rollouts are not those of the verdict", where=key)
            return read_accepted_files(data)
        except (StorageError, ProtocolViolationError) as error:
            log.event("rollouts_unreadable", window=window, validator=ss58(neuron.hotkey), reason=error.what)
            return []
