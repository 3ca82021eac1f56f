"""A published verdict judged again, by the code that judged it and from published files alone: no wallet, no chain, no model.

The checks that need no model run again over the files; what a model measured comes from the validator's evidence, and
`judging.judge_window` makes of both the body that the validator should have published. What nobody can make again from files
is taken from the verdict, and is named: which blocks and rounds there were, what first sight saw, which file this validator
could not have, what went wrong on its machine. Everything else is compared, to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final

from grail_core.chain.base import Neuron
from grail_core.checkpoints.pinned_table import PinnedTable
from grail_core.environment import Environment
from grail_core.errors import GrailError, ProtocolViolationError, StorageError
from grail_core.files.confined.opening import Confined, ConfinementError
from grail_core.files.evidence import write_evidence
from grail_core.files.window_file import WindowFile
from grail_core.keys import ss58
from grail_core.model.described import ModelDescription
from grail_core.proof.calibration import Shape
from grail_core.protocol import MinerStatus, MinerVerdict, Seal, SignedVerdict, VerdictBody, WindowStatus
from grail_core.protocol.beacon import SignedRound
from grail_core.protocol.context import NO_BEACON, Challenge, WindowContext
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.verification.context import Renderer
from grail_core.verification.verdict import contradictions, inputs_of
from grail_validator.cases import Case, Docket, Means, Measured, Memory, Standing, WindowResult
from grail_validator.judging import judge_window, unscored_window
from grail_validator.published import Published
from grail_validator.replay_docket import DRAWN, History, Sealings, docket_of, toss
from grail_validator.replay_evidence import EvidenceOf, PublishedSampling
from grail_validator.replay_memory import Counted, ReplayMemory, VerdictFault, verdict_of
from grail_validator.replay_report import Outcome, Replay, Taken, first_difference

NO_VERDICT: Final = "there is no verdict of this window"
_NO_SIGNATURE: Final = bytes(48)
"""Of a round whose number alone is known."""
_NOTHING_MEASURED: Final = hashlib.sha256(write_evidence(())).digest()


@dataclass(frozen=True)
class PublicCheckpoint:
    """What checks without a model need of the checkpoint that a verdict names."""

    manifest: CheckpointManifest
    environment: Environment
    renderer: Renderer
    model: ModelDescription
    pinned: PinnedTable


@dataclass(frozen=True)
class Sources:
    """Where everything comes from that a window is judged again with.

    `checkpoint` gives that of a digest on a network and raises GrailError where nobody has it; `round_of` the signed round of
    a number, None where no relay gives it.
    """

    params: NetworkParameters
    published: Published
    confined: Confined
    checkpoint: Callable[[Digest, Digest], PublicCheckpoint]
    round_of: Callable[[int], SignedRound | None]
    is_round: Callable[[SignedRound], bool]


class _Unreadable(Exception):
    """What a window rests on cannot be had."""


@dataclass
class _Told:
    faults: list[str] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)


class Replayer:
    """Judges one validator's windows again, in any order; ascending is cheapest.

    Args:
        validator: whose verdicts they must be; None: the one who signed the first that is read.
    """

    def __init__(self, sources: Sources, validator: Hotkey | None = None) -> None:
        self._sources = sources
        self._validator = validator
        self._memory: ReplayMemory | None = None

    def window(self, window: Window) -> Replay:
        """Never raises for what others published; a fault of this machine's is its own GrailError."""
        try:
            verdict = verdict_of(self._sources.published.verdicts.read(window), window)
        except StorageError as error:
            return Replay(window, Outcome.UNREADABLE, reason=error.what)
        if verdict is None:
            return Replay(window, Outcome.UNREADABLE, reason=NO_VERDICT)
        if isinstance(verdict, VerdictFault):
            return Replay(window, Outcome.DIFFERENT, faults=(f"signature: {verdict.what}",))
        self._validator = self._validator or verdict.validator
        if verdict.validator != self._validator:
            fault = f"signature: the verdict is {ss58(verdict.validator)}'s, not {ss58(self._validator)}'s"
            return Replay(window, Outcome.DIFFERENT, verdict.validator, faults=(fault,))
        told = _Told()
        status = verdict.body.status.value
        try:
            ours, rejudged = self._again(verdict, told)
        except _Unreadable as error:
            outcome = Outcome.DIFFERENT if told.faults else Outcome.UNREADABLE
            return Replay(
                window,
                outcome,
                verdict.validator,
                status,
                faults=tuple(told.faults),
                taken=tuple(told.taken),
                reason=str(error),
            )
        difference = first_difference(verdict.body, ours)
        equal = difference is None and not told.faults
        return Replay(
            window,
            Outcome.EQUAL if equal else Outcome.DIFFERENT,
            verdict.validator,
            status,
            difference,
            tuple(told.faults),
            tuple(told.taken),
            rejudged,
        )

    def _again(self, verdict: SignedVerdict, told: _Told) -> tuple[VerdictBody, int]:
        """The body that follows from what was published, and how many miners' files went through the checks."""
        body = verdict.body
        memory = self._memory_of(body.network_id, verdict.validator)
        try:
            history, gaps = memory.history(body.window)
        except StorageError as error:
            raise _Unreadable(f"the verdicts before this one: {error.what}") from error
        told.taken += [Taken("memory", gap) for gap in gaps]
        if body.status is not WindowStatus.SCORED:
            return self._unscored(verdict, history, told), 0
        again = _Again(self._sources, verdict, memory, history, told)
        result, rejudged = again.judge()
        memory.forget(body.window)
        return _in_its_version(result.body, body, told), rejudged

    def _unscored(self, verdict: SignedVerdict, history: History, told: _Told) -> VerdictBody:
        body = verdict.body
        told.taken.append(Taken("status", f"why the window is {body.status.value} ({body.reason})"))
        if verdict.evidence_digest not in (None, _NOTHING_MEASURED):
            told.faults.append("evidence: a window that was not judged has some")
        neurons = tuple(
            Neuron(uid, hotkey, 0, False, Block(0), None, None, Block(0)) for uid, hotkey in sorted(body.hotkeys.items())
        )
        standing = Standing(body.network_id, self._sources.params, neurons, Memory(history, {}, {}))
        ours = unscored_window(body.window, body.status, body.reason, standing).body
        return _in_its_version(ours, body, told)

    def _memory_of(self, network_id: Digest, validator: Hotkey) -> ReplayMemory:
        if self._memory is None or self._memory.network_id != network_id:
            sources = self._sources
            self._memory = ReplayMemory(sources.published, sources.confined.open_file, validator, network_id)
        return self._memory


