"""The validator's shell: it carries out what `steps` says over ledger, store, chain and clock.

first sight → challenge → judge → publish → weights. First sight has its own thread, so that no window misses it because
another one is still being judged. Everything a window leaves behind is in the ledger before anything is published; publishing
and weights can be repeated, so a validator killed anywhere takes the next step again and counts nothing twice.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, partial

from grail_core.chain.base import has_passed
from grail_core.environment import Environment
from grail_core.errors import ChainError, CheckpointError, DiskFullError, GrailError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined
from grail_core.files.evidence import write_evidence
from grail_core.files.verdicts import read_verdict
from grail_core.keys import ss58
from grail_core.participant.another import require_before_start
from grail_core.participant.outcomes import Opened, Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import ChallengedWindow, until_had, wait_for_challenge
from grail_core.proof.calibration import Shape
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.layout import evidence_key, verdict_key
from grail_core.storage.retention import Retention
from grail_core.telemetry import get_logger
from grail_core.verification.measure import ChallengedSample
from grail_core.verification.reward import start_grading
from grail_validator import steps
from grail_validator.adoption import Adoption
from grail_validator.cases import Announcement, Case, Interrupted, Means, Standing, WindowResult, WindowStage
from grail_validator.compared_models import ComparedModels
from grail_validator.first_sight import FirstSight
from grail_validator.gradient.rounds import GradientRounds
from grail_validator.judging import open_docket, stored_in_time
from grail_validator.ledger import Ledger, PublishedFiles
from grail_validator.models import Models
from grail_validator.sealed_files import WindowFiles
from grail_validator.steps import Publication, PublishedRecord, ResultRecord, Step, StoreAnswer, Turn, Unreadable
from grail_validator.tallies import tallies
from grail_validator.time_budget import judging_seconds
from grail_validator.weight_setting import WeightSetting

log = get_logger(__name__)

_POLL_SECONDS = 0.2


@dataclass
class Seconds:
    """Where the time of one window went, for its event."""

    load: float = 0.0  # loading checkpoints
    waiting: float = 0.0  # for files, while none was there to be judged
    verify: float = 0.0  # all checks


@dataclass
class ValidatorService:
    participant: Participant
    ledger: Ledger
    first_sight: FirstSight
    checkpoint: Models
    environment_of: Callable[[CheckpointManifest], Environment]
    retention: Retention
    confined: Confined = field(default_factory=Confined)
    compared: ComparedModels = field(default_factory=ComparedModels)
    gradient: GradientRounds | None = None  # what judges rounds of gradient work
    _sighted: queue.Queue[Window] = field(default_factory=queue.Queue)
    _graded_by: Environment | None = None  # whose grader is warm

    def run(self, stop: threading.Event, windows: int | None = None) -> int:
        """Judge windows until stopped or `windows` of them are scored. Returns how many were."""
        self._started_ms  # noqa: B018 - it is now
        current = self.participant.current_window()
        judged = [last for last in (self.ledger.last_judged(), self.ledger.rounds.last_judged()) if last is not None]
        first = steps.first_window(current, max(judged, default=None), self.ledger.record_beginning(current))
        self.publish_the_rest(stop)
        self._require_version(first)
        sentinel = threading.Thread(
            target=self.first_sight.run, args=(first, stop, self._sighted.put), name="first-sight", daemon=True
        )
        sentinel.start()
        self._set_weights_if_due()  # of before a kill; the chain may take minutes over it, which first sight does not wait for
        scored = 0
        while not stop.is_set() and (windows is None or scored < windows):
            try:
                window = self._sighted.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if not sentinel.is_alive() and not stop.is_set():
                    if self.first_sight.ended is not None:
                        raise self.first_sight.ended from None
                    raise GrailError(
                        "the first-sight thread has died", hint="see the log above; the validator must be restarted"
                    ) from None
                self._weight_setting.look()
                continue
            self.publish_the_rest(stop)
            if self._advance_either(window, stop) is WindowStatus.SCORED:
                scored += 1
            self._set_weights_if_due()
            self.retention.sweep(window)
            self._require_version(Window(window + WINDOW_LENGTH))
        stop.set()
        sentinel.join(timeout=10)
        return scored

    def _require_version(self, window: Window) -> None:
        """Stop before a window of a protocol version that is not known here, once the one before it is judged and published.
        What cannot be asked now is asked again when the window is opened.

        Raises:
            UpgradeRequiredError: with the line that upgrades this role.
        """
        with suppress(CheckpointError, StorageError, ChainError):
            self.participant.require_version(window)

    @cached_property
    def _adoption(self) -> Adoption:
        return Adoption(self.participant, self.ledger)

    def publish_the_rest(self, stop: threading.Event) -> None:
        """What was judged, and could not be published then: by a process that was killed, or while the store did not answer."""
        if self.gradient is not None and not all(map(self.gradient.publish, self.ledger.rounds.unfinished())):
            return
        for window in self.ledger.unfinished():
            self.advance(window, stop)
            if self.ledger.stage(window) is WindowStage.JUDGED:
                return  # our store does not take it: it would not take the next one either, and each try takes its time

    def _advance_either(self, window: Window, stop: threading.Event) -> WindowStatus | None:
        """A window of rollouts, or the round of gradient work that begins with it."""
        if self.gradient is None or not self.gradient.takes(window):
            return self.advance(window, stop)
        return self.gradient.advance(window, stop)

    def advance(self, window: Window, stop: threading.Event) -> WindowStatus | None:
        """Take one window as far as it goes now. Returns its status if it was judged by this call."""
        stage = self.ledger.stage(window)
        # What is judged needs nothing but the store: it is published even while the chain does not answer.
        standing = None
        if stage in (WindowStage.UNSEEN, WindowStage.SIGHTED):
            had = until_had(self.participant, window, stop, partial(self._standing, window))
            if isinstance(had, Void):  # a chain that forgets old blocks: nobody's past is lost for it
                had = until_had(self.participant, window, stop, partial(self._standing, window, now=True), too_late=_never)
            if not isinstance(had, Opened):
                return None
            standing = had.value
        taken = self._carry_out(window, steps.step(window, stage, Turn(), standing))
        if taken.wait is not steps.Wait.CHALLENGE:
            return _status(taken)
        assert standing is not None  # a window that waits for its challenge is not judged
        seconds = Seconds()
        event = self._case(window, standing, stop, seconds)
        started = time.perf_counter()
        try:
            taken = steps.step(window, taken.stage, event, standing)
        except Interrupted:
            taken = steps.step(window, taken.stage, Stopped(), standing)
        finally:
            self.ledger.end_work(window)  # what raised is told by its exception; only a process that just ends leaves it open
        seconds.verify = time.perf_counter() - started - seconds.waiting
        self._carry_out(window, taken)
        if isinstance(taken.record, ResultRecord) and isinstance(event, Case):
            self._report(taken.record.result, seconds)
        return _status(taken)

    # --- what becomes known ---------------------------------------------------------------------------------------------

    def _standing(self, window: Window, *, now: bool = False) -> Standing:
        """`now`: with who is registered now, where who was when the window began cannot be had any more.

        Raises:
            ChainError: among others, where the chain shows no block at or after the deadline: nothing is signed of that window.
        """
        participant = self.participant
        deadline = participant.times(window).deadline_block
        if not has_passed(participant.chain, Block(deadline - 1)):
            raise ChainError(f"the deadline of window {window}, block {deadline}, has not come")
        if now:
            neurons = tuple(n for n in participant.chain.metagraph().neurons if n.commitment is not None)
        else:
            neurons = tuple(participant.miners_at(window))
        self._adoption.fill(window)
        sighted = {sighting.hotkey for sighting in self.ledger.sightings(window) or ()}  # judged, whoever is registered now
        memory = self.ledger.memory(window, sighted | {neuron.hotkey for neuron in neurons})
        return Standing(participant.network_id, participant.params, neurons, memory)

    def _case(
        self, window: Window, standing: Standing, stop: threading.Event, seconds: Seconds
    ) -> Case | Void | Unreadable | Stopped:
        """Everything to judge a sighted window with, or why there is not."""
        waited = wait_for_challenge(self.participant, window, stop)
        if not isinstance(waited, Opened):
            return waited
        started = time.perf_counter()
        opened: ChallengedWindow = waited.value
        try:
            means = self._means(opened.context, window, stop)
        except DiskFullError:
            raise  # the operator's to mend: the window stays as it is
        except GrailError as error:
            return Unreadable(f"nothing to judge with: {error.what}")
        if not isinstance(means, Means):
            return means
        announcements = until_had(self.participant, window, stop, partial(self._announcements, window))
        if isinstance(announcements, Void):
            return Unreadable(f"what was announced cannot be had any more: {announcements.reason}")
        if isinstance(announcements, Stopped):
            return announcements
        docket = open_docket(
            opened.context, opened.challenge, announcements.value, standing.memory, means.shape, means.pinned.table
        )
        if stop.is_set():
            return Stopped()
        begun = self.ledger.begin_work(window)
        if begun.hopeless:
            return Unreadable("this validator's process ended twice while it judged this window")
        seconds.load = time.perf_counter() - started
        files = self._files(window)

        def idle(waiting: bool) -> None:
            """A process that ends while no file is in hand and none has come ended for no file's sake."""
            began = time.perf_counter()
            if waiting:
                self.ledger.end_work(window)
                seconds.waiting -= began
            else:
                self.ledger.begin_work(window)
                seconds.waiting += began

        return Case(
            opened.context,
            opened.challenge,
            docket,
            standing,
            means,
            files,
            begun.given_up,
            self.ledger.measured(window),
            partial(files.arriving, stop=stop, idle=idle),
            judging_seconds(self.participant.params.block_time_ms),
            time.monotonic,
            files.line_holds,
        )

    def _files(self, window: Window) -> WindowFiles:
        return WindowFiles(self.participant, window)

    def _means(self, context: WindowContext, window: Window, stop: threading.Event) -> Means | Unreadable | Stopped:
        """What a window is judged with. A store that answers again before the window's time is over costs nobody anything."""
        environment = self.environment_of(context.manifest)
        if self._graded_by is not environment:
            why = start_grading(environment)  # here, and in no file's time
            if why:
                log.event(
                    "grader_not_started", level=logging.WARNING, window=window, environment=environment.spec.env_id, reason=why
                )
            else:
                self._graded_by = environment
        pinned = until_had(self.participant, window, stop, partial(self.participant.checkpoints.table, context.manifest))
        if isinstance(pinned, Void):
            return Unreadable(f"no calibration to judge by: {pinned.reason}")
        if isinstance(pinned, Stopped):
            return pinned
        had = until_had(self.participant, window, stop, partial(self.checkpoint.at, context.manifest))
        if isinstance(had, Void):
            return Unreadable(f"no checkpoint to judge with: {had.reason}")
        if isinstance(had, Stopped):
            return had
        earlier = until_had(self.participant, window, stop, partial(self._earlier, context))
        if isinstance(earlier, Stopped):
            return earlier
        if isinstance(earlier, Void):
            # As where a single one is missing: the checks are weaker for once, and nobody's window is lost.
            log.event("alternatives_unavailable", window=window, reason=earlier.reason)
        before = earlier.value if isinstance(earlier, Opened) else {}
        model = self.checkpoint.model(context.manifest, before, self.compared)

        def sampling(challenge_seed: Digest, probability: Fraction) -> ChallengedSample:
            return ChallengedSample(challenge_seed, model.work(), probability)

        return Means(
            environment=environment,
            renderer=model.renderer,
            vocabulary_size=model.facts.vocabulary_size,
            context_length=model.facts.context_length,
            shape=Shape(model.facts.layers, model.facts.hidden_size),
            pinned=pinned.value,
            sampling=sampling,
            open_file=self.confined.open_file,
            working=partial(self.ledger.note_work, window),
            keep=partial(self.ledger.record_measured, window),
            unforeseen=partial(self._unforeseen, window),
        )

    def _unforeseen(self, window: Window, hotkey: Hotkey, error: Exception) -> None:
        log.error("unforeseen while judging %s in window %d", ss58(hotkey), window, exc_info=error)

    def _announcements(self, window: Window) -> tuple[Announcement, ...]:
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
            entries.append(Announcement(neuron, sighting, stored_in_time(sighting, start, deadline)))
        return tuple(entries)

    def _earlier(self, context: WindowContext) -> dict[str, CheckpointManifest]:
        """The checkpoints before the window's own that are on this machine, by name."""
        found: dict[str, CheckpointManifest] = {}
        for age, manifest in enumerate(self.participant.checkpoints.before(context.manifest, self.compared.earlier), start=1):
            try:
                self.checkpoint.at(manifest)
                found[f"previous-{age}"] = manifest
            except CheckpointError as error:
                # Evidence says which alternatives were measured, so a missing one weakens the check and hides nothing.
                log.event("alternative_unavailable", window=context.window, age=age, reason=error.what)
        return found

    # --- what a step asks for -------------------------------------------------------------------------------------------

    def _carry_out(self, window: Window, taken: Step) -> Step:
        """The record first, then the publications; once the store has them, that is a step of its own."""
        if isinstance(taken.record, ResultRecord):
            self._record(window, taken.record.result)
        elif isinstance(taken.record, PublishedRecord):
            # Until now a file that our store did not take waited in the cache. Once the window is published nobody looks there.
            self._files(window).forget()
            self.ledger.record_published(window)
        if taken.publications:
            answer = self._publish(window, taken.publications)
            self._carry_out(window, steps.step(window, taken.stage, answer))
        return taken

    def _record(self, window: Window, result: WindowResult) -> None:
        body, signer = result.body, self.participant.signer
        evidence, adopted = write_evidence(result.evidence), self.ledger.untold()
        digest = Digest(hashlib.sha256(evidence).digest())
        message = SignedVerdict.message(body, signer.hotkey, digest, adopted)
        verdict = SignedVerdict(body, signer.hotkey, signer.sign(message), digest, adopted)
        files = PublishedFiles(verdict.encode(), evidence)
        self.ledger.record_judged(window, body, files, result.counted, result.classes)
        if body.status is not WindowStatus.SCORED:
            log.event("window_not_scored", window=window, status=body.status.value, reason=body.reason)

    def _publish(self, window: Window, publications: tuple[Publication, ...]) -> StoreAnswer:
        """Put a judged window's files into the store, in the order the step gives."""
        files = self.ledger.files(window)
        if files is None:
            raise RuntimeError(f"window {window} is to be published and was never judged")
        store = self.participant.own_store
        parts: dict[Publication, Callable[[], object]] = {
            Publication.EVIDENCE: lambda: store.put(evidence_key(window), files.evidence),
            Publication.FILES: lambda: self._share_accepted(window, files),
            Publication.VERDICT: lambda: store.put(verdict_key(window), files.verdict),
        }
        try:
            there = self._said_otherwise(window, files.verdict)
            if there is not None:
                self.ledger.take_published(window, there.encode(), there.body)
                log.event("verdict_kept", window=window, reason="this hotkey has published another verdict of it before")
                return StoreAnswer.TOOK_ALL
            for publication in publications:
                parts[publication]()
        except DiskFullError:
            raise
        except StorageError as error:
            log.event("publish_failed", window=window, reason=error.what, retry="with the next window or at the next start")
            return StoreAnswer.FAILED
        log.event("verdict_published", window=window, bytes=len(files.verdict), evidence_bytes=len(files.evidence))
        return StoreAnswer.TOOK_ALL

    def _share_accepted(self, window: Window, files: PublishedFiles) -> None:
        """Who sees a verdict can read the files that it accepts."""
        shelf = self._files(window)
        for miner in SignedVerdict.decode(files.verdict).body.miners:
            if miner.status is MinerStatus.ACCEPTED and miner.content_digest is not None:
                shelf.share_cached(miner.content_digest)

    def _said_otherwise(self, window: Window, verdict: bytes) -> SignedVerdict | None:
        """Another verdict of ours that our bucket has: the ledger is older than it, brought back from a copy. What is signed
        and published stays, and is what is remembered: two verdicts of one window would contradict each other for ever.

        Raises:
            WrittenByAnotherError: it was stored since this process started: another one has this hotkey, too.
        """
        participant = self.participant
        try:
            there = read_verdict(participant.own_store, window, participant.signer.hotkey, participant.network_id)
        except ProtocolViolationError:
            return None  # no verdict of ours: it is put over
        if there is None or there.encode() == verdict:  # the ledger has every verdict before the store does
            return None
        key = verdict_key(window)
        info = participant.own_store.head(key)
        if info is not None:
            require_before_start("a verdict", key, info.stored_at_ms, self._started_ms)
        return there

    @cached_property
    def _started_ms(self) -> int:
        """By the network's clock."""
        return self.participant.chain.now_ms()

    @cached_property
    def _weight_setting(self) -> WeightSetting:
        return WeightSetting(self.participant, self.ledger)

    def _set_weights_if_due(self) -> None:
        self._weight_setting.turn()

    def _report(self, result: WindowResult, seconds: Seconds) -> None:
        """No waiting is in the seconds."""
        body = result.body
        for miner in body.miners:
            log.event(
                "miner_judged",
                window=body.window,
                hotkey=ss58(miner.hotkey),
                status=miner.status.value,
                reason=miner.reason,
                declared=miner.declared,
                unique_valid=miner.unique_valid,
            )
            if miner.status is MinerStatus.INCONCLUSIVE and miner.checked:
                # Somebody may have found out how to be inconclusive: it counts as unsupported work, and a person should look.
                log.event("inconclusive_again", window=body.window, hotkey=ss58(miner.hotkey), reason=miner.reason)
        log.event(
            "window_judged",
            window=body.window,
            seconds_load=seconds.load,
            seconds_verify=seconds.verify,
            announced=sum(m.status is not MinerStatus.ABSENT for m in body.miners),
            checked=sum(m.checked for m in body.miners),
            failed=sum(m.status is MinerStatus.FAILED for m in body.miners),
            rollouts_checked=sum(len(m.sampled) for m in body.miners),
            **tallies(body.miners),
            body=body.digest().hex(),
        )


def _never() -> bool:
    return False


def _status(taken: Step) -> WindowStatus | None:
    return taken.record.result.body.status if isinstance(taken.record, ResultRecord) else None
