"""The window's checkpoint as a validator needs it: what is known of the model, and who does its work.

A validator that runs has its models in a child (`model_process`); tests and tools that look at a single window may have them in
their own process (`InOneProcess`). Judging does not know which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from grail_core.chain.base import seconds_of
from grail_core.model.prompts import PromptRenderer
from grail_core.proof.work import ModelFacts, ModelWork
from grail_core.protocol.constants import WINDOW_LENGTH
from grail_core.protocol.manifest import CheckpointManifest
from grail_core.protocol.network import NetworkParameters
from grail_validator.compared_models import ComparedModels

if TYPE_CHECKING:
    from grail_core.checkpoints.loaded import LiveCheckpoint

WINDOWS_OF_WORK: Final = 4
"""So many windows' time the model work of one window may take: a verdict must be there before its rollouts are six windows
old, when nobody learns from them any more."""
LEAST_WINDOW_SECONDS: Final = 360
"""A window counts as at least so long: a development chain's pass faster than anything is computed."""


def model_seconds(params: NetworkParameters, drawn: int) -> float:
    """The share of one drawn miner in the time there is for a window's model work. What it does not use nobody else gets."""
    window = max(LEAST_WINDOW_SECONDS, seconds_of(WINDOW_LENGTH, params.block_time_ms))
    return WINDOWS_OF_WORK * window / max(1, drawn)


@dataclass(frozen=True)
class WindowModel:
    """`work` gives, for one miner's share of seconds, who measures for it; when they are over it raises MachineFaultError."""

    renderer: PromptRenderer
    facts: ModelFacts
    work: Callable[[float], ModelWork]


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
        work = InThisProcess(loaded.model, compared.alternatives(loaded.model, weights))
        return WindowModel(loaded.renderer, work.facts, lambda seconds: work)
