"""From accepted files to the groups of one update: which are tried, and the trainer's own verification of each.

The order is a function of the files alone, and fair: miners take turns, each with its groups in increasing number. Groups whose
rewards do not vary teach nothing and are left out before any work is spent on them; the next ones take their place. No hotkey
gives more than its share. Every rollout of a group that is learned from passes checks 1 to 9 here, at every position, with the
checkpoint that drew it; what passed is asked for its log-probabilities under that checkpoint by the trainer's own code
(`behaviour`). What a file claims of them decides nothing but whether check 7 to 9 reject it.

One file is open at a time. Each is opened once to see what it offers, and again for those of its groups that the batch needs
then; what goes wrong with one costs what was to be learned from it and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.environment import Environment
from grail_core.errors import DiskFullError, GrailError, OutOfMemoryError
from grail_core.files.evidence import GradeStability, RolloutEvidence
from grail_core.keys import ss58
from grail_core.proof.alternatives import Alternatives
from grail_core.proof.in_process import InThisProcess
from grail_core.protocol import Finding
from grail_core.protocol.constants import COARSE_MARGIN, COARSE_MARGIN_SHARE
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Digest, Hotkey
from grail_core.telemetry import get_logger
from grail_core.verification.context import CheckContext
from grail_core.verification.examine import Examination, examine, examine_sample, first_reject
from grail_core.verification.measure import WholeGroup
from grail_core.verification.window_file import OpenFile, Submission, check_file, in_this_process
from grail_trainer.data.behaviour import BehaviourPolicy, in_float32
from grail_trainer.data.intake import WantedFile
from grail_trainer.data.turns import Candidate, fair_order, first_of, max_from_one, within_share
from grail_trainer.hyper_parameters import ComputeType, GrpoSettings
from grail_trainer.learning.advantages import varies
from grail_trainer.learning.rollouts import Rollout, RolloutGroup, TokenSequence

log = get_logger(__name__)


@dataclass(frozen=True)
class DroppedGroup:
    """A group (or a whole file, `group` None) that the validators accepted and this trainer did not."""

    hotkey: Hotkey
    content_digest: Digest
    group: int | None
    reason: str
    findings: tuple[Finding, ...] = ()
    own_fault: bool = False  # of this trainer's machine: who looks at the same bytes again may find otherwise


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


LEAST_LOST = 2
"""Positions that a rollout has to have lost clearly before it alone costs its group. Check 9 counts a short rollout only beside
others of its group, behind which a poisoned text would be hidden; a group that is dropped for nothing costs little."""

Read = Callable[[WantedFile], bytes | None]
"""The bytes of a file that was had before, None where they cannot be had again; their hash is the file's digest."""


def build_batch(
    files: Iterable[tuple[WantedFile, bytes]],
    read: Read,
    context: WindowContext,
    loaded: LoadedCheckpoint,
    environment: Environment,
    *,
    max_groups: int,
    tokens_per_pass: int = GrpoSettings().tokens_per_pass,
    compute: ComputeType = "float32",
    stopping: Callable[[], bool] = lambda: False,
    open_file: OpenFile = in_this_process,
) -> TrainingBatch:
    """Verify accepted files and collect at most `max_groups` groups that can teach something.

    Args:
        files: each once, with its bytes; one is held at a time.
        context: of the files' window. loaded: the checkpoint of that window, which drew the rollouts.
        tokens_per_pass, compute: of the passes that give behaviour log-probabilities, as of those of the update.
        stopping: asked between groups; True ends early with what there is (the caller discards it).
        open_file: opens a stranger's bytes; a role's does it in a process with limits.

    Raises:
        DiskFullError, OutOfMemoryError: the operator's to mend (no memory for behaviour log-probabilities: `data.behaviour`);
            whatever else goes wrong costs the file it happens with.
    """
    building = _Building(read, context, loaded, environment, max_groups, tokens_per_pass, compute, stopping, open_file)
    for file, data in files:
        building.look_at(file, data)
        del data
    return building.verified()


