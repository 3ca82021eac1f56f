"""What the trainer may learn from: groups that a quorum of validators accepted and that it has verified itself.

Section 11 of the protocol: a file counts when validators with more than half of the trusted stake that judged its content
digest accepted it, and a group of it when all nine checks pass on every rollout at every completion position. The forward
pass of that verification gives the behaviour log-probabilities, so claimed ones are never used.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grail_core.environment import Environment
from grail_core.errors import GrailError, ProtocolViolationError, StorageError
from grail_core.keys import ss58
from grail_core.live_checkpoint import LoadedCheckpoint
from grail_core.participant import Participant
from grail_core.protocol import MinerStatus, SignedVerdict, WindowStatus
from grail_core.protocol.constants import MAX_FILE_BYTES
from grail_core.protocol.findings import Finding
from grail_core.protocol.types import Block, Digest, Hotkey, Window
from grail_core.storage.base import ObjectStore
from grail_core.telemetry import get_logger
from grail_core.verdict_files import read_verdict, rollouts_key
from grail_core.verification.context import CheckContext
from grail_core.verification.file import Submission, check_file
from grail_core.verification.pipeline import cheap_checks, first_reject, verify_group
from grail_core.verified_files import AcceptedFile, read_accepted_files
from grail_core.window_context import WindowContext

log = get_logger(__name__)

_POLL_BLOCKS = 1
_MAX_ROLLOUTS_BYTES = 64 * MAX_FILE_BYTES


@dataclass(frozen=True)
class VerifiedRollout:
    """`behaviour_logprobs` [completion] are the behaviour checkpoint's, unwarped, in nats, as this trainer computed them."""

    tokens: npt.NDArray[np.int32]  # prompt + completion
    prompt_length: int
    reward: float
    success: bool
    behaviour_logprobs: npt.NDArray[np.float32]


@dataclass(frozen=True)
class VerifiedGroup:
    """Sixteen verified rollouts of one problem, scoped by (hotkey, window, group)."""

    hotkey: Hotkey
    window: Window
    group: int
    content_digest: Digest
    rollouts: tuple[VerifiedRollout, ...]


@dataclass(frozen=True)
class RefusedGroup:
    """A group of an accepted file that this trainer's own verification refuses; published with its findings."""

    hotkey: Hotkey
    window: Window
    group: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class TrustedVerdict:
    """A validator's verdict of the window, its stake at block T, and its bucket."""

    verdict: SignedVerdict
    stake: int
    store: ObjectStore


def wait_for_verdicts(
    participant: Participant, window: Window, patience_blocks: int, stop: threading.Event
) -> list[TrustedVerdict]:
    """Verdicts of the window from validators with a permit: all of them, or those there are after `patience_blocks`.

    Patience counts from the challenge block. Verdicts that do not verify are reported and left out.
    """
    chain, last = participant.chain, participant.times(window).challenge_block + patience_blocks
    validators = [n for n in participant.miners_at(window) if n.validator_permit and n.stake > 0]
    found: dict[Hotkey, TrustedVerdict] = {}
    while not stop.is_set():
        for neuron in validators:
            if neuron.hotkey in found:
                continue
            try:
                store = participant.directory.open(neuron.commitment or "")
                verdict = read_verdict(store, window, neuron.hotkey, participant.network_id)
            except (StorageError, ProtocolViolationError) as error:
                log.event("verdict_unreadable", window=window, validator=ss58(neuron.hotkey), reason=error.what)
                continue
            if verdict is not None:
                found[neuron.hotkey] = TrustedVerdict(verdict, neuron.stake, store)
        now = chain.current_block()
        if len(found) == len(validators) or now >= last:
            break
        participant.wait_for_block(Block(now + _POLL_BLOCKS), stop)
    return [found[n.hotkey] for n in validators if n.hotkey in found]


def files_with_quorum(verdicts: Sequence[TrustedVerdict]) -> list[tuple[Hotkey, Digest]]:
    """(miner, content digest) of every file that a majority, by stake, of those who judged it accepted; in UID order."""
    accepted: dict[tuple[int, Hotkey, Digest], int] = {}
    judged: dict[tuple[int, Hotkey, Digest], int] = {}
    for trusted in verdicts:
        if trusted.verdict.body.status is not WindowStatus.SCORED:
            continue
        for miner in trusted.verdict.body.miners:
            if miner.content_digest is None or not miner.checked:
                continue
            key = (miner.uid, miner.hotkey, miner.content_digest)
            judged[key] = judged.get(key, 0) + trusted.stake
            if miner.status is MinerStatus.ACCEPTED:
                accepted[key] = accepted.get(key, 0) + trusted.stake
    return [(key[1], key[2]) for key in sorted(accepted) if 2 * accepted[key] > judged[key]]


