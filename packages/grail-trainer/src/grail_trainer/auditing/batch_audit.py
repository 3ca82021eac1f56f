"""The batch of a window, made again from the accepted files, against the one that a training log names.

`build_batch` is the trainer's own function: the same files give the same groups in the same order, with the same ones left out.
Where the trainer says that its own machine failed at something, that cannot be repeated: then exactly the named groups are
verified, and what is left open is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from grail_core.checkpoints.loaded import LoadedCheckpoint
from grail_core.environment import Environment
from grail_core.errors import StorageError
from grail_core.keys import ss58
from grail_core.participant.participant import Participant
from grail_core.protocol.context import WindowContext
from grail_core.protocol.types import Block
from grail_core.verification.window_file import OpenFile
from grail_trainer.auditing.accepted_files import AcceptedFiles
from grail_trainer.auditing.report import WindowAudit
from grail_trainer.data.batch import (
    BatchMember,
    DroppedGroup,
    Excuses,
    TrainingBatch,
    build_batch,
    build_excused,
    verify_named,
)
from grail_trainer.data.intake import WantedFile
from grail_trainer.data.wanted_files import WantedFiles
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.publishing.training_log import TrainingLog


class FileGoneError(StorageError):
    """A file that was learned from is in none of the buckets of those that accepted it."""


@dataclass(frozen=True)
class BatchSources:
    """What rollouts of a window are verified with."""

    participant: Participant
    context: WindowContext
    loaded: LoadedCheckpoint
    environment: Environment
    open_file: OpenFile
    settings: HyperParameters


def audited_groups(
    sources: BatchSources, accepted: AcceptedFiles, log: TrainingLog, audit: WindowAudit
) -> tuple[RolloutGroup, ...] | None:
    """The groups that the log names, verified and in its order; None where one of them does not pass.

    Raises:
        FileGoneError: a file cannot be had.
    """
    participant = sources.participant
    scratch = replace(participant, cache_dir=participant.cache_dir / "audit")  # a trainer's own lie beside it
    files = WantedFiles(scratch, log.window, too_late=Block(0))
    try:
        return _Batch(sources, files, accepted, log, audit).groups()
    finally:
        files.forget()


class _Batch:
    def __init__(
        self, sources: BatchSources, files: WantedFiles, accepted: AcceptedFiles, log: TrainingLog, audit: WindowAudit
    ) -> None:
        self._sources, self._files, self._accepted, self._log, self._audit = sources, files, accepted, log, audit

    def groups(self) -> tuple[RolloutGroup, ...] | None:
        log, audit = self._log, self._audit
        again = self._built(build_batch, max_groups=self._sources.settings.intake.most_groups)
        faults = [dropped for dropped in log.dropped if dropped.own_fault]
        if again.members == log.groups:
            self._compare_dropped(again.dropped)
            audit.checked.append(
                f"{len(again.members)} groups of {again.offered} offered, in their order, are what the rules give; "
                f"{again.rollouts_verified} rollouts verified"
            )
            return again.groups
        if not faults:
            audit.differs(f"the batch is not what the rules give: {_first_difference(again.members, log.groups)}")
            return self._named()
        audit.taken.append(
            f"that {len(faults)} files or groups were left out for faults of the trainer's machine, the first for: "
            f"{faults[0].reason}"
        )
        if log.dropped_total > len(log.dropped):  # not all are named
            return self._named()
        without = self._built(
            build_excused, excuses=Excuses(faults, log.groups), max_groups=self._sources.settings.intake.most_groups
        )
        if without.members != log.groups:
            audit.differs(
                "the batch is not what the rules give without what the trainer's machine failed at: "
                f"{_first_difference(without.members, log.groups)}"
            )
            return self._named()
        audit.checked.append(f"{len(without.members)} groups, in their order, are what the rules give without these")
        return without.groups

    def _named(self) -> tuple[RolloutGroup, ...] | None:
        named = self._built(verify_named, named=self._log.groups)
        if named.members == self._log.groups:
            self._audit.checked.append(f"the {len(named.members)} groups that it names pass all checks")
            return named.groups
        missing = next((member for member in self._log.groups if member not in named.members), None)
        if missing is None:
            self._audit.differs("it names a group twice")
            return None
        reasons = [one.reason for one in named.dropped if (one.hotkey, one.group) == (missing.hotkey, missing.group)]
        self._audit.differs(
            f"{_name(missing)} is learned from, and cannot be: {reasons[0] if reasons else 'no such group that varies'}"
        )
        return None

    def _built(self, build: Callable[..., TrainingBatch], **what: int | Sequence[BatchMember] | Excuses) -> TrainingBatch:
        """Raises StorageError where this machine failed at something that the trainer's did not fail at."""
        sources = self._sources
        batch = build(
            self._each(),
            self._files.read,
            sources.context,
            sources.loaded,
            sources.environment,
            tokens_per_pass=sources.settings.update.tokens_per_pass,
            compute=sources.settings.optimiser.compute,
            open_file=sources.open_file,
            **what,
        )
        told = {(one.hotkey, one.content_digest, one.group) for one in self._log.dropped if one.own_fault}
        for one in batch.dropped:
            if one.own_fault and (one.hotkey, one.content_digest, one.group) not in told:
                raise StorageError(f"this machine could not verify all of it: {one.reason}", hint="try again")
        return batch

    def _each(self) -> Iterator[tuple[WantedFile, bytes]]:
        for file in self._accepted.files:
            data = self._files.read(file)
            if data is None:
                raise FileGoneError(
                    f"the file of {ss58(file.hotkey)} is not to be had from any validator that accepted it",
                    where=file.content_digest.hex(),
                    hint="validators keep files for 48 windows",
                )
            yield file, data
            del data

    def _compare_dropped(self, again: Sequence[DroppedGroup]) -> None:
        """What is left out is named by the log, and nothing else is; faults of a machine are its own."""
        ours = {(one.hotkey, one.content_digest, one.group) for one in again if not one.own_fault}
        said = {(one.hotkey, one.content_digest, one.group) for one in self._log.dropped if not one.own_fault}
        whole = self._log.dropped_total == len(self._log.dropped)
        for hotkey, digest, group in sorted(said - ours, key=repr):
            self._audit.differs(f"it drops group {group} of {ss58(hotkey)} ({digest.hex()[:16]}…), which passes")
        if whole and (left := sorted(ours - said, key=repr)):
            hotkey, digest, group = left[0]
            self._audit.differs(f"it does not say that group {group} of {ss58(hotkey)} ({digest.hex()[:16]}…) was dropped")


def _first_difference(rules: Sequence[BatchMember], said: Sequence[BatchMember]) -> str:
    for place, (ours, theirs) in enumerate(zip_longest(rules, said)):
        if ours != theirs:
            return f"group {place} of it is {_name(theirs)}, and should be {_name(ours)}"
    raise ValueError("they do not differ")


def _name(member: BatchMember | None) -> str:
    return "none" if member is None else f"group {member.group} of {ss58(member.hotkey)}"