@dataclass(frozen=True)
class Excuses:
    """What a trainer says that its own machine failed at, and the groups that it learned from all the same."""

    faults: Sequence[DroppedGroup]
    named: Sequence[BatchMember]

    def fault(self, file: WantedFile, group: int | None) -> DroppedGroup | None:
        """Of this group, or of the file (None)."""
        return self._faults.get((file.hotkey, file.content_digest, group))

    @cached_property
    def _faults(self) -> dict[tuple[Hotkey, Digest, int | None], DroppedGroup]:
        return {(one.hotkey, one.content_digest, one.group): one for one in self.faults}

    def of(self, file: WantedFile, offered: Sequence[int]) -> list[int]:
        """What was verified of a file before the machine failed at it; the whole of one that it did not fail at."""
        if self.fault(file, None) is None:
            return list(offered)
        ours = {one.group for one in self.named if (one.hotkey, one.content_digest) == (file.hotkey, file.content_digest)}
        return [group for group in offered if group in ours]


def build_excused(
    files: Iterable[tuple[WantedFile, bytes]],
    read: Read,
    context: WindowContext,
    loaded: LoadedCheckpoint,
    environment: Environment,
    excuses: Excuses,
    *,
    max_groups: int,
    tokens_per_pass: int = GrpoSettings().tokens_per_pass,
    compute: ComputeType = "float32",
    open_file: OpenFile = in_this_process,
) -> TrainingBatch:
    """The batch that the rules give where a machine failed at exactly this, which is neither verified nor learned from.

    A file that it failed at as a whole was active if it had been looked at, which nobody else knows: both are tried.
    Arguments and errors: as `build_batch`.
    """
    building = _Building(read, context, loaded, environment, max_groups, tokens_per_pass, compute, lambda: False, open_file)
    building.excuses = excuses
    for file, data in files:
        building.look_at(file, data)
        del data
    batch = building.verified()
    for unknown in range(building.silent):
        if batch.members == tuple(excuses.named):
            break
        batch = building.verified(uncounted=unknown + 1)
    return batch


def verify_named(
    files: Iterable[tuple[WantedFile, bytes]],
    read: Read,
    context: WindowContext,
    loaded: LoadedCheckpoint,
    environment: Environment,
    named: Sequence[BatchMember],
    *,
    tokens_per_pass: int = GrpoSettings().tokens_per_pass,
    compute: ComputeType = "float32",
    open_file: OpenFile = in_this_process,
) -> TrainingBatch:
    """Verify exactly these groups, whatever the rules would have taken; those that pass, in the order they are named.

    Arguments and errors: as `build_batch`. A group that is named twice, or whose file is not among `files`, is left out.
    """
    building = _Building(read, context, loaded, environment, len(named), tokens_per_pass, compute, lambda: False, open_file)
    for file, data in files:
        building.look_at(file, data)
        del data
    return building.of_these(named)


