"""The audit of a trainer: its published logs repeated window by window, from the last state that is published or at hand.

Of a window is checked: that its log continues the one before; that the checkpoint which drew the rollouts was the one in force;
that files and groups are what the verdicts and the rules give; that every rollout of the batch passes all checks here too; that
`learn_window`, the trainer's own function, makes the stated state of the stated one; and that what was published is the cast of
that state. On a machine of equal facts the states are equal to the bit, or the log is wrong.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.loaded import LiveCheckpoint
from grail_core.checkpoints.manifests import EquivocationError
from grail_core.checkpoints.publish import publishable
from grail_core.environment import Environment
from grail_core.errors import CheckpointError, DiskFullError, GrailError, MissingObjectError, StorageError
from grail_core.model.policy_model import PolicyModel
from grail_core.participant.participant import Participant
from grail_core.participant.waiting import ChallengedWindow
from grail_core.participant.windows import open_challenge
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.policy import decimal_text
from grail_core.protocol.types import Digest, Window
from grail_core.storage.layout import anchor_key
from grail_core.telemetry import get_logger
from grail_core.verification.window_file import OpenFile, in_this_process
from grail_trainer.auditing.accepted_files import accepted_files
from grail_trainer.auditing.batch_audit import BatchSources, audited_groups
from grail_trainer.auditing.distance import CLOSE
from grail_trainer.auditing.published_logs import NoLogError, PublishedLogs
from grail_trainer.auditing.report import Outcome, WindowAudit
from grail_trainer.auditing.said_settings import said_settings
from grail_trainer.auditing.standing import Beginnings, Standing, torch_threads
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.guarded import learn_window
from grail_trainer.learning.reference import Offloaded
from grail_trainer.learning.rollouts import RolloutGroup
from grail_trainer.publishing.machine_facts import machine_facts, most_threads_here
from grail_trainer.publishing.state_anchors import AnchorGoneError
from grail_trainer.publishing.training_log import MAX_REASON, LoggedAlarm, PublishedCheckpoint, TrainingLog, figures

logger = get_logger(__name__)

Progress = Callable[[str, Window], None]
MAX_WAY: Final = 512
"""Logs that are gone back over in search of a beginning."""


class _CannotBeAuditedError(GrailError):
    """Something that is needed is not to be had; says nothing of the trainer."""


class _DiffersError(GrailError):
    """What follows from the logs alone: no window needs to be repeated to know it."""


@dataclass(frozen=True)
class _Way:
    """Windows to repeat in order, from `start` on: None: from where the audit stands."""

    logs: tuple[TrainingLog, ...]
    start: TrainingLog | Digest | None


class Auditor:
    """Audits windows in increasing order. What it holds: one state, one behaviour model, one reference."""

    def __init__(
        self,
        participant: Participant,
        environment_of: Callable[[CheckpointManifest], Environment],
        *,
        device: str = "cpu",
        open_file: OpenFile = in_this_process,
        progress: Progress = lambda stage, window: None,
    ) -> None:
        self._participant, self._environment_of, self._open_file = participant, environment_of, open_file
        self._device, self._progress = device, progress
        self.logs = PublishedLogs(
            participant.checkpoints.bucket().store,
            network_id=participant.network_id,
            trainer=participant.params.trainer_hotkey,
        )
        self._beginnings = Beginnings(participant, participant.cache_dir / "audit", device)
        self._behaviour = LiveCheckpoint(participant.checkpoints, device=device)
        self._standing: Standing | None = None
        self._broken: dict[Window, str] = {}  # windows whose state could not be repeated, and why

    def audit(self, windows: Sequence[Window]) -> Iterator[WindowAudit]:
        """Each window that is asked for, and those that have to be repeated on the way to it, in increasing order, once.

        Raises:
            DiskFullError: the operator's to mend.
        """
        done: set[Window] = set()
        for window in sorted(set(windows)):
            if window in done:
                continue
            try:
                way = self._way(window)
                if way.start is not None:
                    self._standing = self._begun(way)
            except DiskFullError:
                raise
            except (_DiffersError, EquivocationError) as error:
                yield self._given_up(window, error, Outcome.DIFFERENT)
                continue
            except GrailError as error:
                yield self._given_up(window, error, Outcome.UNAUDITABLE)
                continue
            except Exception as error:
                logger.exception("unforeseen on the way to window %d", window)
                yield self._given_up(window, _unforeseen(error), Outcome.UNAUDITABLE)
                continue
            for log in way.logs:
                if log.window not in done:
                    done.add(log.window)
                    yield self._repeated(log)
                if log.window in self._broken:
                    break
            if window not in done:
                done.add(window)
                broken = next(log.window for log in way.logs if log.window in self._broken)
                yield self._given_up(window, _after(broken), Outcome.UNAUDITABLE)

    def _given_up(self, window: Window, error: GrailError, outcome: Outcome) -> WindowAudit:
        what = f"{error.what} ({error.where})" if error.where else error.what
        self._broken.setdefault(window, what)
        return WindowAudit(window, outcome, what)

    # --- the way to a window ------------------------------------------------------------------------------------------

    def _way(self, window: Window) -> _Way:
        """Back from a window's log to where its state can be had."""
        logs = [self.logs.of(window)]
        while len(logs) <= MAX_WAY:
            log = logs[0]
            if log.begins:
                return _Way(tuple(logs), self._checked_origin(log))
            if log.previous is None:
                raise _DiffersError("its log continues a state, and names no log before it")
            before = self._previous(log)
            if self._standing is not None and self._standing.window == before.window:
                return _Way(tuple(logs), None)
            if before.anchor is not None and self._has_anchor(before):
                return _Way(tuple(logs), before)
            if before.window in self._broken:
                raise _after(before.window)
            logs.insert(0, before)
        raise _CannotBeAuditedError(f"no state to begin at in the {MAX_WAY} windows before it")

    def _checked_origin(self, log: TrainingLog) -> Digest:
        """A state is made anew of the newest checkpoint that there was, and of no other."""
        stored = self._participant.checkpoints.view().stored
        older = [item.manifest for item in stored if item.manifest.window < log.window]
        since = next((item.manifest.sequence for item in stored if item.manifest.window >= log.window), None)
        if older and since is not None and since != older[-1].sequence + 1 and older[-1].digest != log.origin:
            raise _CannotBeAuditedError("the checkpoint that its state is made of is not kept any more")
        if not older or older[-1].digest != log.origin:
            raise _DiffersError("its state is not made of the newest checkpoint before it", where=f"window {log.window}")
        if log.previous is not None:
            self._linked(log)
        return older[-1].digest

    def _linked(self, log: TrainingLog) -> TrainingLog:
        """The log that this one names as the one before it."""
        link = log.previous
        if link is None or link.window >= log.window:
            raise _DiffersError("the log before it is not of an earlier window", where=f"window {log.window}")
        try:
            before = self.logs.of(link.window)
        except NoLogError as error:
            raise _CannotBeAuditedError(f"the log of window {link.window}, which it follows, is not there") from error
        if before.digest() != link.digest:
            raise _DiffersError(f"the log of window {link.window} is not the one that it follows", where=f"window {log.window}")
        return before

    def _previous(self, log: TrainingLog) -> TrainingLog:
        """The log whose state this one continues."""
        before = self._linked(log)
        continued = (log.state_before, log.number, log.origin) == (before.state_after, before.number + 1, before.origin)
        if not continued:
            raise _DiffersError(
                f"its state is not the one that window {before.window} ended with", where=f"window {log.window}"
            )
        unnamed = next((one for one in self._checkpoints() if before.window < one.window < log.window), None)
        if unnamed is not None:
            raise _DiffersError(
                f"checkpoint {unnamed.sequence}, which no log names, came in between window {before.window} and it",
                where=f"window {log.window}",
            )
        between = self.logs.windows(Window(before.window + WINDOW_LENGTH), Window(log.window - WINDOW_LENGTH))
        if between:
            raise _DiffersError(
                f"it follows window {before.window}, and there is a log of window {between[0]}", where=f"window {log.window}"
            )
        return before

    def _checkpoints(self) -> list[CheckpointManifest]:
        return [item.manifest for item in self._participant.checkpoints.view().stored]

    def _say_origin(self, log: TrainingLog, audit: WindowAudit) -> None:
        """Where weights came in that no log accounts for."""
        origin = next((one for one in self._checkpoints() if one.digest == log.origin), None)
        if not log.begins or origin is None or origin.sequence == 0:
            return
        try:
            named = self.logs.of(origin.window).checkpoint
        except StorageError:
            named = None
        if named is None or named.digest != origin.digest:
            audit.taken.append(f"the weights of checkpoint {origin.sequence}, which it begins with: no training log names them")

    def _has_anchor(self, log: TrainingLog) -> bool:
        """Is it worth beginning there? One that is not what it should be is told of where it is used."""
        return self._beginnings.store.head(anchor_key(log.window)) is not None

    def _begun(self, way: _Way) -> Standing:
        settings = _settings_of(way.logs[0]).optimiser
        if isinstance(way.start, TrainingLog):
            self._progress("fetching the state", way.start.window)
            try:
                return self._beginnings.at_anchor(way.start, settings)
            except (AnchorGoneError, MissingObjectError) as error:
                raise _CannotBeAuditedError(error.what, where=error.where) from error
            except CheckpointError as error:
                raise _DiffersError(error.what, where=error.where) from error
        if way.start is None:
            raise ValueError("there is nothing to begin")
        return self._beginnings.at_checkpoint(way.start, settings)

    # --- one window ---------------------------------------------------------------------------------------------------

    def _repeated(self, log: TrainingLog) -> WindowAudit:
        """One window from where the audit stands; afterwards it stands behind it, or the window is broken."""
        audit, start = WindowAudit(log.window), time.perf_counter()
        standing = self._standing
        if standing is None:
            raise RuntimeError("an audit stands somewhere before a window is repeated")
        try:
            with torch_threads(min(log.machine.threads, most_threads_here())):
                audit.machine = machine_facts(self._device).differences(log.machine)
                self._say_origin(log, audit)
                groups = self._groups(log, audit)
                if groups is None:
                    self._broken[log.window] = audit.difference
                else:
                    self._learn(standing, log, groups, audit)
        except DiskFullError:
            raise
        except (GrailError, MemoryError) as error:
            what = error.what if isinstance(error, GrailError) else "this machine's memory does not suffice"
            where = f" ({error.where})" if isinstance(error, GrailError) and error.where else ""
            if isinstance(error, EquivocationError):  # signed twice: that is said of the trainer, whoever asks
                audit.outcome, audit.difference = Outcome.DIFFERENT, what + where
            elif audit.outcome is not Outcome.DIFFERENT:
                audit.outcome, audit.difference = Outcome.UNAUDITABLE, what + where
            self._broken[log.window] = what
        except Exception as error:
            logger.exception("unforeseen in the audit of window %d", log.window)
            self._broken[log.window] = _unforeseen(error).what
            if audit.outcome is not Outcome.DIFFERENT:
                audit.outcome, audit.difference = Outcome.UNAUDITABLE, self._broken[log.window]
        if log.window in self._broken:
            self._standing = None
        audit.seconds = time.perf_counter() - start
        return audit

    def _groups(self, log: TrainingLog, audit: WindowAudit) -> tuple[RolloutGroup, ...] | None:
        """The verified batch; None where it cannot be what the log says."""
        participant = self._participant
        manifest = participant.checkpoints.view().by_digest.get(log.behaviour)
        if manifest is None:
            raise _CannotBeAuditedError("the checkpoint that drew its rollouts is not kept any more")
        opened = self._opened(log.window)
        if opened.context.manifest.digest != manifest.digest:
            in_force = opened.context.manifest.sequence
            audit.differs(f"its rollouts are of checkpoint {manifest.sequence}, and checkpoint {in_force} was in force")
            return None
        policy = manifest.policy
        if (decimal_text(policy.temperature), policy.max_tokens) != (log.temperature, log.max_tokens):
            audit.differs("temperature or token limit are not those of the checkpoint that drew the rollouts")
        self._progress("reading verdicts", log.window)
        accepted = accepted_files(participant, opened, log, audit)
        self._progress("verifying rollouts", log.window)
        loaded = self._behaviour.at(manifest)
        environment = self._environment_of(manifest)
        sources = BatchSources(participant, opened.context, loaded, environment, self._open_file, _settings_of(log))
        return audited_groups(sources, accepted, log, audit)

    def _opened(self, window: Window) -> ChallengedWindow:
        participant = self._participant
        context = participant.open_window(window)
        return ChallengedWindow(context, open_challenge(participant.chain, participant.beacon, context))

    def _learn(self, standing: Standing, log: TrainingLog, groups: Sequence[RolloutGroup], audit: WindowAudit) -> None:
        """Repeat the update, and compare what comes of it."""
        self._progress("repeating the update", log.window)
        settings = _settings_of(log)
        standing.with_settings(settings.optimiser, self._device)
        if not standing.drifted and standing.digest() != log.state_before:
            audit.differs("the state before is not the one that it says")
            self._broken[log.window] = audit.difference
            return
        standing.hold()
        reference = self._reference_of(log, audit)
        try:
            learned = learn_window(
                standing.masters,
                groups,
                settings,
                window=log.window,
                temperature=float(log.temperature),
                token_limit=log.max_tokens,
                reference=reference,
            )
        except ValueError as error:  # settings that no update goes with
            audit.differs(f"no update can be made with its settings: {error}")
            self._broken[log.window] = audit.difference
            return
        standing.window = log.window
        exact = standing.digest() == log.state_after
        if exact:
            alarms = tuple(LoggedAlarm.of(alarm) for alarm in learned.alarms)
            ours = (learned.undone[:MAX_REASON], alarms, figures(dataclasses.asdict(learned.statistics)))
            if ours != (log.undone, log.alarms, dict(log.statistics)):
                audit.differs("what it says of the update is not what the update gives")
            audit.checked.append(f"the update: {learned.statistics.steps} steps, equal to the bit")
            if _root_of(standing) != log.weights_root:
                audit.differs("the weights that it names are not the cast of its state")
        elif not audit.machine and not standing.drifted:
            audit.differs("the state after is not what its batch and settings make of the state before")
            self._broken[log.window] = audit.difference
        self._published(log, audit)
        anchored = self._anchored(standing, log, audit)
        if not exact and log.window not in self._broken:
            self._judge_distance(standing, log, anchored, audit)

    def _reference_of(self, log: TrainingLog, audit: WindowAudit) -> Offloaded | None:
        """What the KL term holds on to: the first checkpoint of the network's work, loaded where the update asks for it."""
        if log.reference is None:
            return None
        participant, device = self._participant, self._device
        first = participant.checkpoints.view().beginning(log.window)
        if log.reference != first.digest:
            audit.differs("the KL term is not held against the first checkpoint of the network's work")
        return Offloaded(lambda: PolicyModel.load(participant.checkpoints.materialise(first), device=device).module)

    def _published(self, log: TrainingLog, audit: WindowAudit) -> None:
        """The checkpoint that the log names carries the weights that it names."""
        view = self._participant.checkpoints.view()
        of_window = next((item.manifest for item in view.stored if item.manifest.window == log.window), None)
        said = log.checkpoint
        if said is None:
            if of_window is not None:
                audit.differs(f"checkpoint {of_window.sequence} is of this window, and the log does not say so")
            audit.taken.append("its weights were published with a later window's")
        elif of_window is None:
            audit.taken.append("its checkpoint is not kept any more")
        elif PublishedCheckpoint.of(of_window) != said:
            audit.differs(f"checkpoint {of_window.sequence} is not the one that the log names")
        elif of_window.weights_root != log.weights_root:
            audit.differs(f"checkpoint {of_window.sequence} does not carry the weights of its state")
        else:
            audit.checked.append(f"checkpoint {of_window.sequence} carries its weights")

    def _anchored(self, standing: Standing, log: TrainingLog, audit: WindowAudit) -> dict[str, Any] | None:
        """The published state after this window, where it is one of an anchor and still there."""
        if log.anchor is None:
            return None
        try:
            tensors = self._beginnings.anchored(log, standing.masters)
        except AnchorGoneError:
            audit.taken.append("its anchor is not kept any more")
            return None
        except CheckpointError as error:
            audit.differs(f"its anchor: {error.what} ({error.where})" if error.where else f"its anchor: {error.what}")
            return None
        audit.checked.append("its anchor is the state that it names")
        return tensors

    def _judge_distance(
        self, standing: Standing, log: TrainingLog, anchored: dict[str, Any] | None, audit: WindowAudit
    ) -> None:
        """Another machine's numbers: how far apart, and whether that is still the same update."""
        audit.distance = distance = standing.apart(self._weights_of(log), anchored)
        if anchored is not None and not standing.masters.adapted and _root_of(standing) != log.weights_root:
            audit.differs("the weights that it names are not the cast of its anchor")
        if distance.relative is not None and distance.relative > CLOSE:
            audit.differs(f"{distance}; at most {CLOSE} of the way is another machine's rounding")
        elif audit.outcome is Outcome.EQUAL:
            audit.outcome = Outcome.CLOSE

    def _weights_of(self, log: TrainingLog) -> dict[str, Any] | None:
        """What readers load of this window's checkpoint, None where there is none."""
        view = self._participant.checkpoints.view()
        manifest = None if log.checkpoint is None else view.by_digest.get(log.checkpoint.digest)
        if manifest is None:
            return None
        try:
            folder = self._participant.checkpoints.materialise(manifest)
        except StorageError:
            return None
        state = PolicyModel.load(folder, dtype="bfloat16").state()
        return {name: tensor.cpu() for name, tensor in state.items()}


def _root_of(standing: Standing) -> Digest:
    """Of what is published of this state."""
    return digest_state(publishable(standing.masters.published())).root


def _settings_of(log: TrainingLog) -> HyperParameters:
    try:
        return said_settings(log.settings)
    except ValueError as error:
        raise _CannotBeAuditedError(
            f"its hyper-parameters are none of this version: {error}", hint="audit it with the version that the log names"
        ) from error


def _unforeseen(error: Exception) -> _CannotBeAuditedError:
    """What a log or an anchor does that nobody thought of costs the window that it is of, and no other's audit."""
    return _CannotBeAuditedError(f"unforeseen in this audit: {type(error).__name__}: {error}"[:MAX_REASON])


def _after(window: Window) -> _CannotBeAuditedError:
    return _CannotBeAuditedError(f"it follows window {window}, which could not be repeated")
