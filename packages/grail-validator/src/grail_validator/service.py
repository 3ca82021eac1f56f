"""The validator's window loop: first sight → challenge → judge → publish → weights.

First sight has its own thread, so that no window misses it because another one is still being judged. Everything a window
leaves behind is in the ledger before anything is published; publishing and weights can be repeated, so a validator killed
anywhere takes the next step again and counts nothing twice.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from grail_core.beacon.base import RoundNotYetError
from grail_core.chain.base import Neuron
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.environment import Environment
from grail_core.errors import BeaconError, ChainError, CheckpointError, DiskFullError, GrailError, StorageError
from grail_core.files.accepted_files import AcceptedFile, write_accepted_files
from grail_core.files.evidence import MinerEvidence, write_evidence
from grail_core.keys import ss58
from grail_core.model.policy_model import PolicyModel
from grail_core.participant.participant import Participant
from grail_core.participant.windows import open_challenge
from grail_core.proof.alternatives import EIGHT_BIT_GROUP, Alternatives, Weights, eight_bit
from grail_core.protocol import MinerStatus, RowSample, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.constants import FAILURE_LOOKBACK_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import evidence_key, rollouts_key, verdict_key
from grail_core.telemetry import get_logger
from grail_core.verification.context import CheckContext
from grail_core.verification.measure import measure_sample
from grail_core.verification.window_file import Submission
from grail_validator.first_sight import FirstSight
from grail_validator.judging import Announced, JudgedWindow, Past, judge_window, stored_in_time, unscored_window
from grail_validator.ledger import Judged, Ledger

log = get_logger(__name__)

_RETRY_SECONDS = 1.0
_BEACON_SECONDS = 0.2


@dataclass(frozen=True)
class Compared:
    """What every proof is compared with beside the current model, and on what share of a miner's sampled rollouts."""

    earlier: int = 3  # checkpoints before the window's
    eight_bit: bool = True
    share: float = 1.0


