"""Judging one window: from first sight and fetched files to the verdict body.

`judge_window` reads top to bottom in the order of the protocol: check 1 on every announced file → who is drawn → the other
checks (`grail_core.verification.examine`, in their one order) → scores → weights. Only `Means.sampling` needs a model; the
rest is pure, so that a replay runs it again from published evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import grail_core
from grail_core.environment import Environment
from grail_core.errors import GrailError
from grail_core.files.accepted_files import AcceptedFile
from grail_core.files.evidence import MinerEvidence
from grail_core.protocol import (
    Finding,
    MinerStatus,
    MinerVerdict,
    Selection,
    VerdictBody,
    Versions,
    WindowInputs,
    WindowStatus,
    score_inputs,
    select_miners,
    weights,
)
from grail_core.protocol.context import WindowContext, challenge_seed
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, examine, first_reject
from grail_core.verification.model_checks import calibration_version
from grail_core.verification.window_file import Submission, check_file
from grail_validator.cases import Announcement, Case, Memory, Sighting, Standing, WindowResult


def judge_window(case: Case, memory: Memory) -> WindowResult:
    """The verdict of a window whose challenge is known. A pure function, but for what the means of measuring do."""
    context = case.context
    opened = {entry.neuron.hotkey: _open(entry, context, memory) for entry in case.announcements}
    submissions = {hotkey: s for hotkey, s in opened.items() if isinstance(s, Submission)}
    declared = {hotkey: s.file.header.declared for hotkey, s in submissions.items()}
    coins = {s.hotkey: s for s in select_miners(case.challenge.select_seed, declared)} if declared else {}
    verdicts: list[MinerVerdict] = []
    evidence: list[MinerEvidence] = []
    counted: dict[Hotkey, Sequence[Digest]] = {}
    for entry in case.announcements:
        hotkey = entry.neuron.hotkey
        submission = opened[hotkey]
        if isinstance(submission, MinerVerdict):
            verdicts.append(submission)
            continue
        coin = coins[hotkey]
        if not coin.selected:
            verdicts.append(_verdict(entry, submission, coin, MinerStatus.NOT_SELECTED, active=True))
            continue
        verdict, examination = _judge_file(entry, submission, coin, case, memory)
        verdicts.append(verdict)
        if examination is not None and examination.evidence is not None:
            evidence.append(examination.evidence)
        if examination is not None and verdict.status is MinerStatus.ACCEPTED:
            counted[hotkey] = examination.identities
    final = [_with_shared(verdict, counted) for verdict in verdicts]
    return WindowResult(
        body=_body(case, final, memory),
        evidence=tuple(evidence),
        accepted=_accepted_files(final, case.announcements),
        counted={hotkey: identities for hotkey, identities in counted.items() if identities},
        classes={hotkey: s.file.header.numerics_class for hotkey, s in submissions.items()},
    )


def _open(entry: Announcement, context: WindowContext, memory: Memory) -> Submission | MinerVerdict:
    """Check 1, or the verdict of a miner without a readable file."""
    sighting, file = entry.sighting, entry.file
    if sighting.etag is None or not entry.in_time:
        late = "" if sighting.etag is None else "the file was not stored between block T and the deadline"
        return _verdict(entry, None, None, MinerStatus.ABSENT, reason=late)
    if "-" in sighting.etag:
        return _verdict(entry, None, None, MinerStatus.FAILED, reason="file: a multipart upload is no window file")
    if file is None or file.data is None or file.content_digest is None:
        if file is not None and file.gone:
            return _verdict(entry, None, None, MinerStatus.FAILED, reason=f"file: {file.reason}")
        return _verdict(entry, None, None, MinerStatus.INCONCLUSIVE, reason=file.reason if file else "not fetched")
    known_class = memory.classes.get(entry.neuron.hotkey)
    result = check_file(file.data, file.content_digest, entry.neuron.hotkey, context, known_class)
    if isinstance(result, Submission):
        return result
    return _verdict(entry, None, None, MinerStatus.FAILED, findings=tuple(result), digest=file.content_digest)


def _judge_file(
    entry: Announcement, submission: Submission, coin: Selection, case: Case, memory: Memory
) -> tuple[MinerVerdict, Examination | None]:
    """One drawn file before the checks; None where this validator could not run them."""
    hotkey, means = submission.hotkey, case.means
    context = CheckContext(
        window=case.context,
        hotkey=hotkey,
        environment=means.environment,
        renderer=means.renderer,
        vocabulary_size=means.vocabulary_size,
        context_length=means.context_length,
        known_class=memory.classes.get(hotkey),
        history=memory.counted.get(hotkey, frozenset()),
    )
    try:
        seed = challenge_seed(case.context, case.challenge, submission.content_digest)
        examination = examine(submission, context, means.sampling(seed))
    except GrailError as error:
        # What a file says never raises, so what failed is this validator's (memory, a worker): nobody is punished for it.
        reason = f"this validator could not measure: {error.what}"
        return _verdict(entry, submission, coin, MinerStatus.INCONCLUSIVE, reason=reason), None
    evidence = examination.evidence
    sampled = tuple((rollout.group, rollout.rollout) for rollout in evidence.rollouts) if evidence else ()
    findings = examination.findings
    if examination.reject is not None:
        return _verdict(entry, submission, coin, MinerStatus.FAILED, findings=findings, sampled=sampled), examination
    if evidence is not None and examination.too_many_inconclusive:
        reason = f"{evidence.inconclusive} of {len(evidence.rollouts)} sampled rollouts were inconclusive"
        verdict = _verdict(entry, submission, coin, MinerStatus.INCONCLUSIVE, reason=reason, sampled=sampled)
        return verdict, examination
    verdict = _verdict(
        entry,
        submission,
        coin,
        MinerStatus.ACCEPTED,
        findings=findings,
        sampled=sampled,
        active=True,
        unique_valid=len(examination.identities),
    )
    return verdict, examination


def _accepted_files(verdicts: Sequence[MinerVerdict], announcements: Sequence[Announcement]) -> tuple[AcceptedFile, ...]:
    files = {entry.neuron.hotkey: entry.file for entry in announcements}
    accepted = []
    for miner in verdicts:
        file = files.get(miner.hotkey)
        if miner.status is MinerStatus.ACCEPTED and file is not None and file.data is not None and file.content_digest:
            accepted.append(AcceptedFile(miner.hotkey, file.content_digest, file.data, miner.sampled))
    return tuple(accepted)


def _with_shared(verdict: MinerVerdict, counted: Mapping[Hotkey, Sequence[Digest]]) -> MinerVerdict:
    """Check 3 names how many rollouts equal another hotkey's (reported only: they count for both)."""
    if verdict.status is not MinerStatus.ACCEPTED:
        return verdict
    own = set(counted.get(verdict.hotkey, ()))
    others = {identity for hotkey, identities in counted.items() if hotkey != verdict.hotkey for identity in identities}
    shared = len(own & others)
    if not shared:
        return verdict
    findings = tuple(
        replace(finding, detail=f"{finding.detail}; {shared} equal another hotkey's") if finding.check == "unique" else finding
        for finding in verdict.findings
    )
    return replace(verdict, findings=findings)


