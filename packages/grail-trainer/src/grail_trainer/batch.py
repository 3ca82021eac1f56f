"""From accepted files to the groups of one update: which are tried, and the trainer's own verification of each.

The order is a function of the files alone, and fair: miners take turns, each with its groups in increasing number. Groups whose
rewards do not vary teach nothing and are left out before any work is spent on them; the next ones take their place. No hotkey
gives more than its share. Every rollout of a group that is learned from passes checks 1 to 9 here, at every position, with the
checkpoint that drew it; the log-probabilities measured on the way are the behaviour policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.environment import Environment
from grail_core.files.accepted_files import AcceptedFile
from grail_core.files.evidence import GradeStability, RolloutEvidence
from grail_core.keys import ss58
from grail_core.protocol import Finding, Outcome
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Digest, Hotkey
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, examine, examine_sample, first_reject
from grail_core.verification.measure import WholeGroup
from grail_core.verification.window_file import Submission
from grail_trainer.advantages import varies
from grail_trainer.grpo import Rollout, RolloutGroup
from grail_trainer.logprobs import TokenSequence, completion_logprobs

MAX_SHARE = Fraction(1, 10)
"""Of a batch, from one hotkey."""
HOTKEYS_FOR_SHARE = 10
"""With fewer active hotkeys a tenth each cannot fill a batch: then none gives more than twice an even share."""


@dataclass(frozen=True)
class Candidate:
    """A group of an accepted file whose claimed rewards vary."""

    hotkey: Hotkey
    group: int


@dataclass(frozen=True)
class DroppedGroup:
    """A group (or a whole file, `group` None) that the validators accepted and this trainer did not."""

    hotkey: Hotkey
    content_digest: Digest
    group: int | None
    reason: str
    findings: tuple[Finding, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "hotkey": self.hotkey.hex(),
            "content_digest": self.content_digest.hex(),
            "group": self.group,
            "reason": self.reason,
            "findings": [f.to_json() for f in self.findings if f.outcome is not Outcome.ACCEPT],  # why, and nothing else
        }


@dataclass(frozen=True)
class BatchMember:
    """Where a group of the batch comes from; its content digest binds every byte of it."""

    hotkey: Hotkey
    content_digest: Digest
    group: int

    def to_json(self) -> dict[str, Any]:
        return {"hotkey": self.hotkey.hex(), "content_digest": self.content_digest.hex(), "group": self.group}


@dataclass(frozen=True)
class TrainingBatch:
    """Verified groups, in the order they are named in the training log."""

    groups: tuple[RolloutGroup, ...] = ()
    members: tuple[BatchMember, ...] = ()
    dropped: tuple[DroppedGroup, ...] = ()
    offered: int = 0  # groups in accepted files
    without_variance: int = 0
    rollouts_verified: int = 0
    reward_mean: float = 0.0  # as claimed, over every accepted file
    success_mean: float = 0.0


@dataclass
class _Tally:
    offered: int = 0
    flat: int = 0
    verified: int = 0
    rewards: list[npt.NDArray[np.float64]] = field(default_factory=list)
    successes: list[npt.NDArray[np.bool_]] = field(default_factory=list)


def build_batch(
    files: Sequence[AcceptedFile],
    context: WindowContext,
    loaded: LoadedCheckpoint,
    environment: Environment,
    *,
    max_groups: int,
    stopping: Callable[[], bool] = lambda: False,
) -> TrainingBatch:
    """Verify accepted files and collect at most `max_groups` groups that can teach something.

    Args:
        context: of the files' window. loaded: the checkpoint of that window, which drew the rollouts.
        stopping: asked between groups; True ends early with what there is (the caller discards it).
    """
    dropped: list[DroppedGroup] = []
    examined: dict[Hotkey, tuple[Submission, Examination, CheckContext]] = {}
    tally = _Tally()
    for file in files:
        check_context = _check_context(file.hotkey, context, loaded, environment)
        examination = examine(file.data, check_context, content_digest=file.content_digest)
        submission = examination.submission
        if submission is None or examination.reject is not None:
            dropped.append(_dropped_file(file, examination))
            continue
        examined[file.hotkey] = (submission, examination, check_context)
        tally.rewards.append(submission.columns.reward)
        tally.successes.append(submission.columns.success)
    offered = {hotkey: _varying(submission, tally) for hotkey, (submission, _, _) in examined.items()}
    groups: list[RolloutGroup] = []
    members: list[BatchMember] = []
    waiting = fair_order(offered)
    while waiting and len(groups) < max_groups and not stopping():
        candidate = waiting.pop(0)
        given = sum(member.hotkey == candidate.hotkey for member in members)
        if given >= max_from_one(max_groups, len(examined)):
            continue
        submission, examination, check_context = examined[candidate.hotkey]
        result = examine_sample(examination, check_context, WholeGroup(candidate.group, loaded.model))
        tally.verified += len(submission.rollouts_of(candidate.group))
        taken = _learnable(submission, candidate, result, loaded, check_context)
        if isinstance(taken, DroppedGroup):
            dropped.append(taken)
            continue
        groups.append(taken)
        members.append(BatchMember(candidate.hotkey, submission.content_digest, candidate.group))
    kept = within_share([member.hotkey for member in members], active=len(examined))
    return TrainingBatch(
        groups=tuple(groups[index] for index in kept),
        members=tuple(members[index] for index in kept),
        dropped=tuple(dropped),
        offered=tally.offered,
        without_variance=tally.flat,
        rollouts_verified=tally.verified,
        reward_mean=float(np.concatenate(tally.rewards).mean()) if tally.rewards else 0.0,
        success_mean=float(np.concatenate(tally.successes).mean()) if tally.successes else 0.0,
    )


def fair_order(offered: Mapping[Hotkey, Sequence[int]]) -> list[Candidate]:
    """Hotkeys in turn (in order of their bytes), each with its groups as they come."""
    rounds = max((len(groups) for groups in offered.values()), default=0)
    return [
        Candidate(hotkey, offered[hotkey][turn])
        for turn in range(rounds)
        for hotkey in sorted(offered)
        if turn < len(offered[hotkey])
    ]


def max_share(active: int) -> Fraction:
    """Of a batch from one hotkey, with so many active: a tenth, or twice an even share with fewer than ten."""
    return MAX_SHARE if active >= HOTKEYS_FOR_SHARE else min(Fraction(1), Fraction(2, max(1, active)))


def max_from_one(max_groups: int, active: int) -> int:
    """Groups of one hotkey in a full batch."""
    return max(1, int(max_share(active) * max_groups))


def within_share(hotkeys: Sequence[Hotkey], *, active: int) -> list[int]:
    """Indices to keep so that no hotkey has more than its share of what is kept (but one group each at least): the latest
    groups of the hotkeys with the most go first."""
    share = max_share(active)
    kept = list(range(len(hotkeys)))
    while kept:
        counts: dict[Hotkey, int] = {}
        for index in kept:
            counts[hotkeys[index]] = counts.get(hotkeys[index], 0) + 1
        allowed = max(1, int(share * len(kept)))
        over = {hotkey for hotkey, count in counts.items() if count > allowed}
        if not over:
            return kept
        most = max(counts[hotkey] for hotkey in over)
        heaviest = {hotkey for hotkey in over if counts[hotkey] == most}
        last = {hotkey: max(index for index in kept if hotkeys[index] == hotkey) for hotkey in heaviest}
        kept = [index for index in kept if index not in last.values()]
    return kept


def _dropped_file(file: AcceptedFile, examination: Examination) -> DroppedGroup:
    return DroppedGroup(file.hotkey, file.content_digest, None, _reason(examination.findings), examination.findings)


def _check_context(hotkey: Hotkey, context: WindowContext, loaded: LoadedCheckpoint, environment: Environment) -> CheckContext:
    model = loaded.model
    return CheckContext(context, hotkey, environment, loaded.renderer, model.vocabulary_size, model.context_length)


def _varying(submission: Submission, tally: _Tally) -> list[int]:
    """Groups whose claimed rewards vary; check 6 holds the claims to what they are, group by group."""
    found = []
    for group in submission.groups:
        tally.offered += 1
        if varies([row.reward for row in submission.rollouts_of(group)]):
            found.append(group)
        else:
            tally.flat += 1
    return found


def _learnable(
    submission: Submission,
    candidate: Candidate,
    result: Examination,
    loaded: LoadedCheckpoint,
    context: CheckContext,
) -> RolloutGroup | DroppedGroup:
    def drop(reason: str) -> DroppedGroup:
        return DroppedGroup(candidate.hotkey, submission.content_digest, candidate.group, reason, result.findings)

    if result.reject is not None or result.evidence is None:
        return drop(_reason(result.findings))
    evidence = {rollout.rollout: rollout for rollout in result.evidence.rollouts}
    if any(rollout.grade.stability is not GradeStability.STABLE for rollout in evidence.values()):
        return drop("grading did not come to one result for every rollout")
    rollouts = list(_rollouts(submission, candidate.group, evidence, loaded, context))
    if not all(np.isfinite(rollout.behaviour).all() for rollout in rollouts):
        return drop("a log-probability is not finite")
    name = f"{ss58(candidate.hotkey)}/{context.window.window}/{candidate.group}"
    return RolloutGroup(name, tuple(rollouts))


def _rollouts(
    submission: Submission,
    group: int,
    evidence: Mapping[int, RolloutEvidence],
    loaded: LoadedCheckpoint,
    context: CheckContext,
) -> Iterator[Rollout]:
    proved = [submission.rollout_of(group, rollout) for rollout in sorted(evidence)]
    rows = [TokenSequence(tuple(row.tokens.tolist()), row.prompt_length) for row in proved]
    warped = _warped_logprobs(loaded, rows, context.policy.temperature)
    for place, (rollout, row) in enumerate(zip(sorted(evidence), rows, strict=True)):
        measured = evidence[rollout]
        yield Rollout(
            row=row,
            reward=measured.grade.reward,
            success=measured.grade.success,
            behaviour=measured.logprob if warped is None else warped[place],
        )


def _warped_logprobs(
    loaded: LoadedCheckpoint, rows: Sequence[TokenSequence], temperature: float
) -> list[npt.NDArray[np.float32]] | None:
    """Log-probabilities at the sampling temperature; None at temperature 1, where the evidence holds them already."""
    if temperature == 1:
        return None
    with torch.inference_mode(), loaded.model.lock:
        values = completion_logprobs(loaded.model.module, rows, temperature=temperature).logprob.cpu().numpy()
    ends = np.cumsum([row.completion_length for row in rows])
    return [np.asarray(part, dtype=np.float32) for part in np.split(values, ends[:-1])]


def _reason(findings: Sequence[Finding]) -> str:
    finding = first_reject(findings)
    return "" if finding is None else f"{finding.check}: {finding.detail}"