def accepted_files(verdicts: Sequence[TrustedVerdict]) -> Iterator[AcceptedFile]:
    """The bytes of every file with a quorum, from any validator that accepted it."""
    wanted = dict.fromkeys(files_with_quorum(verdicts))
    for trusted in verdicts:
        window = trusted.verdict.body.window
        if not wanted or trusted.verdict.rollouts_digest is None:
            continue
        try:
            raw = trusted.store.get(rollouts_key(window), max_bytes=_MAX_ROLLOUTS_BYTES)
            if hashlib.sha256(raw).digest() != trusted.verdict.rollouts_digest:
                raise ProtocolViolationError("the rollouts are not those that the verdict names")
            files = read_accepted_files(raw)
        except (StorageError, ProtocolViolationError) as error:
            log.event("rollouts_unreadable", window=window, validator=ss58(trusted.verdict.validator), reason=error.what)
            continue
        for file in files:
            if (file.hotkey, file.content_digest) in wanted:
                del wanted[file.hotkey, file.content_digest]
                yield file
    for hotkey, digest in wanted:
        log.event("accepted_file_missing", hotkey=ss58(hotkey), content_digest=digest.hex())


def verified_groups(
    files: Sequence[AcceptedFile], context: WindowContext, loaded: LoadedCheckpoint, environment: Environment
) -> Iterator[VerifiedGroup | RefusedGroup]:
    """Every group of the files after this trainer's own verification, files in turn, so that a stop early is fair.

    Args:
        loaded: the checkpoint of the files' window, the behaviour policy.
    """
    opened = [pair for file in files if (pair := _open(file, context, loaded, environment)) is not None]
    longest = max((len(submission.groups) for submission, _ in opened), default=0)
    for place in range(longest):
        for submission, check_context in opened:
            if place < len(submission.groups):
                yield _verify(submission, check_context, submission.groups[place], loaded)


def _open(
    file: AcceptedFile, context: WindowContext, loaded: LoadedCheckpoint, environment: Environment
) -> tuple[Submission, CheckContext] | None:
    """Checks 1 to 5 of a file; None, reported, where one rejects."""
    submission = check_file(file.data, file.content_digest, file.hotkey, context)
    if isinstance(submission, Submission):
        check_context = CheckContext(
            window=context,
            hotkey=file.hotkey,
            environment=environment,
            renderer=loaded.renderer,
            vocabulary_size=loaded.model.vocabulary_size,
            context_length=loaded.model.context_length,
        )
        findings: Sequence[Finding] = cheap_checks(submission, check_context)
        if first_reject(findings) is None:
            return submission, check_context
    else:
        findings = submission
    rejecting = first_reject(findings)
    log.event("accepted_file_refused", hotkey=ss58(file.hotkey), reason=rejecting.detail if rejecting else "")
    return None


def _verify(
    submission: Submission, context: CheckContext, group: int, loaded: LoadedCheckpoint
) -> VerifiedGroup | RefusedGroup:
    window = context.window.window
    try:
        result = verify_group(submission, context, group, loaded.model)
    except GrailError as error:
        log.event("group_unverifiable", hotkey=ss58(submission.hotkey), group=group, reason=error.what)
        return RefusedGroup(submission.hotkey, window, group, ())
    # An unstable or inconclusive judgement is nobody's fault, but it is no reward to learn from either.
    if not result.accepted or result.evidence is None or result.evidence.inconclusive:
        return RefusedGroup(submission.hotkey, window, group, result.findings)
    rollouts = []
    for measured in result.evidence.rollouts:
        row = submission.table.row(submission.index_of(group, measured.rollout))
        rollouts.append(
            VerifiedRollout(row.tokens, row.prompt_length, measured.judge.reward, measured.judge.success, measured.logprob)
        )
    return VerifiedGroup(submission.hotkey, window, group, submission.content_digest, tuple(rollouts))
