"""A validator's rounds of gradient work, carried out over ledger, store and chain.

sights → challenge → judge → publish. Everything a round leaves behind is in the ledger, in one transaction, before anything
is published; publishing can be repeated. So a validator that is killed anywhere takes the next step again and counts nothing
twice. Verdicts are under the key that those of rollouts have: a window has one kind of work.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Final

from grail_core.chain.base import has_passed, seconds_of
from grail_core.corpus import Corpus
from grail_core.errors import DiskFullError, GrailError, StorageError
from grail_core.files.gradient_evidence import write_round_evidence
from grail_core.files.verdicts import RefusedVerdictError, read_round_verdict
from grail_core.keys import ss58
from grail_core.participant.another import require_before_start
from grail_core.participant.lead_body import lead_body
from grail_core.participant.outcomes import Stopped, Void
from grail_core.participant.participant import Participant
from grail_core.participant.round_models import RoundModels
from grail_core.participant.rounds import NoWorkError, require_work, round_of_window, wait_for_round_challenge
from grail_core.participant.waiting import until_had
from grail_core.proof.numerics import numerics_class_of
from grail_core.protocol.constants import SCORE_WINDOWS, WINDOW_LENGTH
from grail_core.protocol.context import Challenge, WindowContext
from grail_core.protocol.environment_spec import EnvironmentSpec
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.judging import OtherKind, RoundFacts
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.merged import Merged
from grail_core.protocol.gradient.scores import MEMORY_ROUNDS
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.spec import GRADIENT
from grail_core.protocol.gradient.verdicts import GradientVerdictBody, MergeSeen
from grail_core.protocol.scores import MAX_POWER, powers, shares_of_kinds
from grail_core.protocol.signed_verdicts import Adopted, SignedVerdict
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.protocol.verdicts import MAX_REASON, MinerStatus, WindowInputs, WindowStatus
from grail_core.storage.layout import evidence_key, verdict_key
from grail_core.telemetry import get_logger
from grail_core.text import printable
from grail_core.verification.gradient.files import Round, StoredObject
from grail_core.verification.gradient.measure import RoundScene
from grail_core.work import Work, work_of
from grail_validator.gradient.judging import Interrupted, MinerCase, RoundCase, RoundResult, judge, unscored, versions
from grail_validator.gradient.remembering import remembered
from grail_validator.gradient.sights import RoundSights
from grail_validator.kinds import WindowKinds
from grail_validator.ledger import Ledger
from grail_validator.round_cases import ObjectSighting, RoundFiles, RoundMemory, RoundStage, SightOf
from grail_validator.tallies import tallies

log = get_logger(__name__)

ADOPTION_BLOCKS: Final = 4
"""That looking for a memory to begin with takes at most."""
_MORE_CACHE: Final = "leave the cache more room (GRAIL_FILE_CACHE_GIB)"


@dataclass
class GradientValidator:
    """`corpus_of`: the corpus that a manifest names. `models`: of this process, loaded when the first round is judged.
    `started_ms`: when the process started, by the network's clock: whatever lay in its bucket then is the past."""

    participant: Participant
    ledger: Ledger
    models: RoundModels
    corpus_of: Callable[[EnvironmentSpec], Corpus]
    kinds: WindowKinds
    started_ms: int = field(init=False)
    _memory: tuple[tuple[Window | None, Window], GradientMemory] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.started_ms = self.participant.chain.now_ms()

    @cached_property
    def sights(self) -> RoundSights:
        return RoundSights(self.participant, self.ledger.rounds, self.models.layout)

    def advance(self, window: WindowContext, stop: threading.Event) -> WindowStatus | None:
        """Take one round as far as it goes now. Returns its status if it was judged by this call."""
        context = round_of_window(window)
        stage = self.ledger.rounds.stage(context.round)
        if stage in (RoundStage.JUDGED, RoundStage.PUBLISHED):
            self.publish(context.round)
            return None
        self._adopt(context)
        if stage is RoundStage.UNSEEN:
            return self.record(context, self._unscored(context, WindowStatus.MISSED, "first sight of seals was missed"))
        challenge = wait_for_round_challenge(self.participant, context, stop)
        if isinstance(challenge, Stopped):
            return None
        if isinstance(challenge, Void):
            return self.record(context, self._unscored(context, WindowStatus.VOID, challenge.reason))
        # Whom the next manifest merged is checked too: until it is in the store, or late, nobody knows who that is.
        if not self.participant.wait_for_block(context.times.checkpoint_block, stop, finalised=True):
            return None
        return self.judge(context, challenge.value, stop)

    def judge(self, context: RoundContext, challenge: Challenge, stop: threading.Event) -> WindowStatus | None:
        """Judge a sighted round, record and publish it. None: stopped meanwhile."""
        begun = self.ledger.begin_work(context.round)
        try:
            if begun.hopeless:
                reason = "this validator's process ended twice while it judged this round"
                return self.record(context, self._unscored(context, WindowStatus.INCONCLUSIVE, reason))
            had = until_had(
                self.participant,
                context.round,
                stop,
                partial(self._case, context, challenge, begun.given_up, stop),
                too_late=lambda: has_passed(self.participant.chain, context.times.void_block),
            )
            if isinstance(had, Stopped):
                return None
            if isinstance(had, Void):
                return self.record(context, self._unscored(context, WindowStatus.INCONCLUSIVE, had.reason))
            started = time.perf_counter()
            result = judge(had.value)
        except Interrupted:
            return None
        except DiskFullError:
            raise
        except NoWorkError as error:  # nobody has any, as all who look at block T can see
            return self.record(context, self._unscored(context, WindowStatus.VOID, error.what))
        except GrailError as error:
            reason = f"nothing to judge with: {error.what}"
            return self.record(context, self._unscored(context, WindowStatus.INCONCLUSIVE, reason))
        finally:
            self.ledger.end_work(context.round)
        self._report(result.body, time.perf_counter() - started)
        return self.record(context, result)

    # --- what a round leaves --------------------------------------------------------------------------------------------

    def record(self, context: RoundContext, result: RoundResult) -> WindowStatus:
        """Sign and keep a round with everything later rounds depend on; then publish it."""
        body, signer = result.body, self.participant.signer
        evidence = write_round_evidence(result.measured) if result.measured else b""
        digest = Digest(hashlib.sha256(evidence).digest()) if evidence else None
        told = self.ledger.rounds.untold()
        adopted = None if told is None else Adopted(told[1], told[0], told[0])
        message = SignedGradientVerdict.message(body, signer.hotkey, digest, adopted)
        verdict = SignedGradientVerdict(body, signer.hotkey, signer.sign(message), digest, adopted)
        self.ledger.rounds.record_judged(context.round, RoundFiles(verdict.encode(), evidence), _kept(body))
        self._memory = None
        if body.status is not WindowStatus.SCORED:
            log.event("round_not_scored", window=context.round, status=body.status.value, reason=body.reason)
        self.publish(context.round)
        return body.status

    def publish(self, round_: Window) -> bool:
        """Put a judged round's files into the store: who sees a verdict can read its evidence. False: again later."""
        if self.ledger.rounds.stage(round_) is not RoundStage.JUDGED:
            return True
        files, store = self.ledger.rounds.files(round_), self.participant.own_store
        if files is None:
            raise RuntimeError(f"round {round_} is to be published and was never judged")
        try:
            there = self._said_otherwise(round_, files.verdict)
            if there is not None:
                self.ledger.rounds.take_published(round_, there.encode(), _kept(there.body))
                self._memory = None
                log.event("verdict_kept", window=round_, reason="this hotkey has published another verdict of it before")
            else:
                if files.evidence:
                    store.put(evidence_key(round_), files.evidence)
                store.put(verdict_key(round_), files.verdict)
        except DiskFullError:
            raise
        except StorageError as error:
            log.event("publish_failed", window=round_, reason=error.what, retry="with the next round or at the next start")
            return False
        self.sights.forget(round_)
        self.ledger.rounds.record_published(round_)
        if there is None:
            log.event("verdict_published", window=round_, bytes=len(files.verdict), evidence_bytes=len(files.evidence))
        return True

    def _said_otherwise(self, round_: Window, verdict: bytes) -> SignedGradientVerdict | None:
        """Another verdict of ours that our bucket has: the ledger is older than it, and what is published is remembered.

        Raises:
            WrittenByAnotherError: it was stored since this process started. StorageError.
        """
        participant, key = self.participant, verdict_key(round_)
        try:
            there = read_round_verdict(participant.own_store, round_, participant.signer.hotkey, participant.network_id)
        except RefusedVerdictError:
            return None  # no verdict of ours: it is put over
        if there is None or there.encode() == verdict:  # the ledger has every verdict before the store does
            return None
        info = participant.own_store.head(key)
        if info is not None:
            require_before_start("a verdict", key, info.stored_at_ms, self.started_ms)
        return there

    # --- what a round is judged from ------------------------------------------------------------------------------------

    def _remembered(self, context: RoundContext) -> GradientMemory:
        """Of the rounds before this one, from the bodies in the ledger."""
        rounds = self.ledger.rounds
        bodies = rounds.bodies(context.round, MEMORY_ROUNDS)
        last = bodies[-1][0] if bodies else None
        of = last, context.round
        if self._memory is not None and self._memory[0] == of:
            return self._memory[1]
        said = (SignedGradientVerdict.decode(raw).body for _, raw in bodies)
        memory = remembered(said, context.round, context.spec, first=partial(self._is_first, context))
        self._memory = of, memory
        return memory

    def _is_first(self, context: RoundContext) -> bool:
        """Is it the network's first round of gradient work?"""
        manifest = context.manifest
        if manifest.valid_from != context.round:
            return False
        if manifest.sequence == 0:
            return True
        before = self.participant.checkpoints.valid_at(Window(context.round - WINDOW_LENGTH))
        return work_of(before) is not Work.GRADIENT

    def _case(
        self, context: RoundContext, challenge: Challenge, given_up: frozenset[Hotkey], stop: threading.Event
    ) -> RoundCase:
        participant, rounds = self.participant, self.ledger.rounds
        highest_uid = require_work(participant, context)
        model = self.models.at(context.manifest)
        corpus = self.corpus_of(context.manifest.environment)
        files_missed = rounds.stage(context.round) is RoundStage.SEALED
        windows, others = self._kinds_of_work(context)
        alternatives, pinned = self.models.alternatives(model), participant.checkpoints.table(context.manifest)
        scene = RoundScene(context, model.theta, model.layout, model.trained, model.policy, corpus, alternatives)
        measured_in = numerics_class_of(model.policy)
        return RoundCase(
            round=Round(context, challenge, model.layout, model.theta, self._time(context.times.reveal_block)),
            challenge=challenge,
            scene=scene,
            miners=self._miners(context, files_missed),
            memory=self._remembered(context),
            registered=self._registered(context),
            rule=participant.params,
            start_ms=self._time(context.times.first_block),
            deadline_ms=self._time(context.times.deadline_block),
            highest_uid=highest_uid,
            files_missed=files_missed,
            merged=self._merged(context),
            pair=lambda proof_class: pinned.table.lookup(proof_class, measured_in),
            calibration=pinned.name,
            windows=windows,
            others=others,
            working=partial(self.ledger.note_work, context.round),
            unforeseen=partial(_unforeseen, context.round),
            given_up=given_up,
            stopping=stop.is_set,
        )

    def _miners(self, context: RoundContext, files_missed: bool) -> tuple[MinerCase, ...]:
        """What the sights saw, of everybody who was registered with a bucket at T."""
        rounds, round_ = self.ledger.rounds, context.round
        seals = {one.hotkey: one for one in rounds.sightings(round_, SightOf.SEAL)}
        files = {
            kind: {one.hotkey: one for one in rounds.sightings(round_, kind)} for kind in (SightOf.UPDATE, SightOf.OPENING)
        }
        found = []
        for neuron in self.participant.miners_at(round_):
            seal = seals.get(neuron.hotkey)
            if seal is None:
                continue  # first sight is the record of who was registered at T
            stored = StoredObject(seal.data, seal.stored_at_ms or 0, seal.reason)
            if seal.data is None or files_missed:
                found.append(MinerCase(neuron, stored))
                continue
            parts = {kind: self._stored(round_, kind, files[kind].get(neuron.hotkey)) for kind in files}
            lost = next((kind for kind, part in parts.items() if part is None), None)
            if lost is not None:
                # Whoever removes his file after it was seen must not hold up everybody's round; that we lost it is our fault.
                reason = f"the {lost.value} came in time, and is neither in this validator's cache nor in its bucket now"
                log.event("round_file_lost", window=round_, of=lost.value, hotkey=ss58(neuron.hotkey), hint=_MORE_CACHE)
                found.append(MinerCase(neuron, stored, lost=reason))
                continue
            update, opening = parts[SightOf.UPDATE], parts[SightOf.OPENING]
            found.append(MinerCase(neuron, stored, update or StoredObject(), opening or StoredObject()))
        return tuple(found)

    def _stored(self, round_: Window, kind: SightOf, one: ObjectSighting | None) -> StoredObject | None:
        """What was seen; None where its bytes are nowhere any more."""
        if one is None or one.digest is None:
            return StoredObject(reason="" if one is None else one.reason)
        data = self.sights.bytes_of(round_, kind, one)
        return None if data is None else StoredObject(data, one.stored_at_ms or 0)

    def _merged(self, context: RoundContext) -> MergeSeen | None:
        """Whom the manifest of the next round says it merged; None where there is none that readers take."""
        manifest = self.participant.checkpoints.valid_at(context.times.next_round)
        if manifest.window != context.round:
            return None
        try:
            merged = Merged.from_json(dict(manifest.training))
        except ValueError as error:
            log.event("merge_unreadable", window=context.round, reason=str(error))
            return None
        return MergeSeen(manifest.digest, tuple(sorted((one.uid, one.content_digest) for one in merged.merged)))

    def _kinds_of_work(self, context: RoundContext) -> tuple[int, tuple[OtherKind, ...]]:
        """How many of the last 12 windows had gradient work, and what rollouts are owed by the last body of them here."""
        shares = shares_of_kinds(self.kinds.last(context.round))
        windows = {kind: int(share * SCORE_WINDOWS) for kind, share in shares.items()}
        last = self.ledger.last_judged()
        files = self.ledger.files(last) if last is not None else None
        owed = windows.get(Work.ROLLOUTS.value, 0)
        if files is None or not owed:
            return windows.get(GRADIENT, 0), ()
        body = SignedVerdict.decode(files.verdict).body
        paid = {uid: power for uid, power in powers(body.score_inputs).items() if power}
        return windows.get(GRADIENT, 0), (OtherKind(Work.ROLLOUTS.value, owed, body.digest(), paid, MAX_POWER),)

    def _registered(self, context: RoundContext) -> dict[int, Hotkey]:
        return {neuron.uid: neuron.hotkey for neuron in self.participant.miners_at(context.round)}

    def _unscored(self, context: RoundContext, status: WindowStatus, reason: str) -> RoundResult:
        facts = RoundFacts(
            network_id=context.network_id,
            spec=context.spec,
            window=context.round,
            versions=versions(),
            inputs=WindowInputs(),
            rule=self.participant.params,
            registered=self._registered(context),
            status=status,
            reason=printable(reason, MAX_REASON),
        )
        return unscored(facts, self._remembered(context))

    def _adopt(self, context: RoundContext) -> None:
        """A validator without history begins with what most of the stake said last, and says so in its first verdict."""
        if self.ledger.rounds.bodies(context.round, 1):
            return
        own = self.participant.signer.hotkey
        seconds = seconds_of(ADOPTION_BLOCKS, self.participant.params.block_time_ms)
        try:
            if self._is_first(context):
                return
            lead = lead_body(self.participant, context, seconds=seconds, without=(own,))
        except GrailError as error:
            log.event("nothing_adopted", window=context.round, reason=error.what)
            return
        if lead is None:
            return
        body, validator = lead.verdict.body, lead.verdict.validator
        if self.ledger.rounds.adopt(body.window, validator, lead.verdict.encode(), _kept(body)):
            log.event("memory_adopted", window=body.window, windows=1, validator=ss58(validator))

    def _time(self, block: int) -> int:
        return self.participant.chain.block(Block(block)).timestamp_ms

    def _report(self, body: GradientVerdictBody, seconds: float) -> None:
        for miner in body.miners:
            log.event(
                "round_miner_judged",
                window=body.window,
                hotkey=ss58(miner.hotkey),
                status=miner.status.value,
                reason=miner.reason,
                declared=miner.declared,
                score=None if miner.score is None else miner.score.score / 2**20,
                rank=None if miner.score is None else miner.score.rank,
            )
        log.event(
            "round_judged",
            window=body.window,
            seconds_verify=seconds,
            sealed=sum(m.status is not MinerStatus.ABSENT for m in body.miners),
            checked=sum(m.checked for m in body.miners),
            failed=sum(m.status is MinerStatus.FAILED for m in body.miners),
            **tallies(body.miners),
            body=body.digest().hex(),
        )


def _kept(body: GradientVerdictBody) -> RoundMemory:
    """What the ledger keeps beside the body, for who looks into it: the body says the same."""
    rows: Mapping[Hotkey, str] = {
        miner.hotkey: next((f.check for f in miner.findings), "withheld")
        for miner in body.miners
        if miner.status is MinerStatus.FAILED
    }
    return RoundMemory(failures=rows)


def _unforeseen(round_: Window, hotkey: Hotkey, error: Exception) -> None:
    log.error("unforeseen while judging %s in round %d", ss58(hotkey), round_, exc_info=error)
