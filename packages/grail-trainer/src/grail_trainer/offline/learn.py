"""Windows of an export, learned from in order: the same update as a network's trainer makes, a checkpoint folder out.

    OUT/state/            the journal and the training state of the last window
    OUT/checkpoint-N/     the weights after window N as a Transformers folder, written once, when a start ends or is stopped

What differs from a network: the trainer there verifies every rollout again and measures its log-probabilities with the
checkpoint that drew it; here the validators' word stands (`window`), and one --model is what training begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Final, Literal

from grail_core.checkpoints.delta.digests import digest_state
from grail_core.checkpoints.delta.shards import map_weights
from grail_core.checkpoints.delta.tensors import raw_state
from grail_core.checkpoints.safety import read_model_files
from grail_core.checkpoints.transfer import ImportedModel, save_imported
from grail_core.errors import AlarmStopError, CheckpointError, ProtocolViolationError
from grail_core.exported.folder import ExportFolder, Receipt
from grail_core.model.architecture import context_length
from grail_core.model.policy_model import PolicyModel
from grail_core.participant.state import only_process
from grail_core.protocol.types import Digest, Window
from grail_core.telemetry import get_logger
from grail_trainer.data.behaviour import BehaviourPolicy
from grail_trainer.hyper_parameters import HyperParameters
from grail_trainer.learning.guarded import LearnedWindow, learn_window
from grail_trainer.learning.optimiser import Masters
from grail_trainer.learning.reference import Offloaded
from grail_trainer.learning.sharded_state import read_whole
from grail_trainer.offline.state import OfflineRun, OfflineState
from grail_trainer.offline.window import chosen_groups
from grail_trainer.state import settings_changed

log = get_logger(__name__)

Behaviour = Literal["recorded", "model"]
STATE: Final = "state"


@dataclass(frozen=True)
class OfflineRequest:
    """What is asked for. `windows`: at most so many are learned from in this start."""

    source: Path
    model: Path
    out: Path
    chosen: HyperParameters
    behaviour: Behaviour = "recorded"
    windows: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class OfflineWindow:
    """One window, for whoever watches. `learned` is None where nothing was in it to learn from."""

    window: Window
    groups: int
    learned: LearnedWindow | None


@dataclass(frozen=True)
class OfflineResult:
    """`checkpoint` is the folder with the weights after `last`; None where nothing was learned, in this start or before."""

    learned: int  # windows, in this start
    in_all: int
    last: Window | None
    checkpoint: Path | None


def learn_offline(request: OfflineRequest, stop: Event, tell: Callable[[OfflineWindow], None]) -> OfflineResult:
    """Learn until the export is used up, so many windows were learned from, or `stop` is set; then write the checkpoint.

    Raises:
        ConfigurationError, ProtocolViolationError, StorageError: the export, or what an earlier start left, is none of this.
        CheckpointError: the model cannot be trained. AlarmStopError: an alarm ended the run; the state is written.
        AlreadyRunningError: another process learns into this folder.
    """
    export = ExportFolder.open(request.source)
    windows = export.windows()
    if not windows:
        raise ProtocolViolationError(
            "the export has no whole window", where=str(request.source), hint="run its `grail rollouts export` again"
        )
    if not request.model.is_dir():
        raise CheckpointError(
            "no such model folder", where=str(request.model), hint="`grail checkpoint export WINDOW DIR` writes one"
        )
    files = read_model_files(request.model)
    root = digest_state(map_weights(request.model)).root
    hint = "stop it, or learn into another folder"
    with only_process(request.out / STATE / "lock", "another process learns into this folder", hint=hint):
        state = OfflineState(request.out / STATE, OfflineRun(export.about.network_id, Digest(root), request.behaviour))
        masters = Masters.load(request.model, request.chosen.optimiser, device=request.device)
        state.resume(masters)
        changed = settings_changed(state.settings, request.chosen.to_json())
        if changed:
            told = ", ".join(f"{name}: {was} → {now}" for name, (was, now) in changed.items())
            log.event("settings_changed", window=state.last, changed=told)
        learner = _Learner(request, export, state, masters)
        done = 0
        for window in windows:
            if stop.is_set() or done == request.windows:
                break
            if state.last is None or window > state.last:
                learned = learner.learn(window)
                done += learned.learned is not None
                tell(learned)
                _heed_alarm(learned, request)
        checkpoint = None
        if state.learned and state.last is not None:
            checkpoint = request.out / f"checkpoint-{state.last}"
            if not checkpoint.exists():
                save_imported(ImportedModel(raw_state(masters.published()), files), checkpoint)
        return OfflineResult(done, state.learned, state.last, checkpoint)


class _Learner:
    def __init__(self, request: OfflineRequest, export: ExportFolder, state: OfflineState, masters: Masters) -> None:
        self._request, self._export, self._state, self._masters = request, export, state, masters
        self._reference = Offloaded(lambda: self._first().module)
        self._measured: BehaviourPolicy | None = None

    def learn(self, window: Window) -> OfflineWindow:
        """One window, into the state."""
        receipt, chosen = self._export.receipt(window), self._request.chosen
        groups = chosen_groups(
            self._export,
            receipt,
            most_groups=chosen.intake.most_groups,
            vocabulary=self._masters.module.get_input_embeddings().weight.shape[0],
            context_length=context_length(self._masters.module),
            measured=self._policy_that_drew if self._request.behaviour == "model" else None,
        )
        self._measured = None  # no second model beside the gradients
        if not groups:
            self._state.passed_over(window)
            return OfflineWindow(window, 0, None)
        learned = self._update(receipt, groups)
        self._state.learned_from(window, self._masters, chosen.to_json())
        return OfflineWindow(window, len(groups), learned)

    def _update(self, receipt: Receipt, groups: list[Any]) -> LearnedWindow:
        policy = receipt.policy
        if policy is None:
            raise RuntimeError("a receipt with rollouts has a policy")
        kept = None if self._state.file is None else partial(read_whole, self._state.file)
        return learn_window(
            self._masters,
            groups,
            self._request.chosen,
            window=receipt.window,
            temperature=policy.temperature,
            token_limit=policy.max_tokens,
            reference=self._reference,
            kept=kept,
        )

    def _policy_that_drew(self) -> BehaviourPolicy:
        if self._measured is None:
            update, optimiser = self._request.chosen.update, self._request.chosen.optimiser
            self._measured = BehaviourPolicy.of(self._first().module.float(), update.tokens_per_pass, optimiser.compute)
        return self._measured

    def _first(self) -> PolicyModel:
        return PolicyModel.load(self._request.model, device=self._request.device)


def _heed_alarm(one: OfflineWindow, request: OfflineRequest) -> None:
    stopping = [alarm for alarm in (one.learned.alarms if one.learned is not None else ()) if alarm.action == "stop"]
    if stopping:
        raise AlarmStopError(
            f"an alarm in window {one.window} ended the learning: {stopping[0].reason}; its update is taken back",
            where=str(request.out / STATE),
            hint="docs/trainer.md (Alarms) says what it is; the same command goes on with the next window",
        )