class _Building:
    """A batch that is being collected: what each file offers, and what was verified of it."""

    def __init__(
        self,
        read: Read,
        context: WindowContext,
        loaded: LoadedCheckpoint,
        environment: Environment,
        max_groups: int,
        tokens_per_pass: int,
        compute: ComputeType,
        stopping: Callable[[], bool],
        open_file: OpenFile,
    ) -> None:
        self._open_file = open_file
        self._read, self._context, self._loaded, self._environment = read, context, loaded, environment
        self._tokens_per_pass, self._compute = tokens_per_pass, compute
        self._max_groups, self._stopping = max_groups, stopping
        self._files: dict[Hotkey, WantedFile] = {}  # those that passed the checks of every rollout
        self._offered: dict[Hotkey, list[int]] = {}  # their groups that vary
        self._taken: dict[Candidate, RolloutGroup] = {}
        self._failed: dict[Candidate, DroppedGroup] = {}
        self._dropped: list[DroppedGroup] = []  # whole files
        self._tally = _Tally()
        self.excuses: Excuses | None = None
        self.silent = 0  # files that are excused as a whole, and may have been active

    def look_at(self, file: WantedFile, data: bytes) -> None:
        """Checks 1 to 5 of the whole file, and what it offers."""
        with self._one_file(file):
            context = self._check_context(file.hotkey)
            examination = examine(data, context, content_digest=file.content_digest)
            submission = examination.submission
            if submission is None or examination.reject is not None:
                self._drop(file, _reason(examination.findings), examination.findings)
                return
            varying = offered = _varying(submission)
            if self.excuses is not None:
                offered = self._excused(file, varying, self.excuses)
            self._files[file.hotkey], self._offered[file.hotkey] = file, offered
            self._tally.offered += len(submission.groups)
            self._tally.flat += len(submission.groups) - len(varying)
            self._tally.rewards.append(submission.columns.reward.copy())
            self._tally.successes.append(submission.columns.success.copy())

    def _excused(self, file: WantedFile, varying: Sequence[int], excuses: Excuses) -> list[int]:
        """The groups of a file that nobody failed at; one that was failed at counts as a group that did not pass."""
        offered = excuses.of(file, varying)
        if excuses.fault(file, None) is not None and not offered:
            self.silent += 1
        for group in offered:
            fault = excuses.fault(file, group)
            if fault is not None:
                self._failed[Candidate(file.hotkey, group)] = fault
        return offered

    def verified(self, *, uncounted: int = 0) -> TrainingBatch:
        """Checks 6 to 9 of the groups that fill the batch, file by file; where one fails, of the next in turn.

        Args:
            uncounted: files that were not active, of those that passed the checks of every rollout.
        """
        active = len(self._files) - uncounted
        planned: list[Candidate] = []
        while not self._stopping():
            planned = first_of(
                fair_order(self._offered), self._failed, self._max_groups, max_from_one(self._max_groups, active)
            )
            due: dict[Hotkey, list[Candidate]] = {}
            for candidate in planned:
                if candidate not in self._taken:
                    due.setdefault(candidate.hotkey, []).append(candidate)
            if not due:
                break
            for hotkey, candidates in due.items():
                self._verify(self._files[hotkey], candidates)
        taken = [candidate for candidate in planned if candidate in self._taken]
        return self._batch(taken, within_share([candidate.hotkey for candidate in taken], active=active))

    def of_these(self, named: Sequence[BatchMember]) -> TrainingBatch:
        """Checks 6 to 9 of these groups and no other."""
        due: dict[Hotkey, list[Candidate]] = {}
        for member in dict.fromkeys(named):
            file = self._files.get(member.hotkey)
            if file is None or file.content_digest != member.content_digest:
                continue
            if member.group in self._offered[member.hotkey]:  # else there is none of this number, or none that varies
                due.setdefault(member.hotkey, []).append(Candidate(member.hotkey, member.group))
        for hotkey, candidates in due.items():
            self._verify(self._files[hotkey], candidates)
        wanted = (Candidate(member.hotkey, member.group) for member in named)
        taken = [candidate for candidate in dict.fromkeys(wanted) if candidate in self._taken]
        return self._batch(taken, list(range(len(taken))))

    def _verify(self, file: WantedFile, candidates: Sequence[Candidate]) -> None:
        """These groups of one file; what was verified of it before something goes wrong stays."""
        with self._one_file(file):
            data = self._read(file)
            if data is None:
                self._drop(file, "its bytes could not be had again", own_fault=True)
                return
            context = self._check_context(file.hotkey)
            submission = check_file(data, file.content_digest, file.hotkey, self._context, open_file=self._open_file)
            del data
            if not isinstance(submission, Submission):
                raise RuntimeError("bytes of one digest passed check 1 before and do not now")
            opened = Examination((), submission)
            work = self._work
            for candidate in candidates:
                if self._stopping():
                    return
                result = examine_sample(opened, context, WholeGroup(candidate.group, work))
                self._tally.verified += len(submission.rollouts_of(candidate.group))
                taken = _learnable(submission, candidate, result, lambda: self._behaviour, context)
                if isinstance(taken, DroppedGroup):
                    self._failed[candidate] = taken
                else:
                    self._taken[candidate] = taken

    @contextmanager
    def _one_file(self, file: WantedFile) -> Iterator[None]:
        """What goes wrong in here costs this file what is not verified of it yet."""
        try:
            yield
        except (DiskFullError, OutOfMemoryError):  # of the machine as a whole: the next file would meet it too
            raise
        except GrailError as error:  # this machine's: no memory to open it in, a device, a worker
            self._drop(file, f"this trainer could not look at it: {error.what}", own_fault=True)
        except Exception as error:
            log.exception("unforeseen with the file of %s in window %d", ss58(file.hotkey), self._context.window)
            self._drop(file, f"unforeseen in this trainer: {type(error).__name__}", own_fault=True)

    def _drop(self, file: WantedFile, reason: str, findings: tuple[Finding, ...] = (), *, own_fault: bool = False) -> None:
        self._dropped.append(DroppedGroup(file.hotkey, file.content_digest, None, reason, findings, own_fault))
        taken = {candidate.group for candidate in self._taken if candidate.hotkey == file.hotkey}
        if file.hotkey in self._offered:
            self._offered[file.hotkey] = [group for group in self._offered[file.hotkey] if group in taken]

    def _batch(self, taken: Sequence[Candidate], kept_indices: Sequence[int]) -> TrainingBatch:
        kept = [taken[index] for index in kept_indices]
        failed = sorted(self._failed, key=lambda candidate: (candidate.hotkey, candidate.group))
        tally = self._tally
        return TrainingBatch(
            groups=tuple(self._taken[candidate] for candidate in kept),
            members=tuple(BatchMember(one.hotkey, self._files[one.hotkey].content_digest, one.group) for one in kept),
            dropped=(*self._dropped, *(self._failed[candidate] for candidate in failed)),
            offered=tally.offered,
            without_variance=tally.flat,
            rollouts_verified=tally.verified,
            reward_mean=float(np.concatenate(tally.rewards).mean()) if tally.rewards else 0.0,
            success_mean=float(np.concatenate(tally.successes).mean()) if tally.successes else 0.0,
        )

    @cached_property
    def _in_float32(self) -> Alternatives:
        """Made for the first group that is looked at; a window without one costs no memory for it."""
        return in_float32(self._loaded)

    @cached_property
    def _work(self) -> InThisProcess:
        return InThisProcess(self._loaded.model, self._in_float32, kept_bytes=0)

    @cached_property
    def _behaviour(self) -> BehaviourPolicy:
        return BehaviourPolicy(self._in_float32.reference, self._tokens_per_pass, self._compute)

    def _check_context(self, hotkey: Hotkey) -> CheckContext:
        model = self._loaded.model
        return CheckContext(
            self._context,
            hotkey,
            self._environment,
            self._loaded.renderer,
            model.vocabulary_size,
            model.context_length,
            self._loaded.pinned.table,
            open_file=self._open_file,
        )