class _Again:
    """One scored window."""

    def __init__(self, sources: Sources, verdict: SignedVerdict, memory: ReplayMemory, history: History, told: _Told) -> None:
        self._sources, self._verdict, self._memory = sources, verdict, memory
        self._history, self._told = history, told
        self._body = verdict.body
        self._sealings = Sealings(sources.published, sources.confined.open_file, self._body)
        self._lost: set[Hotkey] = set()
        self._measured: dict[Hotkey, Measured] = {}
        self._evidence_faults: dict[Hotkey, str] = {}
        self._own_faults: list[str] = []

    def judge(self) -> tuple[WindowResult, int]:
        evidence = self._evidence()
        checkpoint = self._checkpoint()
        self._sealings.gather()
        context, challenge, seed_known = self._inputs(checkpoint.manifest)
        if seed_known:
            found = contradictions(self._body, inputs_of(context, challenge), challenge.select_seed)
            self._told.faults += [str(one) for one in found]
        counted = self._counted()
        coins = toss(self._body, self._sealings, self._history, challenge.select_seed if seed_known else None)
        while True:
            docket, faults = docket_of(self._body, self._sealings, coins, self._history)
            result = judge_window(self._case(context, challenge, docket, checkpoint, evidence, counted, seed_known))
            if self._own_faults:
                raise _Unreadable(f"this machine could not open a file: {self._own_faults[0]}")
            taken = self._not_again(result.body, counted)
            if not taken:
                break
            self._sealings.taken |= taken
        self._told.faults += faults
        self._told.faults += [f"evidence of {hotkey.hex()}: {what}" for hotkey, what in self._evidence_faults.items()]
        self._require_all_evidence(result)
        self._tell_taken()
        return result, len(docket.drawn)

    def _evidence(self) -> EvidenceOf:
        """By file. Nothing but what the verdict names under its signature is read."""
        digest = self._verdict.evidence_digest
        if digest in (None, _NOTHING_MEASURED):
            return {}
        try:
            data = self._sources.published.evidence(self._body.window)
        except StorageError as error:
            raise _Unreadable(f"the evidence: {error.what}") from error
        if data is None:
            raise _Unreadable("the evidence is not there (any more): without it checks 6 to 9 cannot be made again")
        if hashlib.sha256(data).digest() != digest:
            self._told.faults.append("evidence: its bytes are not those whose digest the verdict is signed with")
            raise _Unreadable("the evidence is not what was signed")
        try:
            return {(one.hotkey, one.content_digest): one for one in self._sources.confined.open_evidence(data)}
        except ProtocolViolationError as error:
            self._told.faults.append(f"evidence: {error.what}")
            raise _Unreadable("the evidence cannot be read") from error

    def _checkpoint(self) -> PublicCheckpoint:
        digest = self._body.inputs.checkpoint_digest
        if digest is None:
            self._told.faults.append("inputs: a scored window names no checkpoint")
            raise _Unreadable("no checkpoint")
        try:
            return self._sources.checkpoint(self._body.network_id, digest)
        except GrailError as error:
            raise _Unreadable(f"{error.what} ({error.hint})" if error.hint else error.what) from error

    def _inputs(self, manifest: CheckpointManifest) -> tuple[WindowContext, Challenge, bool]:
        """Context and challenge, and whether the challenge is known: else its round is a number without a signature."""
        told, params = self._body.inputs, self._sources.params
        if told.block_hash is None or told.select_block_hash is None:
            self._told.faults.append("inputs: a scored window names no block hash")
            raise _Unreadable("no block hashes")
        seed_round = self._seed_round(told.seed_round)
        context = WindowContext(params, self._body.network_id, self._body.window, told.block_hash, seed_round, manifest)
        round_ = None if told.challenge_round is None else self._sources.round_of(told.challenge_round)
        known = told.challenge_round is None or round_ is not None
        if not known:
            assert told.challenge_round is not None
            round_ = SignedRound(told.challenge_round, _NO_SIGNATURE)
            why = f"beacon round {told.challenge_round} could not be had: coins, and what was drawn of each file, are as said"
            self._told.taken.append(Taken("challenge", why))
        randomness = NO_BEACON if round_ is None else round_.randomness
        select_seed = context.randomness.select_seed(told.select_block_hash, randomness)
        why = "hashes, numbers of rounds, and which checkpoint was in force: no chain was asked"
        self._told.taken.append(Taken("inputs", why))
        return context, Challenge(told.select_block_hash, round_, select_seed), known

    def _seed_round(self, number: int | None) -> SignedRound | None:
        """From the beacon, else from a header: whoever wrote it, its signature is the beacon's."""
        if number is None:
            return None
        round_ = self._sources.round_of(number)
        if round_ is not None:
            return round_
        for seal in self._sealings.seals.values():
            header = seal.header
            if header.beacon_round == number and header.beacon_signature is not None:
                found = SignedRound(number, header.beacon_signature)
                if self._sources.is_round(found):
                    return found
        if any(miner.status in DRAWN and miner.hotkey in self._sealings.seals for miner in self._body.miners):
            raise _Unreadable(f"beacon round {number} could not be had, from no relay and in no header")
        return SignedRound(number, _NO_SIGNATURE)  # nothing is derived from it

    def _counted(self) -> dict[Hotkey, Counted]:
        drawn = [m.hotkey for m in self._body.miners if m.status in DRAWN and m.hotkey in self._sealings.seals]
        try:
            return {hotkey: self._memory.counted(hotkey, self._body.window) for hotkey in drawn}
        except StorageError as error:
            raise _Unreadable(f"the verdicts before this one: {error.what}") from error

    def _case(
        self,
        context: WindowContext,
        challenge: Challenge,
        docket: Docket,
        checkpoint: PublicCheckpoint,
        evidence: EvidenceOf,
        counted: dict[Hotkey, Counted],
        seed_known: bool,
    ) -> Case:
        model = checkpoint.model
        shape = Shape(model.layers, model.hidden_size)

        def sampling(seed: Digest, probability: Fraction) -> PublishedSampling:
            known = seed if seed_known else None
            return PublishedSampling(evidence, known, probability, shape, self._evidence_faults.__setitem__)

        def keep(measured: Measured) -> None:
            self._measured[measured.verdict.hotkey] = measured

        def unforeseen(hotkey: Hotkey, error: Exception) -> None:
            raise error  # a mistake of ours, and no verdict's

        means = Means(
            environment=checkpoint.environment,
            renderer=checkpoint.renderer,
            vocabulary_size=model.vocabulary_size,
            context_length=model.context_length,
            shape=shape,
            pinned=checkpoint.pinned,
            sampling=sampling,
            open_file=self._open_file,
            keep=keep,
            unforeseen=unforeseen,
        )
        memory = Memory(self._history, {hotkey: one.identities for hotkey, one in counted.items()}, {})
        standing = Standing(self._body.network_id, self._sources.params, (), memory)
        return Case(context, challenge, docket, standing, means, _Files(self), measured=dict(self._measured))

    def _open_file(self, data: bytes, rows: int | None) -> WindowFile:
        """A fault of this machine's is no verdict about anybody."""
        try:
            return self._sources.confined.open_file(data, rows)
        except ConfinementError as error:
            self._own_faults.append(error.what)
            raise

    def _not_again(self, ours: VerdictBody, counted: dict[Hotkey, Counted]) -> dict[Hotkey, str]:
        """Miners whose verdict must be taken after all: a file is gone, or which rollouts counted before is not known."""
        taken = {hotkey: "its file is nowhere any more" for hotkey in self._lost if hotkey not in self._sealings.taken}
        files_gone = any(
            miner.hotkey in self._sealings.taken or miner.hotkey in taken
            for miner in self._body.miners
            if miner.status is MinerStatus.ACCEPTED
        )
        for miner in self._body.miners:
            mine = ours.miner(miner.hotkey)
            if mine is None or mine == miner or miner.hotkey in self._sealings.taken or miner.hotkey in taken:
                continue
            if miner.status is not MinerStatus.ACCEPTED or not _differ_in_unique_alone(miner, mine):
                continue
            missing = counted[miner.hotkey].missing if miner.hotkey in counted else ""
            if missing:
                taken[miner.hotkey] = f"which of its rollouts had counted before: {missing}"
            elif files_gone and mine.unique_valid == miner.unique_valid:
                taken[miner.hotkey] = "which of its rollouts equal another hotkey's, whose file is nowhere any more"
        return taken

    def _require_all_evidence(self, result: WindowResult) -> None:
        """The evidence is of what was judged, and holds nothing besides."""
        if self._evidence_faults or any(miner.hotkey in self._sealings.taken and miner.sampled for miner in self._body.miners):
            return
        digest = self._verdict.evidence_digest
        if digest is not None and hashlib.sha256(write_evidence(result.evidence)).digest() != digest:
            self._told.faults.append("evidence: it is not, or not only, of the files that were judged")

    def _tell_taken(self) -> None:
        body, taken = self._body, self._told.taken
        absent = sum(miner.status is MinerStatus.ABSENT for miner in body.miners)
        taken.append(Taken("first sight", f"store times of seals, and why {absent} miners have none that counts"))
        for miner in body.miners:
            if miner.hotkey in self._sealings.taken:
                why = f"{miner.status.value}; {self._sealings.taken[miner.hotkey]}"
                taken.append(Taken(f"verdict of uid {miner.uid}", why))