def _verdict(
    entry: Announcement,
    submission: Submission | None,
    coin: Selection | None,
    status: MinerStatus,
    *,
    reason: str = "",
    findings: tuple[Finding, ...] = (),
    sampled: tuple[tuple[int, int], ...] = (),
    active: bool = False,
    unique_valid: int = 0,
    digest: Digest | None = None,
) -> MinerVerdict:
    header = submission.file.header if submission else None
    rejecting = first_reject(findings)
    sighting = entry.sighting
    conclusive = status in (MinerStatus.ACCEPTED, MinerStatus.FAILED)
    return MinerVerdict(
        hotkey=entry.neuron.hotkey,
        uid=entry.neuron.uid,
        status=status,
        reason=reason or (describe(rejecting) if rejecting else ""),
        content_digest=submission.content_digest if submission else digest,
        etag=sighting.etag,
        store_time_ms=sighting.stored_at_ms if sighting.etag is not None else None,
        active=active or (status is MinerStatus.FAILED and header is not None),
        declared=header.declared if header else 0,
        gaps=header.gaps if header else 0,
        checked=conclusive,
        unique_valid=unique_valid,
        check_probability=coin.probability if coin else None,
        coin=coin.coin if coin else None,
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
    return text[:512]


def _body(case: Case, verdicts: Sequence[MinerVerdict], memory: Memory) -> VerdictBody:
    context, challenge = case.context, case.challenge
    window = context.window
    inputs = {}
    for verdict in verdicts:
        windows = [*memory.history.get(verdict.hotkey, ()), verdict.miner_window(window)]
        inputs[verdict.uid] = score_inputs(windows, window)
    return VerdictBody(
        network_id=context.network_id,
        window=window,
        status=WindowStatus.SCORED,
        versions=_versions(case.means.environment),
        inputs=WindowInputs(
            block_hash=context.block_hash,
            select_block_hash=challenge.block_hash,
            seed_round=context.beacon.round if context.beacon else None,
            challenge_round=challenge.beacon.round if challenge.beacon else None,
            checkpoint_digest=context.checkpoint_digest,
            env_digest=context.env_digest,
        ),
        miners=tuple(verdicts),
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
        reason=reason,
        score_inputs=inputs,
        weights=weights(inputs, standing.params) if inputs else {},
    )
    return WindowResult(body)


def stored_in_time(sighting: Sighting, start_ms: int, deadline_ms: int) -> bool:
    """Store time in (time of block T, time of block T + 30]."""
    return sighting.etag is not None and start_ms < sighting.stored_at_ms <= deadline_ms


def _versions(environment: Environment | None) -> Versions:
    name = f"{environment.spec.env_id}/{environment.spec.version}" if environment else ""
    return Versions(code=f"grail-core/{grail_core.__version__}", calibration=calibration_version(), environment=name)