@dataclass
class ValidatorService:
    participant: Participant
    ledger: Ledger
    first_sight: FirstSight
    checkpoint: LiveCheckpoint
    environment_of: Callable[[CheckpointManifest], Environment]
    compared: Compared = field(default_factory=Compared)
    _sighted: queue.Queue[Window] = field(default_factory=queue.Queue)

    def run(self, stop: threading.Event, windows: int | None = None) -> int:
        """Judge windows until stopped or `windows` of them are scored. Returns how many were."""
        first = self._first_window()
        for window in self.ledger.unfinished():
            self._publish(window)
        sentinel = threading.Thread(
            target=self.first_sight.run, args=(first, stop, self._sighted.put), name="first-sight", daemon=True
        )
        sentinel.start()
        scored = 0
        while not stop.is_set() and (windows is None or scored < windows):
            try:
                window = self._sighted.get(timeout=0.2)
            except queue.Empty:
                if not sentinel.is_alive() and not stop.is_set():
                    raise GrailError(
                        "the first-sight thread has died", hint="see the log above; the validator must be restarted"
                    ) from None
                continue
            if self._judge(window, stop) is WindowStatus.SCORED:
                scored += 1
            self._set_weights_if_due()
        stop.set()
        sentinel.join(timeout=10)
        return scored

    def _first_window(self) -> Window:
        """The oldest window not judged yet that still matters: after the last judged one, else the running one.

        A window that was announced while we were away is gone through all the same, so that it is recorded as missed.
        """
        current = self.participant.current_window()
        last = self.ledger.last_judged()
        if last is None:
            return current
        return max(Window(last + WINDOW_LENGTH), Window(current - FAILURE_LOOKBACK_WINDOWS * WINDOW_LENGTH))

    def _judge(self, window: Window, stop: threading.Event) -> WindowStatus | None:
        """Take one window from first sight to published, or record why it cannot be."""
        if self.ledger.step(window) in ("judged", "published"):
            return None
        sightings = self.ledger.sightings(window)
        if sightings is None:
            reason = "this validator was not there at first sight"
            return self._finish_unscored(window, WindowStatus.INCONCLUSIVE, reason)
        opened = self._open(window, stop)
        if opened is None:
            return None
        if isinstance(opened, str):
            return self._finish_unscored(window, WindowStatus.VOID, opened)
        context, challenge = opened
        opened_at = time.perf_counter()
        try:
            loaded = self.checkpoint.at(context.manifest)
            environment = self.environment_of(context.manifest)
        except GrailError as error:
            return self._finish_unscored(window, WindowStatus.INCONCLUSIVE, f"no checkpoint to judge with: {error.what}")
        announced = self._announced(window)
        others = self._alternatives(context, loaded.model)

        def measure(submission: Submission, check_context: CheckContext, sample: RowSample, seed: Digest) -> MinerEvidence:
            return measure_sample(submission, check_context, sample, seed, loaded.model, others)

        sizes = (loaded.model.vocabulary_size, loaded.model.context_length)
        past = self._past(window, [entry.neuron for entry in announced])
        started = time.perf_counter()
        judged = judge_window(context, challenge, announced, past, environment, loaded.renderer, sizes, measure)
        seconds_verify = time.perf_counter() - started
        accepted = _accepted_files(judged.body, announced)
        self._record(judged, accepted)
        self._publish(window)
        self.first_sight.forget(window)
        self._report(judged, seconds_load=started - opened_at, seconds_verify=seconds_verify)
        return WindowStatus.SCORED

    def _open(self, window: Window, stop: threading.Event) -> tuple[WindowContext, Challenge] | str | None:
        """Context and challenge once they can be had; why the window is void; None if stopped."""
        participant = self.participant
        times = participant.times(window)
        if not participant.wait_for_block(times.challenge_block, stop, finalised=True):
            return None
        while not stop.is_set():
            try:
                context = participant.open_window(window)
                return context, open_challenge(participant.chain, participant.beacon, context)
            except CheckpointError as error:
                return f"no valid checkpoint: {error.what}"
            except RoundNotYetError:
                stop.wait(_BEACON_SECONDS)  # the round after a block is due within a period; nothing is wrong
            except (BeaconError, ChainError, StorageError) as error:
                if participant.chain.current_block() > times.void_block:
                    return f"an input could not be had by block {times.void_block}: {error.what}"
                log.event("window_input_late", window=window, reason=error.what)
                stop.wait(_RETRY_SECONDS)
        return None

    def _announced(self, window: Window) -> list[Announced]:
        participant = self.participant
        times = participant.times(window)
        start = participant.chain.block(times.first_block).timestamp_ms
        deadline = participant.chain.block(times.deadline_block).timestamp_ms
        sightings = {sighting.hotkey: sighting for sighting in self.ledger.sightings(window) or ()}
        entries = []
        for neuron in participant.miners_at(window):
            sighting = sightings.get(neuron.hotkey)
            if sighting is None:
                continue  # first sight is the record of who was registered at T
            in_time = stored_in_time(sighting, start, deadline)
            file = self.first_sight.fetch(window, neuron, sighting) if in_time else None
            entries.append(Announced(neuron, sighting, file, in_time))
        return entries

    def _alternatives(self, context: WindowContext, model: PolicyModel) -> Alternatives | None:
        """What this window's miners may have run instead: the checkpoints before its own, and 8-bit copies of its own."""
        others: dict[str, Weights] = {}
        for age, manifest in enumerate(self.participant.checkpoints.before(context.manifest, self.compared.earlier), start=1):
            try:
                others[f"previous-{age}"] = self.checkpoint.at(manifest).model.state
            except CheckpointError as error:
                # Evidence says which alternatives were measured, so a missing one weakens the check and hides nothing.
                log.event("alternative_unavailable", window=context.window, age=age, reason=error.what)
        if self.compared.eight_bit:
            others["int8"] = partial(eight_bit, model)
            others["int8-groups"] = partial(eight_bit, model, EIGHT_BIT_GROUP)
        return Alternatives(model, others, self.compared.share) if others else None

    def _past(self, window: Window, neurons: list[Neuron]) -> Past:
        classes = {n.hotkey: self.ledger.known_class(n.hotkey, window) for n in neurons}
        return Past(
            history=self.ledger.history(window),
            counted={n.hotkey: self.ledger.counted(n.hotkey, window) for n in neurons},
            classes={hotkey: name for hotkey, name in classes.items() if name is not None},
        )

    def _finish_unscored(self, window: Window, status: WindowStatus, reason: str) -> WindowStatus:
        """Record and publish a window that counts for nobody."""
        participant = self.participant
        neurons = participant.miners_at(window)
        past = self._past(window, neurons)
        body = unscored_window(participant.network_id, window, status, reason, past, neurons, participant.params)
        self._record(JudgedWindow(body, (), {}, {}), [])
        self._publish(window)
        log.event("window_not_scored", window=window, status=status.value, reason=reason)
        return status

    def _record(self, judged: JudgedWindow, accepted: list[AcceptedFile]) -> None:
        body, signer = judged.body, self.participant.signer
        evidence, rollouts = write_evidence(judged.evidence), write_accepted_files(accepted)
        evidence_digest, rollouts_digest = (Digest(hashlib.sha256(data).digest()) for data in (evidence, rollouts))
        message = SignedVerdict.message(body, signer.hotkey, evidence_digest, rollouts_digest)
        verdict = SignedVerdict(body, signer.hotkey, signer.sign(message), evidence_digest, rollouts_digest)
        self.ledger.record_judged(
            body.window, body, Judged(verdict.encode(), evidence, rollouts), judged.counted, judged.classes
        )

    def _publish(self, window: Window) -> None:
        """Evidence and rollouts first, the verdict last: who sees a verdict can read what it names."""
        judged = self.ledger.judged(window)
        if judged is None:
            return
        store = self.participant.own_store
        try:
            store.put(evidence_key(window), judged.evidence)
            store.put(rollouts_key(window), judged.rollouts)
            store.put(verdict_key(window), judged.verdict)
        except DiskFullError:
            raise
        except StorageError as error:
            log.event("publish_failed", window=window, reason=error.what, retry="with the next window or at the next start")
            return
        self.ledger.record_published(window)
        log.event("verdict_published", window=window, bytes=len(judged.verdict), evidence_bytes=len(judged.evidence))

    def _set_weights_if_due(self) -> None:
        """Set the weights of the last judged window, once every WEIGHT_INTERVAL blocks."""
        participant = self.participant
        now, last = participant.chain.current_block(), self.ledger.weights_block()
        if last is not None and now - last < participant.params.weight_interval:
            return
        window = self.ledger.last_judged()
        judged = self.ledger.judged(window) if window is not None else None
        if judged is None:
            return
        weights = SignedVerdict.decode(judged.verdict).body.weights
        if not weights:
            return
        try:
            participant.chain.set_weights(participant.signer, weights)
        except ChainError as error:
            log.event("weights_refused", block=now, reason=error.what)
            return
        self.ledger.record_weights(now)
        log.event("weights_set", block=now, window=window, weights={str(uid): w for uid, w in weights.items()})

    def _report(self, judged: JudgedWindow, *, seconds_load: float, seconds_verify: float) -> None:
        """`seconds_load`: fetching files and loading checkpoints; `seconds_verify`: all checks. No waiting is in either."""
        for miner in judged.body.miners:
            log.event(
                "miner_judged",
                window=judged.body.window,
                hotkey=ss58(miner.hotkey),
                status=miner.status.value,
                reason=miner.reason,
                declared=miner.declared,
                unique_valid=miner.unique_valid,
            )
        log.event(
            "window_judged",
            window=judged.body.window,
            seconds_load=seconds_load,
            seconds_verify=seconds_verify,
            announced=sum(m.etag is not None for m in judged.body.miners),
            checked=sum(m.checked for m in judged.body.miners),
            failed=sum(m.status is MinerStatus.FAILED for m in judged.body.miners),
            rollouts_checked=sum(len(m.sampled) for m in judged.body.miners),
            body=judged.body.digest().hex(),
        )


def _accepted_files(body: VerdictBody, announced: list[Announced]) -> list[AcceptedFile]:
    files = {entry.neuron.hotkey: entry.file for entry in announced}
    accepted = []
    for miner in body.miners:
        file = files.get(miner.hotkey)
        if miner.status is MinerStatus.ACCEPTED and file is not None and file.data is not None and file.content_digest:
            accepted.append(AcceptedFile(miner.hotkey, file.content_digest, file.data, miner.sampled))
    return accepted
