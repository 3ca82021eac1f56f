"""Judging one window: from first sight to the verdict body.

`open_docket` decides from the seals who is drawn; `judge_window` then reads top to bottom: each drawn file, as it comes,
through the checks (`grail_core.verification.examine`, in their one order), one at a time → files that could not be had →
scores → weights. Only `Means.sampling` needs a model and only `SealedFiles` a store; the rest is pure, so that a replay runs
it again from published evidence. Nothing that one file does reaches another's verdict, nor does the order in which they come.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

import grail_core
from grail_core.errors import DiskFullError, GrailError
from grail_core.files.evidence import MinerEvidence
from grail_core.proof.calibration import CalibrationTable, Shape
from grail_core.protocol import (
    Candidate,
    Finding,
    MinerStatus,
    MinerVerdict,
    Seal,
    VerdictBody,
    Versions,
    WindowStatus,
    counts_inconclusive,
    score_inputs,
    select_miners,
    weights,
)
from grail_core.protocol.context import Challenge, WindowContext, challenge_seed
from grail_core.protocol.encoding import canonical_json
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.protocol.verdicts import MAX_REASON
from grail_core.text import printable
from grail_core.verification.challenged import held_against_float32
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, Sampling, first_reject
from grail_core.verification.seal import read_seal
from grail_core.verification.verdict import inputs_of
from grail_core.verification.wording import reject
from grail_validator.cases import (
    Announcement,
    Case,
    Docket,
    Means,
    Measured,
    Memory,
    NotSoughtError,
    Sealed,
    Sighting,
    Standing,
    WindowResult,
)
from grail_validator.time_budget import TimeBudget

MISSING = reject(
    "file",
    detail="the sealed bytes could not be had: keep the file readable and unchanged from the challenge block to the void block",
)
"""One wording for whatever a store said, so that validators who failed a file for it say the same."""


NO_SEAL = "no seal lay in its bucket that was stored after block T and by the deadline"
"""One wording for nothing and for what was stored out of time: who puts a seal while first sight goes on is seen by some
validators and not by others, and their bodies are to be equal all the same."""


def open_docket(
    context: WindowContext,
    challenge: Challenge,
    announcements: Sequence[Announcement],
    memory: Memory,
    shape: Shape,
    table: CalibrationTable,
) -> Docket:
    """Take or refuse every seal, and toss the coins of those that are taken."""
    seals: dict[Hotkey, Seal] = {}
    refused: list[MinerVerdict] = []
    for entry in announcements:
        opened = _open_seal(entry, context, memory, shape, table)
        if isinstance(opened, Seal):
            seals[entry.neuron.hotkey] = opened
        else:
            refused.append(opened)
    candidates = {hotkey: _candidate(seal, memory, context.window) for hotkey, seal in seals.items()}
    coins = {coin.hotkey: coin for coin in select_miners(challenge.select_seed, candidates)}
    sealed = tuple(
        Sealed(entry, seals[entry.neuron.hotkey], coins[entry.neuron.hotkey])
        for entry in announcements
        if entry.neuron.hotkey in seals
    )
    return Docket(sealed, tuple(refused))


def _open_seal(
    entry: Announcement, context: WindowContext, memory: Memory, shape: Shape, table: CalibrationTable
) -> Seal | MinerVerdict:
    sighting, hotkey = entry.sighting, entry.neuron.hotkey
    if sighting.seal is None:
        return _absent(entry, sighting.reason or NO_SEAL)
    if not entry.in_time:
        return _absent(entry, NO_SEAL)
    known = memory.classes.get(hotkey)
    try:
        read = read_seal(sighting.seal, hotkey, context, known=known, table=table, shape=shape)
    except Exception as error:  # noqa: BLE001 - as for files: whatever it is, it costs one miner's window
        return _absent(entry, f"unforeseen in this validator: {type(error).__name__}")
    return read if isinstance(read, Seal) else _absent(entry, describe(read[0]), tuple(read))


def _candidate(seal: Seal, memory: Memory, window: Window) -> Candidate:
    before = score_inputs(memory.history.get(seal.header.hotkey, ()), window)
    return Candidate(seal.header.declared, before.supported, before.in_lookback)


@dataclass(frozen=True)
class _Judged:
    """`identities` and `evidence` are those of an examination that came to an end."""

    verdict: MinerVerdict
    identities: tuple[Digest, ...] = ()
    evidence: MinerEvidence | None = None


def judge_window(case: Case) -> WindowResult:
    """The verdict of a window whose challenge is known.

    Raises:
        Interrupted: it was asked to stop meanwhile; what was measured is kept.
        DiskFullError: the operator's to mend; the window stays as it is.
    """
    judged = _known(case)
    drawn = case.docket.drawn
    wanted = [one for one in drawn if one.entry.neuron.hotkey not in judged]
    budget = TimeBudget(case.judging_s, max(1, len(wanted)), case.clock)
    missing: list[Sealed] = []
    unsought: dict[Hotkey, NotSoughtError] = {}
    with closing(case.arriving(wanted)) as arriving:
        for one in arriving:
            hotkey = one.entry.neuron.hotkey
            try:
                found = _judge(one, case.files.of, case, budget)
            except NotSoughtError as error:
                unsought[hotkey] = error
                found = None
            if found is None:
                missing.append(one)
            else:
                judged[hotkey] = found
    line = _line(case, judged.keys() - case.given_up, unsought)
    # In the order of UIDs, not in which they were missed: looking elsewhere has its time, and the first of them have it first.
    elsewhere = TimeBudget(case.judging_s, max(1, len(missing)), case.clock)
    lost: list[Sealed] = []
    for one in sorted(missing, key=lambda one: one.entry.neuron.uid):
        hotkey = one.entry.neuron.hotkey
        had = _judge(one, case.files.elsewhere, case, elsewhere)
        if had is not None:
            judged[hotkey] = had
        elif hotkey in unsought:
            judged[hotkey] = _unmeasured(one, unsought[hotkey])
        else:
            lost.append(one)
    cut_off = bool(lost) and not case.line_holds()  # asked after the last look at any of them
    for one in lost:
        judged[one.entry.neuron.hotkey] = _Judged(_not_had(one, line, cut_off=cut_off))
    final = [_with_unsupported(one.verdict, case) for one in judged.values()]
    hotkeys = [one.entry.neuron.hotkey for one in drawn]
    accepted = [hotkey for hotkey in hotkeys if judged[hotkey].verdict.status is MinerStatus.ACCEPTED]
    counted = {hotkey: judged[hotkey].identities for hotkey in accepted}
    holders = Counter(identity for identities in counted.values() for identity in set(identities))
    final = [_with_shared(verdict, counted, holders) for verdict in final]
    final += [_verdict(one, MinerStatus.NOT_SELECTED, active=True) for one in case.docket.sealed if not one.coin.selected]
    final += case.docket.refused
    evidence = [judged[hotkey].evidence for hotkey in hotkeys]
    return WindowResult(
        body=_body(case, sorted(final, key=lambda verdict: verdict.uid)),
        evidence=tuple(one for one in evidence if one is not None),
        counted={hotkey: identities for hotkey, identities in counted.items() if identities},
        classes={one.entry.neuron.hotkey: one.seal.header.classes for one in case.docket.sealed},
    )


@dataclass(frozen=True)
class _Line:
    """What of the drawn files reached us, of those that tell: the supported miners', or everybody's where none was drawn."""

    told: frozenset[Hotkey]
    had: frozenset[Hotkey]


def _line(case: Case, had: Collection[Hotkey], unsought: Collection[Hotkey]) -> _Line:
    """Who is not supported by audits tells nothing: a dozen new hotkeys that withhold would excuse one another. Nor does a file
    that was not asked for: large ones that fill the disk would excuse those that withhold."""
    drawn = {one.entry.neuron.hotkey: one.seal for one in case.docket.drawn if one.entry.neuron.hotkey not in unsought}
    candidates = {hotkey: _candidate(seal, case.standing.memory, case.context.window) for hotkey, seal in drawn.items()}
    supported = {hotkey for hotkey, one in candidates.items() if not (one.newcomer or one.in_lookback)}
    told = frozenset(supported or drawn)
    return _Line(told, told.intersection(had))


def _not_had(one: Sealed, line: _Line, *, cut_off: bool) -> MinerVerdict:
    """A drawn file that nobody has: failed, unless less than half of the others that tell came, or this validator is cut off
    since: then the fault is ours."""
    if cut_off:
        reason = "this validator's own store did not answer either when the file was last looked for"
        return _verdict(one, MinerStatus.INCONCLUSIVE, reason=reason)
    others = len(line.told - {one.entry.neuron.hotkey})
    if 2 * len(line.had) < others:
        reason = f"this validator could have {len(line.had)} of {others} other drawn files"
        return _verdict(one, MinerStatus.INCONCLUSIVE, reason=reason)
    return _verdict(one, MinerStatus.FAILED, findings=(MISSING,))


def _known(case: Case) -> dict[Hotkey, _Judged]:
    """What needs no look at its file: given up, or measured before a restart."""
    judged: dict[Hotkey, _Judged] = {}
    for one in case.docket.drawn:
        hotkey = one.entry.neuron.hotkey
        known = case.measured.get(hotkey)
        if hotkey in case.given_up:
            reason = "this validator's process ended while it worked on this file"
            judged[hotkey] = _Judged(_verdict(one, MinerStatus.INCONCLUSIVE, reason=reason))
        elif known is not None and known.basis == basis_of(one, case):
            verdict = replace(known.verdict, check_probability=one.coin.probability, coin=one.coin.coin)
            judged[hotkey] = _Judged(verdict, known.identities, known.evidence)
    return judged


def _judge(one: Sealed, read: Callable[[Hotkey, Seal], bytes | None], case: Case, budget: TimeBudget) -> _Judged | None:
    """One drawn file before the checks, None where `read` does not have it. What fails here of this validator's costs this
    miner's verdict, and no other's. The file is let go: one is open at a time.

    Raises:
        NotSoughtError: as `read`.
    """
    hotkey = one.entry.neuron.hotkey
    case.means.working(hotkey)
    try:
        data = read(hotkey, one.seal)
        if data is None:
            return None
        seed = challenge_seed(case.context, case.challenge, one.seal.content_digest)
        # A model that has to be loaded again is loaded outside of the file's time.
        sampling = case.means.sampling(seed, one.coin.probability)
        with budget.next_file() as seconds_left:
            examination = _examine(one, data, case, sampling, seconds_left)
        judged = _Judged(_ruling(one, examination), examination.identities, examination.evidence)
        case.means.keep(Measured(basis_of(one, case), judged.verdict, judged.identities, judged.evidence))
        return judged
    except (DiskFullError, NotSoughtError):
        raise
    except GrailError as error:
        # What a file says never raises, so what failed is this validator's (memory, a worker, time): nobody is punished for it.
        return _unmeasured(one, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it costs one miner's verdict and not the window
        case.means.unforeseen(hotkey, error)
        reason = f"unforeseen in this validator: {type(error).__name__}"
        return _Judged(_verdict(one, MinerStatus.INCONCLUSIVE, reason=reason))
    finally:
        case.means.working(None)


def _unmeasured(one: Sealed, error: GrailError) -> _Judged:
    return _Judged(_verdict(one, MinerStatus.INCONCLUSIVE, reason=f"this validator could not measure: {error.what}"))


def basis_of(one: Sealed, case: Case) -> Digest:
    """Digest of all that the checks of a drawn file follow from: window, challenge, file, versions, the rollouts that its
    hotkey had counted before, and of the chance with which it was drawn whether it is held against float32."""
    neuron = one.entry.neuron
    counted = sorted(case.standing.memory.counted.get(neuron.hotkey, ()))
    seed = challenge_seed(case.context, case.challenge, one.seal.content_digest)
    told = {
        "float32": held_against_float32(seed, case.context.params, one.coin.probability),
        "inputs": inputs_of(case.context, case.challenge).to_json(),
        "versions": _versions(case.means).to_json(),
        "uid": neuron.uid,
        "hotkey": neuron.hotkey.hex(),
        "seal": hashlib.sha256(one.seal.encode()).hexdigest(),
        "store_time_ms": one.entry.sighting.stored_at_ms,
        "counted": hashlib.sha256(b"".join(counted)).hexdigest(),
    }
    return Digest(hashlib.sha256(canonical_json(told)).digest())


def _examine(one: Sealed, data: bytes, case: Case, sampling: Sampling, seconds_left: Callable[[], float]) -> Examination:
    """All checks; what none of them rejects goes to our bucket, for other validators and the trainer.

    Not before: what passes without a model is cheap to make up, and would make us upload gigabytes of it while we judge. Who
    lacks the bytes of a file that we reject says failed as we do.
    """
    means, hotkey = case.means, one.entry.neuron.hotkey
    context = CheckContext(
        window=case.context,
        hotkey=hotkey,
        environment=means.environment,
        renderer=means.renderer,
        vocabulary_size=means.vocabulary_size,
        context_length=means.context_length,
        table=means.pinned.table,
        sealed=one.seal.header,
        open_file=means.open_file,
        history=case.standing.memory.counted.get(hotkey, frozenset()),
        seconds_left=seconds_left,
    )
    examination = means.examine(data, context, sampling, content_digest=one.seal.content_digest)
    if examination.reject is None:
        case.files.share(hotkey, one.seal, data)
    return examination


def _ruling(one: Sealed, examination: Examination) -> MinerVerdict:
    evidence = examination.evidence
    sampled = tuple((rollout.group, rollout.rollout) for rollout in evidence.rollouts) if evidence else ()
    findings = examination.findings
    if examination.reject is not None:
        return _verdict(one, MinerStatus.FAILED, findings=findings, sampled=sampled)
    if examination.undecided is not None:
        reason = describe(examination.undecided)
        return _verdict(one, MinerStatus.INCONCLUSIVE, reason=reason, findings=findings, sampled=sampled)
    if evidence is not None and examination.too_many_inconclusive:
        reason = f"{evidence.inconclusive} of {len(evidence.rollouts)} sampled rollouts were inconclusive"
        return _verdict(one, MinerStatus.INCONCLUSIVE, reason=reason, sampled=sampled)
    unique = len(examination.identities)
    return _verdict(one, MinerStatus.ACCEPTED, findings=findings, sampled=sampled, active=True, unique_valid=unique)


def _with_unsupported(verdict: MinerVerdict, case: Case) -> MinerVerdict:
    """An inconclusive window that is not a well-supported hotkey's first counts as work that no audit supports."""
    if verdict.status is not MinerStatus.INCONCLUSIVE:
        return verdict
    history = case.standing.memory.history.get(verdict.hotkey, ())
    return replace(verdict, checked=counts_inconclusive(history, case.context.window, verdict.declared))