@dataclass(frozen=True)
class _Files:
    """`SealedFiles` of what was published; nothing is shared again."""

    again: _Again

    def of(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        data = self.again._sources.published.file(self.again._body.window, hotkey, seal.content_digest)
        if data is None:
            self.again._lost.add(hotkey)
        return data

    def elsewhere(self, hotkey: Hotkey, seal: Seal) -> bytes | None:
        return None

    def share(self, hotkey: Hotkey, seal: Seal, data: bytes) -> None:
        pass


def _differ_in_unique_alone(theirs: MinerVerdict, ours: MinerVerdict) -> bool:
    said = [finding for finding in theirs.findings if finding.check == "unique"]
    if len(said) != 1 or ours.status is not theirs.status:
        return False
    findings = tuple(said[0] if finding.check == "unique" else finding for finding in ours.findings)
    return replace(ours, unique_valid=theirs.unique_valid, findings=findings) == theirs


def _in_its_version(ours: VerdictBody, theirs: VerdictBody, told: _Told) -> VerdictBody:
    """Under the other's name of the code: another version that says the same says the same."""
    if ours.versions.code == theirs.versions.code:
        return ours
    told.taken.append(Taken("versions.code", f"{theirs.versions.code} judged, {ours.versions.code} judges again"))
    return replace(ours, versions=replace(ours.versions, code=theirs.versions.code))
