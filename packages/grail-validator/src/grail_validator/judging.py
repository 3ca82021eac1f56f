"""Judging one window: from first sight and fetched files to the verdict body.

`judge_window` reads top to bottom in the order of the protocol: check 1 on every announced file → who is checked → checks 2
to 5 → measure → checks 6 to 9 → scores → weights. Only `measure` needs a model; the rest is pure, so that a replay runs it
again from published evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import grail_core
from grail_core.chain.base import Neuron
from grail_core.environment import Environment
from grail_core.errors import GrailError
from grail_core.files.evidence import MinerEvidence
from grail_core.protocol import (
    Finding,
    MinerStatus,
    MinerVerdict,
    MinerWindow,
    RowSample,
    Selection,
    VerdictBody,
    Versions,
    WindowInputs,
    WindowStatus,
    sample_rows,
    score_inputs,
    select_miners,
    weights,
)
from grail_core.protocol.context import Challenge, WindowContext, challenge_seed
from grail_core.protocol.network import NetworkParameters
from grail_core.protocol.types import Digest, Hotkey, Window
from grail_core.telemetry import get_logger
from grail_core.verification.context import CheckContext, Renderer
from grail_core.verification.model_checks import calibration_version
from grail_core.verification.pipeline import cheap_checks, decide, first_reject, too_many_inconclusive
from grail_core.verification.uniqueness import distinct_rollouts
from grail_core.verification.window_file import Submission, check_file
from grail_core.verification.wording import accept
from grail_validator.first_sight import FetchedFile
from grail_validator.ledger import Sighting

log = get_logger(__name__)

Measure = Callable[[Submission, CheckContext, RowSample, Digest], MinerEvidence]
"""Judges and measures a file's sample; the last argument is its challenge seed."""


@dataclass(frozen=True)
class Announced:
    """A registered miner in this window: what first sight saw, and what was fetched (None: nothing was there).

    `in_time` says that the store's time of the write lies after block T and not after the deadline.
    """

    neuron: Neuron
    sighting: Sighting
    file: FetchedFile | None
    in_time: bool


@dataclass(frozen=True)
class Past:
    """What earlier windows say: every hotkey's scores, its counted rollouts, the numerics class it is bound to."""

    history: Mapping[Hotkey, Sequence[MinerWindow]]
    counted: Mapping[Hotkey, Collection[Digest]]
    classes: Mapping[Hotkey, str]


@dataclass(frozen=True)
class JudgedWindow:
    body: VerdictBody
    evidence: tuple[MinerEvidence, ...]
    counted: Mapping[Hotkey, Sequence[Digest]]  # rollouts that counted now
    classes: Mapping[Hotkey, str]  # the numerics class of every readable file


def judge_window(
    context: WindowContext,
    challenge: Challenge,
    announced: Sequence[Announced],
    past: Past,
    environment: Environment,
    renderer: Renderer,
    model_sizes: tuple[int, int],
    measure: Measure,
) -> JudgedWindow:
    """The verdict of a window whose challenge is known.

    Args:
        announced: one entry per hotkey registered with a commitment at block T, in UID order.
        model_sizes: vocabulary size and context length of the checkpoint's model.
    """
    opened = {entry.neuron.hotkey: _open(entry, context, past) for entry in announced}
    submissions = {hotkey: s for hotkey, s in opened.items() if isinstance(s, Submission)}
    declared = {hotkey: s.file.header.declared for hotkey, s in submissions.items()}
    coins = {s.hotkey: s for s in select_miners(challenge.select_seed, declared)} if declared else {}
    verdicts: list[MinerVerdict] = []
    evidence: list[MinerEvidence] = []
    counted: dict[Hotkey, Sequence[Digest]] = {}
    for entry in announced:
        hotkey = entry.neuron.hotkey
        submission = opened[hotkey]
        if isinstance(submission, MinerVerdict):
            verdicts.append(submission)
            continue
        coin = coins[hotkey]
        if not coin.selected:
            verdicts.append(_verdict(entry, submission, coin, MinerStatus.NOT_SELECTED, active=True))
            continue
        check_context = CheckContext(
            window=context,
            hotkey=hotkey,
            environment=environment,
            renderer=renderer,
            vocabulary_size=model_sizes[0],
            context_length=model_sizes[1],
            known_class=past.classes.get(hotkey),
            history=past.counted.get(hotkey, frozenset()),
        )
        seed = challenge_seed(context, challenge, submission.content_digest)
        verdict, measured, identities = _examine(entry, submission, coin, check_context, seed, measure)
        verdicts.append(verdict)
        if measured is not None:
            evidence.append(measured)
        if identities:
            counted[hotkey] = identities
    return JudgedWindow(
        body=_body(context, challenge, environment, [_with_uniqueness(v, counted) for v in verdicts], past),
        evidence=tuple(evidence),
        counted=counted,
        classes={hotkey: s.file.header.numerics_class for hotkey, s in submissions.items()},
    )


