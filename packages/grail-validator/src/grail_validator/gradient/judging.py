"""One round of gradient work, judged: from what the two sights saw to facts, evidence and a verdict body.

Checks 1 to 5 of everybody who sealed, a model's checks of whom the coins drew, of whoever was merged and of files that resemble
each other, losses on common and own data; then the protocol's own rules (`judge_round`). What fails here for this validator's
own sake is inconclusive for that miner, and no other's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import grail_core
from grail_core.chain.base import Neuron
from grail_core.errors import DiskFullError, GrailError
from grail_core.files.gradient_evidence import MinerMeasured
from grail_core.gradient.merge import medians, norms2
from grail_core.proof.calibration import PairCalibration, Shape
from grail_core.proof.numerics import numerics_class_of
from grail_core.proof.round_work import Losses, Scored
from grail_core.proof.trained_model import I32
from grail_core.protocol.constants import SCORE_WINDOWS
from grail_core.protocol.context import Challenge, challenge_seed
from grail_core.protocol.findings import Finding, Outcome
from grail_core.protocol.gradient.judging import MinerFacts, OtherKind, RoundFacts, judge_round, selected
from grail_core.protocol.gradient.memory import GradientMemory
from grail_core.protocol.gradient.seal import GradientSeal
from grail_core.protocol.gradient.spec import GRADIENT, GRADIENT_VERSION
from grail_core.protocol.gradient.verdicts import GradientVerdictBody, MergeSeen
from grail_core.protocol.reading import MAX_JSON_INTEGER
from grail_core.protocol.scores import WeightRule
from grail_core.protocol.types import Digest, Hotkey
from grail_core.protocol.verdicts import MAX_REASON, Versions
from grail_core.text import printable
from grail_core.verification.gradient.files import Examined, Revealed, Round, Sealer, StoredObject, examine_file
from grail_core.verification.gradient.measure import (
    RoundScene,
    common_rows,
    losses_after,
    losses_at,
    opened_step,
    own_rows,
    sketches_of,
    step_of,
)
from grail_core.verification.gradient.model_checks import proof_findings, replay_findings
from grail_core.verification.gradient.seal import read_round_seal
from grail_core.verification.gradient.similar import similar_finding, similar_pairs
from grail_core.verification.verdict import inputs_of
from grail_core.verification.wording import in_short, say
from grail_validator.gradient.sights import UNREADABLE

MEASURE: Final = "measure"
"""Named in findings on what this validator could not do itself."""
NOT_IN_TIME: Final = "its seal was not stored between the round's beginning and its deadline"


@dataclass(frozen=True, eq=False)
class MinerCase:
    """What the sights saw of one registered hotkey. `lost`: why bytes that came in time are not to be had any more: nothing is
    found out about them, and nobody else waits for them."""

    neuron: Neuron
    seal: StoredObject
    update: StoredObject = field(default_factory=StoredObject)
    opening: StoredObject = field(default_factory=StoredObject)
    lost: str = ""


@dataclass(frozen=True, eq=False)
class RoundCase:
    """A round that is ready to be judged.

    Args:
        files_missed: this validator missed the sight of updates and openings. highest_uid: of everybody registered at T.
        merged: who the next manifest says was merged, None where it was not in time. pair: calibration by a miner's proof
            class. working: told whose file is in hand, None when none is. unforeseen: of an error that nobody foresaw.
        given_up: hotkeys whose files were in hand when this validator's process ended.
    """

    round: Round
    challenge: Challenge
    scene: RoundScene
    miners: tuple[MinerCase, ...]
    memory: GradientMemory
    registered: Mapping[int, Hotkey]
    rule: WeightRule
    start_ms: int
    deadline_ms: int
    highest_uid: int
    files_missed: bool = False
    merged: MergeSeen | None = None
    windows: int = SCORE_WINDOWS  # of the last 12, that had gradient work
    others: tuple[OtherKind, ...] = ()  # what other kinds are owed
    pair: Callable[[str], PairCalibration | None] = lambda _: None
    calibration: str = ""  # the pinned table's name
    working: Callable[[Hotkey | None], None] = lambda _: None
    unforeseen: Callable[[Hotkey, Exception], None] = lambda *_: None
    given_up: frozenset[Hotkey] = frozenset()
    stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True, eq=False)
class RoundResult:
    """The body, and what it was decided from."""

    body: GradientVerdictBody
    measured: tuple[MinerMeasured, ...] = ()


@dataclass(eq=False)
class _Miner:
    """One hotkey on its way through the checks."""

    case: MinerCase
    seal: GradientSeal | None = None
    reason: str = ""
    findings: list[Finding] = field(default_factory=list)
    examined: Examined | None = None
    withheld: bool = False
    sight_missed: bool = False
    measured: MinerMeasured | None = None

    @property
    def hotkey(self) -> Hotkey:
        return self.case.neuron.hotkey

    @property
    def revealed(self) -> Revealed | None:
        return None if self.examined is None else self.examined.revealed

    @property
    def stands(self) -> bool:
        """Is it still neither failed nor undecided?"""
        return self.revealed is not None and all(finding.outcome is Outcome.ACCEPT for finding in self.findings)


class Interrupted(Exception):
    """The validator was asked to stop while a round was judged."""


def judge(case: RoundCase) -> RoundResult:
    """Raises: Interrupted, DiskFullError."""
    miners = [_sealed(one, case) for one in sorted(case.miners, key=lambda one: one.neuron.uid)]
    for one in miners:
        if one.seal is not None:
            _guarded(one, case, partial(_examine, one, case))
    _excuse(miners)
    passed = {one.case.neuron.uid: one.revealed for one in miners if one.revealed is not None}
    if passed:
        _measure(miners, passed, case)
    facts = _facts(miners, case)
    return RoundResult(judge_round(facts, case.memory), tuple(one.measured for one in miners if one.measured is not None))


def unscored(case: RoundFacts, memory: GradientMemory) -> RoundResult:
    """A round that is void, inconclusive or was missed: nobody is judged, scores go on from what is known."""
    return RoundResult(judge_round(case, memory))


def versions(environment: str = "", calibration: str = "") -> Versions:
    return Versions(code=f"grail-core/{grail_core.__version__}", calibration=calibration, environment=environment)


def _sealed(entry: MinerCase, case: RoundCase) -> _Miner:
    """Check 1."""
    one = _Miner(entry)
    if entry.seal.data is None:
        one.reason = entry.seal.reason
        return one
    if not case.start_ms < entry.seal.stored_at_ms <= case.deadline_ms:
        one.reason = NOT_IN_TIME
        return one
    seal = read_round_seal(entry.seal.data, entry.neuron.hotkey, case.round.context, case.round.layout)
    if isinstance(seal, list):
        one.findings, one.reason = seal, in_short(seal[0])
        return one
    one.seal = seal
    return one


def _examine(one: _Miner, case: RoundCase) -> None:
    """Checks 2 to 5."""
    assert one.seal is not None
    if case.files_missed or one.case.lost:
        one.sight_missed = True
        one.reason = one.case.lost or "this validator did not see whether the file came in time"
        return
    known = case.memory.of(one.hotkey).standing.feedback
    sealer = Sealer(one.case.neuron.uid, one.hotkey, one.seal, known)
    one.examined = examine_file(case.round, sealer, one.case.update, one.case.opening)
    one.findings += one.examined.findings
    one.withheld = one.examined.withheld


def _excuse(miners: Sequence[_Miner]) -> None:
    """A store that does not answer withholds its miner's file where most stores of the other sealers answered; else nothing
    says that it is not our own line. That nothing lies there is an answer."""
    sealed = [one for one in miners if one.seal is not None]
    unread = [one for one in sealed if one.withheld and _unread(one)]
    answered = len(sealed) - len(unread)
    if 2 * answered > len(sealed) - 1:
        return
    for one in unread:
        one.sight_missed, one.withheld, one.findings = True, False, []
        one.reason = f"{answered} of {len(sealed)} stores answered this validator"


def _unread(one: _Miner) -> bool:
    return any(part.data is None and part.reason == UNREADABLE for part in (one.case.update, one.case.opening))


def _measure(miners: Sequence[_Miner], passed: Mapping[int, Revealed], case: RoundCase) -> None:
    """Checks 6 to 9 of whoever they are for."""
    scene, spec, seed = case.scene, case.round.context.spec, case.challenge.select_seed
    declared = {one.hotkey: one.seal.header.declared for one in miners if one.seal is not None}
    coins = selected(spec, case.round.context.round, seed, declared, case.memory)
    merged = set(case.merged.merged) if case.merged is not None else set()
    similar = similar_pairs({uid: one.file for uid, one in passed.items()}, scene.layout, spec, seed)
    for one in miners:
        if one.revealed is None:
            continue
        alike = similar.get(one.case.neuron.uid)
        if alike is not None:
            one.findings.append(similar_finding(*alike))
        if one.revealed.asked.step is not None:
            _guarded(one, case, partial(_replay, one, one.revealed, case))
    most = _clip_of(miners, case)
    common: tuple[I32, Losses] | None = None
    for one in miners:
        revealed = one.revealed
        if revealed is None or one.seal is None or not one.stands:
            continue
        if not coins[one.hotkey].selected and (one.case.neuron.uid, one.seal.content_digest) not in merged:
            continue
        _guarded(one, case, partial(_proof, one, revealed, case))
        if not one.stands:
            continue
        if common is None:
            rows = common_rows(scene, seed, case.highest_uid)
            common = rows, losses_at(scene, scene.theta, rows)
        rows, before = common
        _guarded(one, case, partial(_score, one, revealed, case, most, rows, before))


def _clip_of(miners: Sequence[_Miner], case: RoundCase) -> tuple[int, ...]:
    """What updates are clipped to before they are scored: each tensor's median norm² over the files that a merge could take.

    Whoever is rejected by a replay or unpaid for an earlier failure has no say in it: files that move nothing cost nothing, and
    with half of them every honest score would be zero.
    """
    standing = [one for one in miners if one.stands]
    paid = [one for one in standing if not case.memory.of(one.hotkey).standing.failing(case.round.context.round)]
    files = [one.revealed.file for one in paid or standing if one.revealed is not None]
    return medians([norms2(file.streams, case.scene.layout) for file in files])


def _replay(one: _Miner, revealed: Revealed, case: RoundCase) -> None:
    """Check 7: of every file whose coin fell."""
    opened = opened_step(case.scene.layout, revealed, case.scene.theta)
    assert opened is not None
    measured = step_of(case.scene, revealed, opened)
    one.findings += replay_findings(case.round.context, case.scene.layout, opened, measured)
    one.measured = _with(one, revealed, case, step=opened.step, replayed=measured)


def _proof(one: _Miner, revealed: Revealed, case: RoundCase) -> None:
    """Check 6."""
    measured = sketches_of(case.scene, revealed)
    pair = case.pair(revealed.header.proof_class)
    one.findings += proof_findings(revealed, measured, pair=pair, shape=_shape(case))
    one.measured = _with(one, revealed, case, sketches=measured)


def _score(one: _Miner, revealed: Revealed, case: RoundCase, most: Sequence[int], rows: I32, before: Losses) -> None:
    """Check 9: losses on common and on own data, which never reject."""
    scene = case.scene
    own = own_rows(scene, revealed)
    own_before = losses_at(scene, scene.theta, own)
    after, own_after = losses_after(scene, revealed, most, [rows, own])
    one.measured = _with(one, revealed, case, common=Scored(before, after), own=Scored(own_before, own_after))


def _with(one: _Miner, revealed: Revealed, case: RoundCase, **parts: object) -> MinerMeasured:
    known = one.measured
    if known is None:
        digest = revealed.sealer.seal.content_digest
        known = MinerMeasured(one.hotkey, digest, numerics_class_of(case.scene.policy))
    values = {name: getattr(known, name) for name in known.__dataclass_fields__} | parts
    return MinerMeasured(**values)


def _guarded(one: _Miner, case: RoundCase, work: Callable[[], None]) -> None:
    """What fails of this validator's own costs this miner's verdict, and no other's."""
    if case.stopping():
        raise Interrupted
    if one.hotkey in case.given_up:
        one.findings.append(_inconclusive("this validator's process ended while it worked on this file"))
        return
    case.working(one.hotkey)
    try:
        work()
    except (DiskFullError, Interrupted):
        raise
    except GrailError as error:
        one.findings.append(_inconclusive(f"this validator could not measure: {error.what}"))
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs one miner's verdict and not the round
        case.unforeseen(one.hotkey, error)
        one.findings.append(_inconclusive(f"unforeseen in this validator: {type(error).__name__}"))
    finally:
        case.working(None)