def _with_shared(
    verdict: MinerVerdict, counted: Mapping[Hotkey, Sequence[Digest]], holders: Mapping[Digest, int]
) -> MinerVerdict:
    """Check 3 names how many rollouts equal another hotkey's (reported only: they count for both).

    `holders`: how many hotkeys have a rollout.
    """
    if verdict.status is not MinerStatus.ACCEPTED:
        return verdict
    shared = sum(holders[identity] > 1 for identity in set(counted.get(verdict.hotkey, ())))
    if not shared:
        return verdict
    findings = tuple(
        replace(finding, detail=f"{finding.detail}; {shared} equal another hotkey's") if finding.check == "unique" else finding
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings)


def _absent(entry: Announcement, reason: str, findings: tuple[Finding, ...] = ()) -> MinerVerdict:
    return MinerVerdict(
        hotkey=entry.neuron.hotkey,
        uid=entry.neuron.uid,
        status=MinerStatus.ABSENT,
        reason=printable(reason, MAX_REASON),
        store_time_ms=entry.sighting.stored_at_ms if entry.sighting.seal is not None and entry.in_time else None,
        findings=findings,
    )


def _verdict(
    one: Sealed,
    status: MinerStatus,
    *,
    reason: str = "",
    findings: tuple[Finding, ...] = (),
    sampled: tuple[tuple[int, int], ...] = (),
    active: bool = False,
    unique_valid: int = 0,
) -> MinerVerdict:
    header, neuron = one.seal.header, one.entry.neuron
    rejecting = first_reject(findings)
    return MinerVerdict(
        hotkey=neuron.hotkey,
        uid=neuron.uid,
        status=status,
        reason=printable(reason or (describe(rejecting) if rejecting else ""), MAX_REASON),
        content_digest=one.seal.content_digest,
        store_time_ms=one.entry.sighting.stored_at_ms,
        active=active or status is MinerStatus.FAILED,
        declared=header.declared,
        gaps=header.gaps,
        checked=status in (MinerStatus.ACCEPTED, MinerStatus.FAILED),
        unique_valid=unique_valid,
        check_probability=one.coin.probability,
        coin=one.coin.coin,
        sampled=sampled,
        findings=findings,
    )