def _open(entry: Announced, context: WindowContext, past: Past) -> Submission | MinerVerdict:
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
    result = check_file(file.data, file.content_digest, entry.neuron.hotkey, context, past.classes.get(entry.neuron.hotkey))
    if isinstance(result, Submission):
        return result
    return _verdict(entry, None, None, MinerStatus.FAILED, findings=tuple(result), digest=file.content_digest)


def _examine(
    entry: Announced,
    submission: Submission,
    coin: Selection,
    context: CheckContext,
    seed: Digest,
    measure: Measure,
) -> tuple[MinerVerdict, MinerEvidence | None, Sequence[Digest]]:
    """Checks 2 to 9 of one selected file: its verdict, the evidence, and the rollouts that count."""
    findings = cheap_checks(submission, context)
    if first_reject(findings):
        return _verdict(entry, submission, coin, MinerStatus.FAILED, findings=findings), None, ()
    sample = sample_rows(seed, submission.groups)
    try:
        evidence = measure(submission, context, sample, seed)
    except GrailError as error:
        # Cheap checks have passed, so what failed is this validator's (memory, a worker): nobody is punished for it.
        log.event("measurement_failed", hotkey=submission.hotkey.hex(), reason=error.what)
        reason = f"this validator could not measure: {error.what}"
        return _verdict(entry, submission, coin, MinerStatus.INCONCLUSIVE, reason=reason), None, ()
    findings = (*findings, *decide(submission, evidence))
    sampled = tuple((rollout.group, rollout.rollout) for rollout in evidence.rollouts)
    if first_reject(findings):
        return _verdict(entry, submission, coin, MinerStatus.FAILED, findings=findings, sampled=sampled), evidence, ()
    if too_many_inconclusive(evidence):
        reason = f"{evidence.inconclusive} of {len(evidence.rollouts)} sampled rollouts were inconclusive"
        return _verdict(entry, submission, coin, MinerStatus.INCONCLUSIVE, reason=reason, sampled=sampled), evidence, ()
    identities = distinct_rollouts(submission, context.history)
    verdict = _verdict(
        entry,
        submission,
        coin,
        MinerStatus.ACCEPTED,
        findings=findings,
        sampled=sampled,
        active=True,
        unique_valid=len(identities),
    )
    return verdict, evidence, identities


def _with_uniqueness(verdict: MinerVerdict, counted: Mapping[Hotkey, Sequence[Digest]]) -> MinerVerdict:
    """Check 3's say: how many rollouts count, and how many equal another hotkey's (reported only: they count for both)."""
    if verdict.status is not MinerStatus.ACCEPTED:
        return verdict
    own = set(counted.get(verdict.hotkey, ()))
    others = {identity for hotkey, identities in counted.items() if hotkey != verdict.hotkey for identity in identities}
    shared = len(own & others)
    detail = "distinct rollouts that count" + (f"; {shared} equal another hotkey's" if shared else "")
    finding = accept("unique", value=len(own), detail=detail)
    place = next((i for i, f in enumerate(verdict.findings) if f.check not in ("file", "schema")), len(verdict.findings))
    return replace(verdict, findings=(*verdict.findings[:place], finding, *verdict.findings[place:]))


def _verdict(
    entry: Announced,
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


def _body(
    context: WindowContext,
    challenge: Challenge,
    environment: Environment,
    verdicts: Sequence[MinerVerdict],
    past: Past,
) -> VerdictBody:
    window = context.window
    inputs = {}
    for verdict in verdicts:
        windows = [*past.history.get(verdict.hotkey, ()), verdict.miner_window(window)]
        inputs[verdict.uid] = score_inputs(windows, window)
    return VerdictBody(
        network_id=context.network_id,
        window=window,
        status=WindowStatus.SCORED,
        versions=_versions(environment),
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


def unscored_window(
    network_id: Digest,
    window: Window,
    status: WindowStatus,
    reason: str,
    past: Past,
    neurons: Sequence[Neuron],
    params: NetworkParameters,
) -> VerdictBody:
    """The body of a window that is void, inconclusive or was missed: nobody pays, scores go on from what is known."""
    inputs = {n.uid: score_inputs(past.history.get(n.hotkey, ()), window) for n in neurons}
    return VerdictBody(
        network_id=network_id,
        window=window,
        status=status,
        versions=_versions(None),
        reason=reason,
        score_inputs=inputs,
        weights=weights(inputs, params) if inputs else {},
    )


def stored_in_time(sighting: Sighting, start_ms: int, deadline_ms: int) -> bool:
    """Store time in (time of block T, time of block T + 30]."""
    return sighting.etag is not None and start_ms < sighting.stored_at_ms <= deadline_ms


def _versions(environment: Environment | None) -> Versions:
    name = f"{environment.spec.env_id}/{environment.spec.version}" if environment else ""
    return Versions(code=f"grail-core/{grail_core.__version__}", calibration=calibration_version(), environment=name)
