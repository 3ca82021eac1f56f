"""A published round judged again from published files alone: no wallet, no chain, and no pass of a model.

Seals, updates and openings go through checks 1 to 5 and 8 again; what a model measured comes from the validator's evidence,
which has to be of these files (`replay_rows`); ranks, ratings, F and weights follow from both and from the bodies before. The
checkpoint's weights are needed for the chunk test, and no model runs on them. What nobody can make again is taken from the
verdict and named: blocks and rounds, what the two sights saw and when, what went wrong on the validator's machine. All else is
compared, to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from grail_core.errors import ConfigurationError, GrailError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined, ConfinementError
from grail_core.files.gradient_evidence import MinerMeasured, write_round_evidence
from grail_core.gradient.layout import Layout, StateArrays
from grail_core.keys import ss58
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.context import NO_BEACON, Challenge, WindowContext
from grail_core.protocol.gradient.context import RoundContext
from grail_core.protocol.gradient.judging import OtherKind, RoundFacts, judge_round
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.scores import MEMORY_ROUNDS
from grail_core.protocol.gradient.signed_verdicts import SignedGradientVerdict
from grail_core.protocol.gradient.spec import GRADIENT, GradientSpec
from grail_core.protocol.gradient.verdicts import GradientVerdictBody
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.scores import MAX_POWER, powers
from grail_core.protocol.signed_verdicts import SignedVerdict
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import WindowStatus
from grail_core.verification.gradient.files import Round
from grail_core.work import Work, work_of
from grail_validator.gradient.remembering import remembered
from grail_validator.gradient.replay_rows import RowsAgain, Unreadable
from grail_validator.published import BucketVerdicts, Published
from grail_validator.replay_report import Outcome, Replay, Taken, first_difference

_NOTHING_MEASURED: Final = hashlib.sha256(write_round_evidence(())).digest()
_UNKNOWN_TIME: Final = 2**62
"""Of block V: which stored objects came later is as the verdict says."""
_OTHER_WINDOWS: Final = 24
"""Windows before a round in which the last body of another kind is looked for."""


@dataclass(frozen=True)
class RoundCheckpoint:
    """What judging a round again needs of the checkpoint that its verdict names."""

    manifest: CheckpointManifest
    theta: StateArrays
    layout: Layout
    shape: Shape
    table: CalibrationTable
    table_name: str  # as verdicts say it


@dataclass(frozen=True)
class RoundSources:
    """Where everything comes from. `checkpoint` gives that of a digest on a network and raises GrailError where nobody has it;
    `round_of` the signed beacon round of a number, None where no relay gives it."""

    params: NetworkParameters
    published: Published
    confined: Confined
    checkpoint: Callable[[Digest, Digest], RoundCheckpoint]
    round_of: Callable[[int], SignedRound | None]


@dataclass
class _Told:
    faults: list[str] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)


def round_verdict(raw: bytes | None) -> SignedGradientVerdict | None:
    """What these bytes are, if a verdict of gradient work; who signed it is not looked at."""
    if raw is None:
        return None
    try:
        return SignedGradientVerdict.decode(raw)
    except ValueError:
        return None


class RoundReplayer:
    """Judges one validator's rounds again.

    Args:
        validator: whose verdicts they must be; None: the one who signed the first that is read.
    """

    def __init__(self, sources: RoundSources, validator: Hotkey | None = None) -> None:
        self._sources, self._validator = sources, validator

    def round(self, verdict: SignedGradientVerdict, window: Window) -> Replay:
        """Never raises for what others published; a fault of this machine's is its own GrailError."""
        body = verdict.body
        self._validator = self._validator or verdict.validator
        fault = ""
        if body.window != window:
            fault = f"signature: the verdict is of round {body.window}: it was copied to another key"
        elif not verdict.verify(body.network_id):
            fault = "signature: it is not its validator's over this verdict"
        elif verdict.validator != self._validator:
            fault = f"signature: the verdict is {ss58(verdict.validator)}'s, not {ss58(self._validator)}'s"
        if fault:
            return Replay(window, Outcome.DIFFERENT, verdict.validator, faults=(fault,))
        told = _Told()
        try:
            ours, rejudged = _Again(self._sources, verdict, told).judge()
        except Unreadable as error:
            outcome = Outcome.DIFFERENT if told.faults else Outcome.UNREADABLE
            return Replay(
                window,
                outcome,
                verdict.validator,
                body.status.value,
                faults=tuple(told.faults),
                taken=tuple(told.taken),
                reason=str(error),
            )
        difference = first_difference(body, ours)
        equal = difference is None and not told.faults
        return Replay(
            window,
            Outcome.EQUAL if equal else Outcome.DIFFERENT,
            verdict.validator,
            body.status.value,
            difference,
            tuple(told.faults),
            tuple(told.taken),
            rejudged,
        )


