"""The window's checkpoint as a validator needs it: what is known of the model, and who does its work.

A validator that runs has its models in a child (`model_process`); tests and tools that look at a single window may have them in
their own process (`InOneProcess`). Judging does not know which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from grail_core.model.prompts import PromptRenderer
from grail_core.proof.work import ModelFacts, ModelWork
from grail_core.protocol.manifest import CheckpointManifest
from grail_validator.compared_models import ComparedModels

if TYPE_CHECKING:
    from grail_core.checkpoints.loaded import LiveCheckpoint


@dataclass(frozen=True)
class WindowModel:
    """`work` gives who measures for the next miner: what has to be loaded again is loaded before that file's time runs."""

    renderer: PromptRenderer
    facts: ModelFacts
    work: Callable[[], ModelWork]


class Models(Protocol):
    """The checkpoints that windows are judged with, one window at a time."""

    def at(self, manifest: CheckpointManifest) -> object:
        """Bring this checkpoint to this machine, verified.

        Raises:
            CheckpointError, StorageError: as `CheckpointSource.materialise`.
        """
        ...

    def model(
        self, manifest: CheckpointManifest, earlier: Mapping[str, CheckpointManifest], compared: ComparedModels
    ) -> WindowModel:
        """The model of a window. `earlier`: checkpoints to compare with, by name. All of them were brought here before.

        Raises:
            CheckpointError, StorageError: it cannot be loaded.
            MachineFaultError: there is nothing to compute it with.
        """
        ...


class InOneProcess:
    """Models in this process: nothing ends work that takes too long, and what breaks it breaks this process."""

    def __init__(self, checkpoint: LiveCheckpoint) -> None:
        self._checkpoint = checkpoint

    def at(self, manifest: CheckpointManifest) -> object:
        return self._checkpoint.at(manifest)

    def model(
        self, manifest: CheckpointManifest, earlier: Mapping[str, CheckpointManifest], compared: ComparedModels
    ) -> WindowModel:
        from grail_core.proof.in_process import InThisProcess

        loaded = self._checkpoint.at(manifest)
        weights = {name: self._checkpoint.at(one).model.state for name, one in earlier.items()}
        work = InThisProcess(
            loaded.model, lambda: compared.alternatives(loaded.model, weights), kept_bytes=compared.states_bytes
        )
        return WindowModel(loaded.renderer, work.facts, lambda: work)