def _varying(submission: Submission) -> list[int]:
    """Groups whose claimed rewards vary; check 6 holds the claims to what they are, group by group."""
    return [group for group in submission.groups if varies([row.reward for row in submission.rollouts_of(group)])]


def _learnable(
    submission: Submission,
    candidate: Candidate,
    result: Examination,
    behaviour: Callable[[], BehaviourPolicy],
    context: CheckContext,
) -> RolloutGroup | DroppedGroup:
    def drop(reason: str, *, own_fault: bool = False) -> DroppedGroup:
        return DroppedGroup(candidate.hotkey, submission.content_digest, candidate.group, reason, result.findings, own_fault)

    if result.reject is not None or result.evidence is None:
        return drop(_reason(result.findings))
    if result.undecided is not None:
        return drop(f"this trainer could not decide: {result.undecided.detail}", own_fault=True)
    evidence = {rollout.rollout: rollout for rollout in result.evidence.rollouts}
    if any(rollout.grade.stability is not GradeStability.STABLE for rollout in evidence.values()):
        return drop("grading did not come to one result for every rollout", own_fault=True)
    for number, rollout in sorted(evidence.items()):
        lost = int((rollout.margin > COARSE_MARGIN).sum())
        if lost >= LEAST_LOST and lost > COARSE_MARGIN_SHARE * len(rollout.margin):
            return drop(f"sampling: rollout {number} is no draw of its seed: {lost} of {len(rollout.margin)} margins above 1")
    rollouts = list(_rollouts(submission, candidate.group, evidence, behaviour(), context))
    if not all(np.isfinite(rollout.behaviour).all() for rollout in rollouts):
        return drop("a log-probability is not finite")
    name = f"{ss58(candidate.hotkey)}/{context.window.window}/{candidate.group}"
    return RolloutGroup(name, tuple(rollouts))


def _rollouts(
    submission: Submission,
    group: int,
    evidence: Mapping[int, RolloutEvidence],
    behaviour: BehaviourPolicy,
    context: CheckContext,
) -> Iterator[Rollout]:
    """What is learned from: tokens of the file, everything else as measured here, at what the window's manifest says."""
    proved = [submission.rollout_of(group, rollout) for rollout in sorted(evidence)]
    rows = [TokenSequence(tuple(row.tokens.tolist()), row.prompt_length) for row in proved]
    logprobs = behaviour.logprobs(rows, context.policy.temperature)
    end_tokens = context.window.manifest.end_token_ids
    for rollout, row, drawn in zip(sorted(evidence), rows, logprobs, strict=True):
        grade = evidence[rollout].grade
        yield Rollout(
            row=row,
            reward=grade.reward,
            success=grade.success,
            behaviour=drawn,
            truncated=row.tokens[-1] not in end_tokens,
            well_formed=bool(grade.well_formed),
        )


def _reason(findings: Sequence[Finding]) -> str:
    finding = first_reject(findings)
    return "" if finding is None else f"{finding.check}: {finding.detail}"