def describe(finding: Finding) -> str:
    """A finding in one line for a person: check, value, threshold, where."""
    text = finding.check
    if finding.value is not None:
        text += f" {finding.value}"
        if finding.threshold is not None:
            text += f" (threshold {finding.threshold})"
    if finding.detail:
        text += f": {finding.detail}"
    if finding.group is not None:
        text += f", group {finding.group}" + (f" rollout {finding.rollout}" if finding.rollout is not None else "")
    return printable(text, MAX_REASON)


def _body(case: Case, verdicts: Sequence[MinerVerdict]) -> VerdictBody:
    context, challenge, history = case.context, case.challenge, case.standing.memory.history
    window = context.window
    inputs = {}
    for verdict in verdicts:
        windows = [*history.get(verdict.hotkey, ()), verdict.miner_window(window)]
        inputs[verdict.uid] = score_inputs(windows, window)
    return VerdictBody(
        network_id=context.network_id,
        window=window,
        status=WindowStatus.SCORED,
        versions=_versions(case.means),
        inputs=inputs_of(context, challenge),
        miners=tuple(verdicts),
        hotkeys={verdict.uid: verdict.hotkey for verdict in verdicts},
        score_inputs=inputs,
        weights=weights(inputs, context.params),
    )


def unscored_window(window: Window, status: WindowStatus, reason: str, standing: Standing) -> WindowResult:
    """A window that is void, inconclusive or was missed: nobody pays, scores go on from what is known."""
    history = standing.memory.history
    inputs = {n.uid: score_inputs(history.get(n.hotkey, ()), window) for n in standing.neurons}
    body = VerdictBody(
        network_id=standing.network_id,
        window=window,
        status=status,
        versions=_versions(None),
        reason=printable(reason, MAX_REASON),
        hotkeys={neuron.uid: neuron.hotkey for neuron in standing.neurons},
        score_inputs=inputs,
        weights=weights(inputs, standing.params) if inputs else {},
    )
    return WindowResult(body)


def stored_in_time(sighting: Sighting, start_ms: int, deadline_ms: int) -> bool:
    """Store time in (time of block T, time of block T + 30]."""
    return sighting.seal is not None and start_ms < sighting.stored_at_ms <= deadline_ms


def _versions(means: Means | None) -> Versions:
    """None: nothing was judged, by no table and in no environment."""
    spec = means.environment.spec if means is not None else None
    return Versions(
        code=f"grail-core/{grail_core.__version__}",
        calibration=means.pinned.name if means is not None else "",
        environment=f"{spec.env_id}/{spec.version}" if spec is not None else "",
    )