class _Again:
    """One round."""

    def __init__(self, sources: RoundSources, verdict: SignedGradientVerdict, told: _Told) -> None:
        self._sources, self._verdict, self._told = sources, verdict, told
        self._body = verdict.body

    def judge(self) -> tuple[GradientVerdictBody, int]:
        """The body that follows, and how many files went through the checks again."""
        body = self._body
        checkpoint = self._checkpoint()
        spec = GradientSpec.of(checkpoint.manifest.environment) if checkpoint is not None else self._spec_before()
        memory = self._memory(spec, None if checkpoint is None else checkpoint.manifest)
        why = "hashes, numbers of rounds, who was registered, the merge, the checkpoint in force: no chain was asked"
        self._told.taken.append(Taken("inputs", why))
        facts = self._facts(spec)
        if checkpoint is None:
            self._told.taken.append(Taken("status", f"why the round is {body.status.value} ({body.reason})"))
            if self._verdict.evidence_digest not in (None, _NOTHING_MEASURED):
                self._told.faults.append("evidence: a round that was not judged has some")
            return self._judged(facts, memory), 0
        context, challenge = self._inputs(checkpoint.manifest)
        rows = RowsAgain(
            published=self._sources.published,
            round=Round(context, challenge, checkpoint.layout, checkpoint.theta, _UNKNOWN_TIME),
            challenge=challenge,
            body=body,
            memory=memory,
            measured=self._evidence(),
            table=self._table(checkpoint),
            shape=checkpoint.shape,
            faults=self._told.faults,
            taken=self._told.taken,
        )
        facts = replace(facts, select_seed=challenge.select_seed, miners=rows.facts(), merge=body.merge)
        return self._judged(facts, memory), rows.rejudged

    def _judged(self, facts: RoundFacts, memory: GradientMemory) -> GradientVerdictBody:
        try:
            return judge_round(facts, memory)
        except ValueError as error:
            self._told.faults.append(f"facts: {error}")
            raise Unreadable("what was published contradicts itself") from error

    def _facts(self, spec: GradientSpec) -> RoundFacts:
        """What is the verdict's own, in every kind of round."""
        body = self._body
        return RoundFacts(
            network_id=body.network_id,
            spec=spec,
            window=body.window,
            versions=body.versions,
            inputs=body.inputs,
            rule=self._sources.params,
            registered=body.hotkeys,
            windows=next((one.windows for one in body.kinds if one.kind == GRADIENT), 0),
            others=self._others(),
            status=body.status,
            reason=body.reason,
        )

    def _checkpoint(self) -> RoundCheckpoint | None:
        """None for a round that was not scored."""
        body = self._body
        if body.status is not WindowStatus.SCORED:
            return None
        if body.inputs.checkpoint_digest is None:
            self._told.faults.append("inputs: a scored round names no checkpoint")
            raise Unreadable("no checkpoint")
        try:
            return self._sources.checkpoint(body.network_id, body.inputs.checkpoint_digest)
        except (GrailError, ValueError) as error:
            said = f"{error.what} ({error.hint})" if isinstance(error, GrailError) and error.hint else str(error)
            raise Unreadable(said) from error

    def _spec_before(self) -> GradientSpec:
        """Of the last scored round before one that was not: its verdict names no checkpoint."""
        for round_, verdict in reversed(self._before(WINDOW_LENGTH, MEMORY_ROUNDS)):
            digest = verdict.body.inputs.checkpoint_digest
            if digest is None:
                continue
            try:
                found = GradientSpec.of(self._sources.checkpoint(verdict.body.network_id, digest).manifest.environment)
            except (GrailError, ValueError):
                continue
            self._told.taken.append(Taken("spec", f"that it is the one of round {round_}: this round names no checkpoint"))
            return found
        raise Unreadable("it was not scored, and no scored round before it says under which spec it was")

    def _inputs(self, manifest: CheckpointManifest) -> tuple[RoundContext, Challenge]:
        told = self._body.inputs
        if told.block_hash is None or told.select_block_hash is None:
            self._told.faults.append("inputs: a scored round names no block hash")
            raise Unreadable("no block hashes")
        seed, challenge = (self._beacon(number) for number in (told.seed_round, told.challenge_round))
        window = WindowContext(self._sources.params, self._body.network_id, self._body.window, told.block_hash, seed, manifest)
        try:
            context = RoundContext(window)
        except ValueError as error:
            self._told.faults.append(f"inputs: no round begins there: {error}")
            raise Unreadable("no round") from error
        randomness = NO_BEACON if challenge is None else challenge.randomness
        select_seed = context.randomness.select_seed(told.select_block_hash, randomness)
        return context, Challenge(told.select_block_hash, challenge, select_seed)

    def _beacon(self, number: int | None) -> SignedRound | None:
        if number is None:
            return None
        found = self._sources.round_of(number)
        if found is None:
            raise Unreadable(f"beacon round {number} could not be had: all that is drawn of a file follows from it")
        return found

    def _evidence(self) -> dict[Hotkey, MinerMeasured]:
        """Nothing but what the verdict names under its signature is read."""
        digest = self._verdict.evidence_digest
        if digest in (None, _NOTHING_MEASURED):
            return {}
        try:
            data = self._sources.published.evidence(self._body.window)
        except StorageError as error:
            raise Unreadable(f"the evidence: {error.what}") from error
        if data is None:
            raise Unreadable("the evidence is not there (any more): without it checks 6 to 9 cannot be made again")
        if hashlib.sha256(data).digest() != digest:
            self._told.faults.append("evidence: its bytes are not those whose digest the verdict is signed with")
            raise Unreadable("the evidence is not what was signed")
        try:
            return {one.hotkey: one for one in self._sources.confined.open_round_evidence(data)}
        except ProtocolViolationError as error:
            self._told.faults.append(f"evidence: {error.what}")
            raise Unreadable("the evidence cannot be read") from error
        except ConfinementError as error:
            raise Unreadable(f"this machine could not open the evidence: {error.what}") from error

    def _table(self, checkpoint: RoundCheckpoint) -> CalibrationTable | None:
        """What sketches are judged by: the pinned table where the verdict says so, else the coarse bounds alone."""
        said = self._body.versions.calibration
        if said and said != checkpoint.table_name:
            self._told.faults.append(f"versions: judged by calibration {said}, the checkpoint pins {checkpoint.table_name}")
        return checkpoint.table if said == checkpoint.table_name else None

    # --- what came before -----------------------------------------------------------------------------------------------

    def _memory(self, spec: GradientSpec, manifest: CheckpointManifest | None) -> GradientMemory:
        """Of the rounds before, from this validator's bodies and the one that it began with."""
        before = self._before(spec.round_blocks, MEMORY_ROUNDS)
        found = dict(before)
        for verdict in (*[one for _, one in before], self._verdict):
            if verdict.adopted is None:
                continue
            leader, last = verdict.adopted.validator, verdict.adopted.last
            taken = self._of_another(leader, last)
            if taken is None:
                raise Unreadable(f"round {last} was adopted from {ss58(leader)}, whose verdict of it is in no bucket")
            found[last] = taken
        entries = sorted(found.items())[-MEMORY_ROUNDS:]
        for at, (round_, _) in enumerate(entries):
            if at and round_ - entries[at - 1][0] > spec.round_blocks:
                gap = f"rounds between {entries[at - 1][0]} and {round_} have no verdict here: nothing is remembered of them"
                self._told.taken.append(Taken("memory", gap))
        bodies = (verdict.body for _, verdict in entries)
        return remembered(bodies, self._body.window, spec, first=lambda: self._is_first(manifest))

    def _is_first(self, manifest: CheckpointManifest | None) -> bool:
        """Is it the network's first round of gradient work, by its checkpoint and the one before that?"""
        if manifest is None or manifest.valid_from != self._body.window:
            return False
        if manifest.parent is None:
            return True
        try:
            return work_of(self._sources.checkpoint(self._body.network_id, manifest.parent).manifest) is not Work.GRADIENT
        except (GrailError, ValueError):
            self._told.taken.append(Taken("memory", "that rounds came before: the checkpoint before this one is not here"))
            return False

    def _before(self, spacing: int, most: int) -> list[tuple[Window, SignedGradientVerdict]]:
        """This validator's verdicts of rounds before, oldest first."""
        body, found = self._body, list[tuple[Window, SignedGradientVerdict]]()
        oldest = body.window - most * spacing
        try:
            windows = [one for one in self._sources.published.verdicts.windows() if oldest <= one < body.window]
            for window in windows:
                verdict = round_verdict(self._sources.published.verdicts.read(window))
                if verdict is not None and self._is(verdict, self._verdict.validator, window):
                    found.append((window, verdict))
        except StorageError as error:
            raise Unreadable(f"the verdicts before this one: {error.what}") from error
        return found

    def _of_another(self, leader: Hotkey, round_: Window) -> SignedGradientVerdict | None:
        for store in self._sources.published.beside:
            try:
                verdict = round_verdict(BucketVerdicts(store).read(round_))
            except (StorageError, ConfigurationError):
                continue  # another bucket may have it
            if verdict is not None and self._is(verdict, leader, round_):
                return verdict
        return None

    def _is(self, verdict: SignedGradientVerdict, validator: Hotkey, round_: Window) -> bool:
        return verdict.validator == validator and verdict.body.window == round_ and verdict.verify(self._body.network_id)

    def _others(self) -> tuple[OtherKind, ...]:
        """What other kinds of work are owed: their powers are of a body that this validator published before."""
        found = []
        for kind in self._body.kinds:
            if kind.kind == GRADIENT or kind.body is None:
                continue
            body = self._body_of(kind.body)
            if body is None:
                raise Unreadable(f"the verdict that the powers of {kind.kind} are of is not there (any more)")
            paid = {uid: power for uid, power in powers(body.body.score_inputs).items() if power}
            found.append(OtherKind(kind.kind, kind.windows, kind.body, paid, MAX_POWER))
        return tuple(found)

    def _body_of(self, digest: Digest) -> SignedVerdict | None:
        window = self._body.window
        for number in range(window - WINDOW_LENGTH, max(0, window - _OTHER_WINDOWS * WINDOW_LENGTH) - 1, -WINDOW_LENGTH):
            try:
                raw = self._sources.published.verdicts.read(Window(number))
                verdict = None if raw is None else SignedVerdict.decode(raw)
            except (StorageError, ValueError):
                continue
            if verdict is not None and verdict.body.digest() == digest:
                return verdict
        return None