def _shape(case: RoundCase) -> Shape:
    return Shape(case.scene.policy.layers, case.scene.policy.hidden_size)


def _inconclusive(detail: str) -> Finding:
    return say(Outcome.INCONCLUSIVE, MEASURE, detail=detail)


def _facts(miners: Sequence[_Miner], case: RoundCase) -> RoundFacts:
    context = case.round.context
    return RoundFacts(
        network_id=context.network_id,
        spec=context.spec,
        window=context.round,
        versions=versions(f"{GRADIENT}/{GRADIENT_VERSION}", case.calibration),
        inputs=inputs_of(context.window, case.challenge),
        rule=case.rule,
        registered=case.registered,
        select_seed=case.challenge.select_seed,
        miners=tuple(_fact(one, case) for one in miners),
        merge=case.merged,
        windows=case.windows,
        others=case.others,
    )


def _fact(one: _Miner, case: RoundCase) -> MinerFacts:
    entry, measured = one.case, one.measured
    header = one.examined.header if one.examined is not None and one.examined.accepted_layout else None
    first = next((finding for finding in one.findings if finding.outcome is Outcome.REJECT), None)
    undecided = next((finding for finding in one.findings if finding.outcome is Outcome.INCONCLUSIVE), None)
    told = first or undecided
    return MinerFacts(
        uid=entry.neuron.uid,
        hotkey=one.hotkey,
        seal=one.seal,
        challenge_seed=_seed(one.seal, case),
        reason=printable(one.reason or (in_short(told) if told else ""), MAX_REASON),
        seal_time_ms=entry.seal.stored_at_ms if one.seal is not None else None,
        update_time_ms=_time(entry.update),
        opening_time_ms=_time(entry.opening),
        findings=tuple(one.findings),
        withheld=one.withheld,
        sight_missed=one.sight_missed,
        feedback_after=None if header is None else header.feedback_after,
        common=None if measured is None or measured.common is None else tuple(measured.common.differences),
        own=None if measured is None or measured.own is None else tuple(measured.own.differences),
    )


def _seed(seal: GradientSeal | None, case: RoundCase) -> Digest | None:
    if seal is None:
        return None
    return challenge_seed(case.round.context.window, case.challenge, seal.content_digest)


def _time(stored: StoredObject) -> int | None:
    """As its store says, where that is a time that a body can hold."""
    return stored.stored_at_ms if stored.data is not None and 0 <= stored.stored_at_ms <= MAX_JSON_INTEGER else None
